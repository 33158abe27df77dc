"""Test fixture: a worker of its own process on scripted hosts. ``worker_process.py HOME DATABASE TAKEOVER_S PAUSE_S
ZONE…``: each call to a host takes PAUSE_S seconds."""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path

from scripted_hosts import ScriptedHosts

from fleet.rollout.driving.worker import run_worker

home, database, takeover_s, pause_s = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
hosts = ScriptedHosts(home / "hosts")
hosts.before = lambda host, verb: time.sleep(pause_s)
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
run_worker(
    home, sys.argv[5:], lambda record, rollout: hosts.connect, database=database, takeover_s=takeover_s, stop=stop,
    say=lambda line: print(line, file=sys.stderr, flush=True),  # noqa: T201 - what a failing test shows
)  # fmt: skip
