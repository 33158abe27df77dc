"""Test fixture: a rollout on scripted hosts, driven leg by leg with a plain journal."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any

from scripted_hosts import ScriptedHosts, TestClock, prepare
from sqlalchemy import event

from fleet.record import Record, open_record
from fleet.rollout.hosts.work import Work
from fleet.rollout.machine.rollback import roll_back
from fleet.rollout.machine.slices import perform
from fleet.rollout.machine.workflow import drive
from fleet.rollout.planning.plan import Plan, load_plan


@cache
def _made_once() -> Path:
    """An empty record: making one takes longer than most of what is tested with it."""
    path = Path(tempfile.mkdtemp(prefix="record-")) / "fleet.db"
    open_record(path, create=True).close()
    atexit.register(shutil.rmtree, path.parent)
    return path


def _careless(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA synchronous = OFF")  # no power is cut here; SIGKILL is tested with the engine


class PlainJournal:
    """Does what it is told, once; remembers nothing."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.between: Any = lambda name: None

    def commit(self, name, change):
        with self.record.writing() as session:
            found = change(self.record.joined(session))
        self.between(name)
        return found

    def perform(self, name, effect):
        return effect()

    def fan(self, work, phase, wave):
        return [self.perform(phase, lambda: perform(work, phase, wave))]


class Rollout:
    """A rollout on scripted hosts, driven leg by leg."""

    def __init__(self, folder: Path, plan: Plan, script: dict[str, dict] | None = None) -> None:
        self.clock = TestClock()
        shutil.copy(_made_once(), folder / "fleet.db")
        self.record = open_record(folder / "fleet.db", now=self.clock.now)
        event.listen(self.record.engine, "connect", _careless)
        self.fleet = ScriptedHosts(folder / "hosts", script)
        self.id = prepare(self.record, plan)
        self.stop = threading.Event()
        self.asked: dict[int, list[str]] = {}
        self.commits = 0
        self.specs: Any = None  # instead of the plan's

    def ask(self, verb: str, actor: str = "ann", **arguments: Any) -> str:
        """Ask, and drive; returns the state."""
        self.record.request(self.id, verb, actor, **arguments)
        return self.go()

    def go(self, *verbs: str, hold: bool = False) -> str:
        for verb in verbs:
            self.record.request(self.id, verb, "ann")
        plan = load_plan(self.record.plan(self.record.rollout(self.id).plan_id).document)
        controller = f"test {self.id}"
        self.record.claim_rollout(self.id, controller, alive=lambda *_: False)
        hosts = self.record.definitions()
        work = Work(
            self.record, self.id, plan, hosts, self.fleet.connect, self.clock, controller, self.stop, hold,
            self.specs or plan.specs,
        )  # fmt: skip
        journal = PlainJournal(self.record)
        journal.between = self._between
        state = drive(journal, work)["state"]
        return roll_back(journal, work)["state"] if state == "ROLLING_BACK" else state

    def _between(self, _: str) -> None:
        self.commits += 1
        for verb in self.asked.get(self.commits, ()):
            self.record.request(self.id, verb, "ann")

    @property
    def view(self):
        return self.record.rollout(self.id)

    def states(self) -> dict[str, str]:
        return {s.host: s.state for s in self.record.steps(self.id)}

    def outcomes(self) -> list[str]:
        return [r.outcome or "" for r in self.record.requests(self.id)]
