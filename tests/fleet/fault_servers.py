"""The fourth world of the fault matrix: workers on a PostgreSQL, one of which dies or finds its server gone.

Hosts are scripted; the workers are processes of their own and the server is a real one, which really crashes. The first
worker is alone until it is struck; another one comes then.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fault_boundaries import Boundaries, Call
from fault_matrix import LEGS, Fault, Row, Snapshot, ask
from fault_scripted import counts
from pg_server import Server
from scripted_hosts import ScriptedHosts, plan_of, prepare

from fleet.record import open_record
from fleet.rollout.driving.controller import driver
from fleet.rollout.driving.engine import launched
from fleet.rollout.driving.worker import run_worker
from fleet.rollout.hosts.clock import SystemClock
from fleet.rollout.states import STATE_ROWS, WAITING
from inventory.host import Host

LEVEL = "servers"
WAVES = (["a"], ["b", "c"])
ZONES = ("",)  # of hosts that name none
WITHIN_S = 300.0
MARK, GO_ON, BOUNDARIES = "struck", "go-on", "boundaries"  # files of the home
_LOOK_S = 0.05

KILLED = Fault("worker-killed", "SIGKILL of a worker, and another one comes")
RESTARTED = Fault("server-restarted", "PostgreSQL crashes and is started again while a worker stands there")
FAULTS = (KILLED, RESTARTED)


class Ground:
    """A server, and a database with every table and nothing in them."""

    def __init__(self, root: Path) -> None:
        self.server = Server(root)
        self.empty = self.server.database()
        stop, log = threading.Event(), root / "engine.log"
        with open_record(self.empty, create=True) as record, contextlib.ExitStack() as stack:
            clock = SystemClock()
            stack.enter_context(launched(record, log, [], _none, clock=clock, stop=stop, takeover_s=60.0))


@contextmanager
def grounds(count: int) -> Iterator[list[Ground]]:
    """So many servers, gone afterwards."""
    with TemporaryDirectory(prefix="corollout-pg-") as folder, contextlib.ExitStack() as stack:
        Path(folder).chmod(0o755)  # PostgreSQL runs as another user
        made = []
        for number in range(count):
            root = Path(folder) / str(number)
            root.mkdir()
            made.append(Ground(root))
            stack.callback(made[-1].server.stop)
        yield made


def _none(_rollout: str) -> Any:
    raise AssertionError("there is no rollout yet")


class ServerWorld:
    """Scripted hosts, a record on a server, and workers to come and go."""

    program = "tcp-flow"

    def __init__(self, home: Path, ground: Ground) -> None:
        self.home, self.server = home, ground.server
        self.place = ground.server.database(like=ground.empty)
        self.fleet = ScriptedHosts(home / "hosts")
        self.connect = self.fleet.connect
        self.hosts: Mapping[str, Host] = {n: Host(n, connection="local") for names in WAVES for n in names}
        self._workers: list[Any] = []
        with open_record(self.place, create=True) as record:
            self.rollout = prepare(record, plan_of(*WAVES, revert_s=60.0, bake_s=0.2, canary_bake_s=0.2))
            record.request(self.rollout, "start", "ann")

    def go(self) -> str:
        if not any(worker.is_alive() for worker in self._workers):
            self._worker("none", "")
        return self._settled()

    def strike(self, row: Row) -> str:
        self._end()
        worker = self._worker(row.fault.name, row.boundary)
        mark = self.home / MARK
        self._until(lambda: mark.exists() or not worker.is_alive() or self._state() is not None)
        if not mark.exists():
            return "not met"
        if row.fault == RESTARTED:
            self.server.restart()
            (self.home / GO_ON).touch()
            return f"the same worker went on: {self._settled()}"
        worker.join(WITHIN_S)
        return f"killed by {signal.Signals(-worker.exitcode).name}"

    def boundaries(self) -> list[str]:
        """Let a worker that meets no fault do what is to be done, and return the boundaries it passed."""
        self._end()
        self._worker("none", "")
        self._settled()
        self._end()
        path = self.home / BOUNDARIES
        passed = path.read_text().splitlines()
        path.unlink()
        return passed

    def mend(self, row: Row) -> None:
        """Nothing is left to mend: a server that was away is there."""

    def snapshot(self) -> dict[str, Snapshot]:
        states = {name: self.fleet.seen(name)["state"] for name in self.hosts}
        return {n: {"programs": frozenset(["running"] if s == "running" else [])} for n, s in states.items()}

    def close(self) -> None:
        """End what still works."""
        self._end()

    def _worker(self, fault: str, boundary: str) -> Any:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["fault_servers"])
        process = context.Process(target=_work, args=(str(self.home), self.place, fault, boundary))
        process.start()
        self._workers.append(process)
        return process

    def _end(self) -> None:
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.join(60)
            if worker.exitcode is None:
                worker.kill()
        self._workers.clear()

    def _settled(self) -> str:
        """Wait until nobody drives it and nothing more is asked, and return its state."""
        self._until(lambda: self._state() is not None)
        return self._state() or ""

    def _state(self) -> str | None:
        """The state where it rests; None while it does not, or nobody can tell."""
        try:
            with open_record(self.place, read_only=True) as record:
                view, open_requests = record.rollout(self.rollout), record.requests(self.rollout, waiting=True)
        except Exception:  # the server is on its way back
            return None
        over = STATE_ROWS[view.state].ends and not view.duty and driver(view, time.time()) is None
        return view.state if not open_requests and (over or view.state in WAITING) else None

    def _until(self, done: Any) -> None:
        until = time.monotonic() + WITHIN_S
        while not done():
            assert time.monotonic() < until, f"it never came to rest: {self._said()}"
            time.sleep(_LOOK_S)

    def _said(self) -> str:
        with open_record(self.place, read_only=True) as record:
            view = record.rollout(self.rollout)
            steps = {step.host: step.state for step in record.steps(self.rollout)}
        log = (self.home / "log").read_text()[-1000:] if (self.home / "log").exists() else ""
        return f"{view.state} {view.reason} {steps} {log}"


def _work(home_path: str, place: str, fault: str, boundary: str) -> None:
    """The worker process: it meets *fault* at *boundary*, or notes the boundaries it passes."""
    home = Path(home_path)
    hosts = ScriptedHosts(home / "hosts")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    log = (home / "log").open("a")
    passed = (home / BOUNDARIES).open("a") if fault == "none" else None

    def hook(name: str, _call: Call | None) -> None:
        if passed:
            passed.write(name + "\n")
            passed.flush()
        if name == boundary and not (home / MARK).exists():
            (home / MARK).touch()
            if fault == KILLED.name:
                os.kill(os.getpid(), signal.SIGKILL)
            while not (home / GO_ON).exists():
                time.sleep(_LOOK_S)

    def say(line: str) -> None:
        log.write(line + "\n")
        log.flush()

    boundaries = Boundaries(hook)
    boundaries.watch()
    run_worker(
        home, ZONES, lambda record, rollout: boundaries.connect(hosts.connect), database=place, stop=stop, say=say
    )


@contextmanager
def server_world(ground: Ground) -> Iterator[ServerWorld]:
    """A world of its own on *ground*."""
    with TemporaryDirectory(prefix="corollout-faults-") as folder:
        world = ServerWorld(Path(folder), ground)
        try:
            yield world
        finally:
            world.close()


def passed_boundaries(ground: Ground) -> dict[str, list[str]]:
    """Leg → the boundaries that a worker passes when nothing goes wrong."""
    with server_world(ground) as world:
        found = {}
        for leg, (verbs, _) in LEGS.items():
            ask(world, *verbs)
            found[leg] = world.boundaries()
    return {leg: [name for name in names if counts(name)] for leg, names in found.items()}


def rows(passed: Mapping[str, list[str]]) -> list[Row]:
    """Both faults at every boundary of every leg."""
    return [Row(LEVEL, fault, leg, name) for fault in FAULTS for leg, names in passed.items() for name in names]
