"""Test fixture: a controller process that kills itself with SIGKILL at its Nth boundary.

Boundaries are counted as they come: the moment before each commit to either database and the moment after it, and the
moments before and after each call to a host. Usage: ``doomed_controller.py HOME ROLLOUT N [DATABASE]``, or
``HOST:VERB`` for N: right after that call. Without reaching it, prints how many boundaries there were and the final
state.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from scripted_hosts import ScriptedHosts, TestClock
from sqlalchemy import Engine, event

home, rollout_id, last = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
passed = 0
lock = threading.Lock()


def boundary(*_: object) -> None:
    global passed  # noqa: PLW0603 - a counter of this process
    with lock:
        passed += 1
        if str(passed) == last:
            os.kill(os.getpid(), signal.SIGKILL)


def called(host: str, verb: str) -> None:
    if f"{host}:{verb}" == last:
        os.kill(os.getpid(), signal.SIGKILL)
    boundary()


event.listen(Engine, "commit", boundary)  # before it is done

from fleet.rollout.driving.engine import run_rollout  # noqa: E402

hosts = ScriptedHosts(home / "hosts")
hosts.before, hosts.after = boundary, called
database = sys.argv[4] if len(sys.argv) > 4 else None
state = run_rollout(home, rollout_id, executor_factory=hosts.connect, clock=TestClock(), database=database)
sys.stdout.write(f"{passed} {state}\n")
