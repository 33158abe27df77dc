"""A controller process that meets one fault at one boundary: the table of what each fault does to it.

It runs in a process of its own (``fault_scripted``, ``fault_agents``), so that SIGKILL, SIGSTOP and a second
controller are what they are in life.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fault_boundaries import Boundaries, Call
from scripted_hosts import AT_A_HOST

from btf.fault import Fault as Told
from fleet.rollout.driving.engine import run_rollout
from fleet.rollout.execute import AgentRefused
from inventory.connect.errors import CommandTimeout, Unreachable

DAY_S = 86_400.0
LOCK_S = 2.0
FILLER = "filler"
MARK = "struck"  # a file in the home: the fault struck


class Context:
    """What a fault gets hold of: the home, the clock, and the call at whose boundary it strikes."""

    def __init__(self, home: Path, clock: Any, boundary: str, rival: Callable[[], str]) -> None:
        self.home, self.clock, self.boundary, self.rival = home, clock, boundary, rival
        self.call: Call | None = None


def _kill(context: Context) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop(context: Context) -> None:
    with AT_A_HOST:
        os.kill(os.getpid(), signal.SIGSTOP)


def _lost(context: Context) -> None:
    raise (
        Unreachable("the line is cut") if context.boundary.endswith("before") else CommandTimeout("the line went dead")
    )


def _twice(context: Context) -> None:
    assert context.call
    try:
        context.call.deliver()
    except AgentRefused as fault:  # a host may refuse what it has done already; it may not do it again
        (context.home / "refused").write_text(str(fault))


def _late(context: Context) -> None:
    """Keep the call; the world delivers it when everything is over."""
    assert context.call
    call = context.call
    (context.home / "late").write_text(json.dumps([call.verb, call.host.name, call.arguments]))


def fill(folder: Path) -> None:
    """Leave no byte free on the disk of *folder*."""
    descriptor = os.open(folder / FILLER, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for size in (1 << 20, 1 << 12, 1):
        try:
            while True:
                os.write(descriptor, b"\0" * size)
        except OSError:
            continue
    os.close(descriptor)


_HOLD = """
import sqlite3, sys, time
held = [sqlite3.connect(path, isolation_level=None, timeout=30) for path in sys.argv[2:]]
for one in held: one.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
time.sleep(float(sys.argv[1]))
"""


def hold_locks(home: Path, seconds: float) -> subprocess.Popen[bytes]:
    """Let another process hold both databases for *seconds*; returns when it does."""
    files = [str(home / name) for name in ("fleet.db", "engine.db") if (home / name).exists()]
    process = subprocess.Popen([sys.executable, "-c", _HOLD, str(seconds), *files], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


STRIKES: dict[str, Callable[[Context], Any]] = {
    "kill": _kill,
    "stop": _stop,
    "lost": _lost,
    "twice": _twice,
    "late": _late,
    "full": lambda context: fill(context.home),
    "locked": lambda context: hold_locks(context.home, LOCK_S),
    "forward": lambda context: context.clock.jump(DAY_S),
    "back": lambda context: context.clock.jump(-DAY_S),
    "rival": lambda context: (context.home / "rival").write_text(context.rival()),
}


def control(
    home: Path, rollout_id: str, connect: Any, clock: Any, fault: str, boundary: str, rival: Callable[[], str]
) -> str:
    """Run the rollout; *fault* strikes when *boundary* is passed. Returns the state, or the fault that ended it."""
    context = Context(home, clock, boundary, rival)
    log = (home / "boundaries").open("a") if fault == "none" else None

    def hook(name: str, call: Call | None) -> None:
        if log:
            log.write(name + "\n")
            log.flush()
        if name == boundary and not (home / MARK).exists():
            context.call = call
            (home / MARK).touch()
            STRIKES[fault](context)

    boundaries = Boundaries(hook)
    boundaries.watch()
    try:
        said = run_rollout(home, rollout_id, executor_factory=boundaries.connect(connect), clock=clock)
    except Told as told:
        said = str(told)
    except sqlite3.Error as error:
        said = f"{type(error).__name__}: {error}"
    return said


def wait_until_stopped(pid: int, within_s: float = 60.0) -> bool:
    """Wait until process *pid* is stopped by a signal; False when it is gone first."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state in ("T", "Z", "X"):
            return state == "T"
        time.sleep(0.01)
    return False
