"""The first world of the fault matrix: scripted hosts, a real engine and record, controllers as real processes.

Fast enough for hundreds of rows: a controller is forked from a process that has imported everything already.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fault_boundaries import REPEATS
from fault_controller import FILLER, MARK, control, wait_until_stopped
from fault_matrix import LEGS, Fault, Row, Snapshot, ask
from scripted_hosts import ScriptedHosts, TestClock, plan_of, prepare

from fleet.record import open_record
from fleet.record.errors import RecordLocked
from fleet.rollout.driving.engine import run_rollout
from fleet.rollout.execute import AgentRefused
from inventory.host import Host

WAVES = (["a"], ["b", "c"])
LEVEL = "scripted"
_DISK_MIB = 4
_BEGIN = 1_800_000_000.0
MUCH_S = 300.0  # the waits of such a rollout add up to seconds; a day's is not noticed by who runs it in no time
_APART_S = 3600.0  # between two controllers: longer than a silent one keeps its claim

# Which boundaries each fault is tried at is a word of their names.
FAULTS: tuple[tuple[Fault, str], ...] = (
    (Fault("kill", "SIGKILL of the controller"), ""),
    (Fault("stop", "SIGSTOP of the controller, another takes over and finishes, SIGCONT"), ""),
    (Fault("rival", "a second controller while the first one lives"), "act "),
    (Fault("lost", "the call does not arrive, or its answer does not", ("PAUSED", "HALTED", "ROLLBACK_INCOMPLETE")),
     "call "),
    (Fault("twice", "the call is delivered twice"), "call "),
    (Fault("late", "the call is delivered once more, after everything that came later"), "call "),
    (Fault("locked", "another process locks record and journal for two seconds"), ""),
    (Fault("full", "the controller's disk is full until a person frees it"), ""),
    (Fault("forward", "the controller's clock jumps a day forwards"), ""),
    (Fault("back", "the controller's clock jumps a day back"), ""),
)  # fmt: skip
_AFTER_ONLY = ("twice", "late")  # there is no answer yet to repeat before


class JumpingClock(TestClock):
    """A clock of a test that somebody sets."""

    __test__ = False
    ahead = 0.0
    waited = 0.0

    def jump(self, seconds: float) -> None:
        self.ahead += seconds

    def now(self) -> float:
        return super().now() + self.ahead

    def elapsed(self) -> float:
        return super().now()

    def wait(self, stop: threading.Event, seconds: float) -> None:
        self.waited += seconds
        super().wait(stop, seconds)


class ScriptedWorld:
    """Scripted hosts under one folder, which is the home, too."""

    program = "tcp-flow"

    def __init__(self, home: Path) -> None:
        self.home = home
        self.place = home / "fleet.db"
        self.fleet = ScriptedHosts(home.parent / "hosts")
        self.connect = self.fleet.connect
        self.hosts: Mapping[str, Host] = {n: Host(n, connection="local") for names in WAVES for n in names}
        self._runs = 0
        with open_record(self.place, create=True) as record:
            self.rollout = prepare(record, plan_of(*WAVES, revert_s=60.0))

    def _clock(self) -> JumpingClock:
        self._runs += 1
        return JumpingClock(_BEGIN + self._runs * _APART_S)

    def go(self) -> str:
        try:
            run_rollout(self.home, self.rollout, executor_factory=self.connect, clock=self._clock())
        finally:
            self._deliver_late()
        with open_record(self.place, read_only=True) as record:
            return record.rollout(self.rollout).state

    def strike(self, row: Row) -> str:
        process = self._controller(row.fault.name, row.boundary)
        process.start()
        assert process.pid
        said = ""
        if row.fault.name == "stop" and wait_until_stopped(process.pid):
            try:
                said = f"another took over: {self.go()}; "
            except RecordLocked as told:  # stopped inside a transaction: nobody can, and is told so
                said = f"another did not get in: {told}; "
            os.kill(process.pid, signal.SIGCONT)
        process.join(120)
        if process.exitcode is None:
            process.kill()  # else this test's own process would wait for it at its end
            raise AssertionError("the controller does not end")
        if not (self.home / MARK).exists():
            return "not met"
        if process.exitcode < 0:
            return f"{said}killed by {signal.Signals(-process.exitcode).name}"
        for name in ("rival", "refused"):
            if (self.home / name).exists():
                said += f"{name}: {(self.home / name).read_text()}; "
        words, waited = (self.home.parent / "said").read_text().rsplit(" ", 1)
        if float(waited) > MUCH_S:
            return f"{said}it waited {float(waited):.0f} s; {words}"
        return said + words

    def boundaries(self) -> list[str]:
        """Run a controller that meets no fault and return the boundaries it passed."""
        process = self._controller("none", "")
        process.start()
        process.join(120)
        path = self.home / "boundaries"
        passed = path.read_text().splitlines()
        path.unlink()
        return passed

    def _controller(self, fault: str, boundary: str) -> Any:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["fault_scripted"])
        return context.Process(
            target=_control, args=(str(self.home), self.rollout, self._clock().now(), fault, boundary)
        )

    def mend(self, row: Row) -> None:
        (self.home / FILLER).unlink(missing_ok=True)

    def _deliver_late(self) -> None:
        """What was under way all the time arrives when the rollback is over."""
        path = self.home / "late"
        with open_record(self.place, read_only=True) as record:
            if not path.exists() or record.rollout(self.rollout).state != "ROLLED_BACK":
                return
        verb, host, arguments = json.loads(path.read_text())
        path.unlink()
        with self.connect(self.hosts[host]) as executor, contextlib.suppress(AgentRefused):  # too old, as it should be
            getattr(executor, verb)(*arguments)

    def snapshot(self) -> dict[str, Snapshot]:
        """What a scripted host can have left: does it run?"""
        states = {name: self.fleet.seen(name)["state"] for name in self.hosts}
        return {n: {"programs": frozenset(["running"] if s == "running" else [])} for n, s in states.items()}


def _control(home: str, rollout: str, now: float, fault: str, boundary: str) -> None:
    """The controller process."""
    fleet = ScriptedHosts(Path(home).parent / "hosts")

    def rival() -> str:
        try:
            return str(run_apart(home, rollout, now))
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    clock = JumpingClock(now)
    said = control(Path(home), rollout, fleet.connect, clock, fault, boundary, rival)
    Path(home).with_name("said").write_text(f"{said} {clock.waited}")


def run_apart(home: str, rollout: str, now: float) -> str:
    """Run the rollout in yet another process; returns what it said."""
    code = (
        "import sys; from pathlib import Path; from fault_scripted import JumpingClock, ScriptedHosts\n"
        "from fleet.rollout.driving.engine import run_rollout\n"
        "home = Path(sys.argv[1]); hosts = ScriptedHosts(home.parent / 'hosts')\n"
        "print(run_rollout(home, sys.argv[2], executor_factory=hosts.connect, clock=JumpingClock(float(sys.argv[3]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, home, rollout, str(now)], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    return (done.stdout or done.stderr.splitlines()[-1]).strip()


@contextmanager
def scripted_world(fault: str = "") -> Iterator[ScriptedWorld]:
    """A world of its own; where the disk is to be full, its home is a small file system of its own."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="corollout-faults-", dir=shm if shm.is_dir() else None) as folder:
        home = Path(folder) / "home"
        home.mkdir()
        if fault != "full":
            yield ScriptedWorld(home)
            return
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m", "tmpfs", str(home)], check=True)
        try:
            yield ScriptedWorld(home)
        finally:
            subprocess.run(["umount", "-l", str(home)], check=True)


def passed_boundaries() -> dict[str, list[str]]:
    """Leg → the boundaries that a rollout without a fault passes, each kind as often as ``REPEATS``."""
    with scripted_world() as world:
        found = {}
        for leg, (verbs, _) in LEGS.items():
            ask(world, *verbs)
            found[leg] = world.boundaries()
    return {leg: [n for n in names if counts(n)] for leg, names in found.items()}


def counts(boundary: str) -> bool:
    """Whether this is a place of its own; calls are many of a kind while a wave bakes."""
    return not boundary.startswith("call ") or int(boundary.split("#")[1].split(maxsplit=1)[0]) <= REPEATS


def rows(passed: Mapping[str, list[str]]) -> list[Row]:
    """Every fault at every boundary it can strike at."""
    return [
        Row(LEVEL, fault, leg, name)
        for fault, word in FAULTS
        for leg, names in passed.items()
        for name in names
        if name.startswith(word) and not (fault.name in _AFTER_ONLY and name.endswith("before"))
    ]
