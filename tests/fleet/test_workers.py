"""Several workers on one real PostgreSQL: real processes, killed, stopped and cut off; hosts are scripted.

What holds after each: the rollout is over, each host has the effect once, and the audit has each host's step once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pg_server import Server
from scripted_hosts import ScriptedHosts, plan_of
from sqlalchemy import text

from fleet.record import Record, open_record
from fleet.record.errors import ClaimRefused, SliceTaken
from fleet.record.rollout_views import StepOutcome
from fleet.rollout.driving.engine import launched, run_rollout
from fleet.rollout.execute.budget import Budget
from fleet.rollout.hosts.clock import SystemClock
from fleet.rollout.machine.slices import merged
from inventory.host import Host

WORKER = Path(__file__).parent / "worker_process.py"
ZONES = ("east", "west")
ROLLOUT = "tcp-flow-1"
WAVES = (["e0", "w0"], [f"{z}{n}" for z in "ew" for n in range(1, 7)])


class Fleet:
    """A record on a server, a rollout over two zones, and workers to start and to hurt."""

    def __init__(self, home: Path, database: str) -> None:
        self.home, self.database = home, database
        self.hosts = ScriptedHosts(home / "hosts")
        self.processes: list[subprocess.Popen[str]] = []
        self.record = open_record(database, create=True)
        plan = plan_of(*WAVES, bake_s=0.5, canary_bake_s=0.5, parallel=2)
        names = [h.host for h in plan.hosts]
        self.record.import_hosts(
            [Host(n, connection="local", labels={"zone": "east" if n[0] == "e" else "west"}) for n in names], "test"
        )
        self.record.save_plan(plan)
        assert self.record.create_rollout(plan.id, "ann") == ROLLOUT

    def worker(self, *zones: str, takeover_s: float = 30.0, pause_s: float = 0.15) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": f"{WORKER.parents[2]}:{WORKER.parent}"}
        command = [sys.executable, str(WORKER), str(self.home), self.database, str(takeover_s), str(pause_s), *zones]
        with (self.home / f"worker-{len(self.processes)}.log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, text=True, env=environment)
        self.processes.append(process)
        return process

    def pids(self) -> dict[int, str]:
        """Which zones each live worker serves, by process."""
        return {int(w.id.split("/")[3]): ",".join(w.zones) for w in self.record.workers()}

    def start(self) -> None:
        self.record.request(ROLLOUT, "start", "ann")

    def until(self, done, seconds: float = 300.0) -> None:
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, self.logs()
            time.sleep(0.05)

    def logs(self) -> str:
        view = self.record.rollout(ROLLOUT)
        steps = {s.host: s.state for s in self.record.steps(ROLLOUT)}
        texts = [path.read_text()[-2000:] for path in sorted(self.home.glob("*.log"))]
        return "\n---\n".join([f"{view.state} {view.reason} wave {view.wave}", str(steps), *texts])

    def applying(self, zone: str = "") -> bool:
        """Whether the second wave is being applied, somewhere in the middle."""
        states = [s.state for s in self.record.steps(ROLLOUT, wave=1) if s.host.startswith(zone)]
        return "applying" in states and "verified" in states and "checked" in states

    def holder(self, zone: str) -> int:
        """The process that carries the zone's slice now."""
        with self.record.reading() as session:
            owner = session.execute(
                text("SELECT owner FROM slice WHERE zone = :zone AND owner IS NOT NULL"), {"zone": zone}
            ).scalar_one()
        return int(owner.split("/")[3])

    def leader(self) -> int:
        return int(self.record.rollout(ROLLOUT).controller.split("/")[3])

    def over(self) -> bool:
        return self.record.rollout(ROLLOUT).state == "COMPLETED" and self.record.rollout(ROLLOUT).controller is None

    def check(self) -> None:
        assert {s.state for s in self.record.steps(ROLLOUT)} == {"healthy"}, self.logs()
        events = self.record.events(limit=100_000)
        for step in self.record.steps(ROLLOUT):
            seen = self.hosts.seen(step.host)
            assert (seen["applied"], seen["token"]) == (1, step.token), f"{step.host}: {seen}"
            mine = [e for e in events if e.host == step.host]
            assert len([e for e in mine if e.verb == "apply"]) == 1, mine
            assert len([e for e in mine if e.after == "attached"]) == 1, mine
            assert len([e for e in mine if e.after == "verified"]) == 1, mine

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.record.close()


@pytest.fixture(scope="module")
def empty(postgres: Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with every table and nothing in them: making those is most of what a short test would do."""
    place, stop = postgres.database(), threading.Event()
    log = tmp_path_factory.mktemp("engine") / "log"
    with open_record(place, create=True) as record:
        with launched(record, log, [], lambda _: pytest.fail, clock=SystemClock(), stop=stop, takeover_s=60.0):
            pass
        assert record.workers() == []
    return place


@pytest.fixture
def fleet(tmp_path: Path, postgres: Server, empty: str) -> Iterator[Fleet]:
    made = Fleet(tmp_path, postgres.database(like=empty))
    try:
        yield made
    finally:
        made.close()


def test_each_zone_s_hosts_are_carried_by_a_worker_of_that_zone(fleet: Fleet) -> None:
    east, west = fleet.worker("east"), fleet.worker("west")
    fleet.start()
    fleet.until(fleet.over)
    fleet.check()
    takers = {(e.actor, e.verb) for e in fleet.record.events(limit=100_000) if e.verb == "takeover"}
    assert takers == set()  # nobody was taken for dead
    with fleet.record.reading() as session:
        zones = session.execute(text("SELECT DISTINCT zone FROM slice")).scalars().all()
    assert sorted(zones) == ["east", "west"]
    for process in (east, west):
        process.terminate()
        assert process.wait(30) == 0
    assert fleet.record.workers() == []


def test_a_worker_killed_in_the_middle_of_a_wave(fleet: Fleet) -> None:
    for zone in ("east", "west", "east", "west"):
        fleet.worker(zone)
    fleet.start()
    fleet.until(lambda: fleet.applying("e"))
    os.kill(fleet.holder("east"), signal.SIGKILL)
    fleet.until(fleet.over)
    fleet.check()
    assert [e.verb for e in fleet.record.events(limit=100_000)].count("takeover") == 1


def test_the_leader_killed_in_the_middle_of_a_wave(fleet: Fleet) -> None:
    for _ in range(2):
        fleet.worker("east", "west")
    fleet.start()
    fleet.until(fleet.applying)
    os.kill(fleet.leader(), signal.SIGKILL)
    fleet.until(fleet.over)
    fleet.check()


def test_a_worker_that_was_only_stopped_acts_no_more_when_it_comes_back(fleet: Fleet) -> None:
    """False failover: the other takes over, then the first goes on, in the middle of what it was doing."""
    for _ in range(2):
        fleet.worker("east", "west", takeover_s=4.0)
    fleet.start()
    fleet.until(lambda: fleet.applying("e"))
    stopped = fleet.holder("east")
    os.kill(stopped, signal.SIGSTOP)
    try:
        fleet.until(lambda: any(e.verb == "takeover" for e in fleet.record.events(limit=100_000)))
        fleet.until(lambda: fleet.holder("east") != stopped if _held(fleet.record, "east") else False)
    finally:
        os.kill(stopped, signal.SIGCONT)
    fleet.until(fleet.over)
    fleet.check()
    process = next(p for p in fleet.processes if p.pid == stopped)
    fleet.until(lambda: "taken for dead" in fleet.logs())  # and it works again, under another name
    assert process.poll() is None
    fleet.until(lambda: stopped in fleet.pids())


def _held(record: Record, zone: str) -> bool:
    with record.reading() as session:
        return bool(
            session.execute(
                text("SELECT count(*) FROM slice WHERE zone = :zone AND owner IS NOT NULL"), {"zone": zone}
            ).scalar_one()
        )


def test_the_server_crashes_in_the_middle_of_a_wave(fleet: Fleet, postgres: Server) -> None:
    fleet.worker("east"), fleet.worker("west")
    fleet.start()
    fleet.until(fleet.applying)
    postgres.restart()
    fleet.until(fleet.over)
    fleet.check()


def test_two_that_would_lead_at_once(fleet: Fleet) -> None:
    fleet.worker("east", "west", pause_s=0.3)
    fleet.start()
    fleet.until(fleet.applying)
    with pytest.raises(ClaimRefused):
        run_rollout(fleet.home, ROLLOUT, executor_factory=fleet.hosts.connect, database=fleet.database)
    fleet.until(fleet.over)
    fleet.check()


def test_one_that_drives_itself_leaves_to_workers_what_they_serve(fleet: Fleet) -> None:
    fleet.worker("east")
    fleet.until(lambda: len(fleet.record.workers()) == 1)
    touched: list[str] = []
    fleet.hosts.before = lambda host, verb: touched.append(host)
    state = run_rollout(fleet.home, ROLLOUT, executor_factory=fleet.hosts.connect, database=fleet.database)
    assert state == "COMPLETED"
    fleet.check()
    assert touched
    assert {host[0] for host in touched} == {"w"}


def test_a_zone_without_a_worker_is_told_of_and_waited_for(fleet: Fleet) -> None:
    fleet.worker("east")
    fleet.start()
    fleet.until(lambda: any(e.verb == "wait" for e in fleet.record.events(limit=100_000)))
    assert "'west'" in next(e.detail for e in fleet.record.events(limit=100_000) if e.verb == "wait")
    asked = fleet.record.request(ROLLOUT, "pause", "ann")  # a request does not wait for a worker to come
    fleet.until(lambda: fleet.record.rollout(ROLLOUT).state == "PAUSED")
    assert next(r for r in fleet.record.requests(ROLLOUT) if r.id == asked).outcome == "paused"
    fleet.record.request(ROLLOUT, "resume", "ann")
    fleet.worker("west")
    fleet.until(fleet.over)
    fleet.check()


# In the small: rights to a slice


def test_who_lost_a_slice_writes_nothing_more_about_its_hosts(fleet: Fleet) -> None:
    record = fleet.record
    record.claim_rollout(ROLLOUT, "leader", alive=lambda *_: False)
    record.join_workers("one", ["east"])
    first = record.take_slice("s", ROLLOUT, 0, "apply", "east", "one")
    assert record.begin_step(ROLLOUT, "e0", claim=first)
    assert not record.fence_worker("one", "two", alive=lambda *_: True)
    assert record.fence_worker("one", "two", alive=lambda *_: False)
    assert not record.beat_worker("one")
    for write in (
        lambda: record.begin_step(ROLLOUT, "w0", claim=first),
        lambda: record.finish_steps(ROLLOUT, [StepOutcome("e0", "attached")], claim=first),
    ):
        with pytest.raises(SliceTaken):
            write()
    assert record.step(ROLLOUT, "e0").state == "applying"
    second = record.take_slice("s", ROLLOUT, 0, "apply", "east", "two")
    assert second.epoch > first.epoch
    record.finish_steps(ROLLOUT, [StepOutcome("e0", "attached")], claim=second)
    assert not record.holds(replace(second, worker="one"))
    record.give_back(first)  # what is not its own it cannot give
    assert record.holds(second)
    record.bury_worker("one")
    assert record.workers() == []


def test_slices_are_recalled_by_the_leader_alone(fleet: Fleet) -> None:
    record = fleet.record
    record.claim_rollout(ROLLOUT, "leader", alive=lambda *_: False)
    claim = record.take_slice("s", ROLLOUT, 0, "apply", "east", "one")
    with pytest.raises(ClaimRefused):
        record.recall_slices(ROLLOUT, controller="another")
    assert record.holds(claim)
    assert record.recall_slices(ROLLOUT, controller="leader") == ["s"]
    assert not record.holds(claim)


@pytest.mark.parametrize(
    ("outcomes", "whole"),
    [
        ([{"hosts": 3, "cut": ""}], {"hosts": 3, "cut": ""}),
        ([{"hosts": 3, "cut": ""}, {"hosts": 2, "cut": ""}], {"hosts": 5, "cut": ""}),
        ([{"hosts": 3, "cut": "failures"}, {"hosts": 2, "cut": ""}], {"hosts": 5, "cut": "failures"}),
        ([{"hosts": 3, "cut": "failures"}, {"cut": "stopped"}], {"hosts": 3, "cut": "stopped"}),
        (
            [{"over": True, "canaries": []}, {"over": True, "canaries": []}],
            {"hosts": 0, "over": True, "canaries": [], "cut": ""},
        ),
        (
            [{"over": True, "canaries": []}, {"cut": "stopped"}],
            {"hosts": 0, "over": False, "canaries": [], "cut": "stopped"},
        ),
        (
            [{"over": True, "canaries": ["b"]}, {"cut": "stopped"}, {"over": True, "canaries": ["a"]}],
            {"hosts": 0, "over": False, "canaries": ["a", "b"], "cut": ""},
        ),
    ],
)
def test_what_zones_amount_to(outcomes: list[dict], whole: dict) -> None:
    assert merged(outcomes) == whole


def test_budgets_bound_what_goes_through_a_jump_host() -> None:
    inside = [Host(f"h{n}", jump="inner" if n % 2 else "bastion", labels={"zone": "z"}) for n in range(40)]
    hosts = {h.name: h for h in [Host("bastion"), Host("inner", jump="bastion"), *inside]}
    now, most, lock = 0, 0, threading.Lock()

    class Way:
        def __enter__(self) -> object:
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.01)
            return self

        def __exit__(self, *_: object) -> None:
            nonlocal now
            with lock:
                now -= 1

    connect = Budget(per_jump=3, per_zone=100).within(lambda host, *, fresh=False: Way(), hosts)

    def use(name: str) -> None:
        with connect(hosts[name]):
            pass

    threads = [threading.Thread(target=use, args=(f"h{n}",)) for n in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (now, most) == (0, 3)
