"""The engine's promises, on the real DBOS and real processes: resume after SIGKILL anywhere, one controller, quiet."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from pg_server import Server
from scripted_hosts import ScriptedHosts, TestClock, plan_of, prepare

from fleet.record import open_record
from fleet.record.errors import ClaimRefused
from fleet.rollout.driving import controller, engine, legs
from fleet.rollout.driving.engine import ProtocolDiffers, exit_of, run_rollout

DOOMED = Path(__file__).parent / "doomed_controller.py"
WAVES = (["a"], ["b", "c"])


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with open_record(tmp_path / "fleet.db", create=True) as record:
        prepare(record, plan_of(*WAVES))
    return tmp_path


@pytest.fixture
def server_home(tmp_path: Path, postgres: Server) -> Path:
    (tmp_path / "database").write_text(postgres.database())
    with open_record(place_of(tmp_path), create=True) as record:
        prepare(record, plan_of(*WAVES))
    return tmp_path


ROLLOUT = "tcp-flow-1"


def place_of(home: Path) -> Path | str:
    named = home / "database"
    return named.read_text() if named.exists() else home / "fleet.db"


def go(home: Path, **options) -> str:
    hosts = options.pop("hosts", None) or ScriptedHosts(home / "hosts")
    return run_rollout(
        home, ROLLOUT, executor_factory=hosts.connect, clock=TestClock(), database=place_of(home), **options
    )


def doomed(home: Path, boundary: int | str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{DOOMED.parents[2]}:{DOOMED.parent}"}
    command = [sys.executable, str(DOOMED), str(home), ROLLOUT, str(boundary), str(place_of(home))]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


def audited(home: Path) -> list[tuple[str, str | None, str | None]]:
    with open_record(home / "fleet.db", read_only=True) as record:
        return [(e.verb, e.host, e.after) for e in record.events(limit=100_000)]


def test_a_rollout_to_its_end_is_quiet_and_told(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told = []
    assert go(home, on_event=told.append) == "COMPLETED"
    assert exit_of("COMPLETED") == 0
    assert sorted(e.host for e in told if e.after == "verified") == ["a", "b", "c"]  # within a wave, side by side
    assert [e.id for e in told] == sorted(e.id for e in told)
    out, err = capfd.readouterr()
    assert out == err == ""


def test_decision_audit_and_journal_are_rows_of_one_file(home: Path) -> None:
    go(home)
    with sqlite3.connect(home / "engine.db") as db:
        legs = db.execute("SELECT workflow_uuid, status, serialization FROM workflow_status").fetchall()
        inputs = [row[0] for row in db.execute("SELECT inputs FROM workflow_input")]
        outputs = db.execute("SELECT output FROM operation_outputs").fetchall()
    db.close()
    assert {leg[1:] for leg in legs} == {("SUCCESS", "portable_json")}
    assert legs[0][0] == f"{ROLLOUT}/1"
    arguments = [json.loads(i)["positionalArgs"] for i in inputs]
    assert arguments[0] == [ROLLOUT]  # ids only
    slices = [(wave, phase, "") for wave in (0, 1) for phase in ("probe", "stage", "check", "apply", "bake")]
    assert arguments[1:] == [[ROLLOUT, *s] for s in slices]
    assert all(isinstance(json.loads(row[0]), dict) for row in outputs if row[0])


def test_a_decision_that_did_not_commit_left_no_journal(home: Path) -> None:
    """Torn in the middle of its transaction, a decision has neither state, audit nor journal."""
    killed = doomed(home, 40)
    assert killed.returncode == -signal.SIGKILL
    with sqlite3.connect(home / "fleet.db") as db:
        journalled = db.execute("SELECT count(*) FROM datasource_outputs WHERE output LIKE '%BAKING%'").fetchone()[0]
        baking = db.execute("SELECT count(*) FROM audit WHERE after = 'BAKING'").fetchone()[0]
    db.close()
    assert (journalled > 0) == (baking > 0)


# SIGKILL. One run counts the boundaries; then points all over them, wave 1 included.


def check_finished(home: Path) -> None:
    hosts = ScriptedHosts(home / "hosts")
    with open_record(place_of(home), read_only=True) as record:
        assert record.rollout(ROLLOUT).state == "COMPLETED"
        assert record.rollout(ROLLOUT).controller is None
        steps = record.steps(ROLLOUT)
        assert {s.host: s.state for s in steps} == dict.fromkeys("abc", "healthy")
        for step in steps:
            seen = hosts.seen(step.host)
            assert seen["applied"] == 1, f"{step.host} was really applied {seen['applied']} times"
            assert seen["token"] == step.token
            mine = [e for e in record.events(limit=100_000) if e.host == step.host]
            # The audit shows it: one order, one token; a repetition says that it is one.
            assert len([e for e in mine if e.verb == "apply"]) == 1
            assert {e.token for e in mine if e.verb.startswith("apply")} == {step.token}
            assert len([e for e in mine if e.after == "attached"]) == 1


def test_killed_in_the_middle_of_wave_1_it_goes_on_and_applies_nobody_twice(home: Path) -> None:
    """Found by looking, not by counting: right after a host of wave 1 was applied, before that is noted."""
    killed = doomed(home, "b:apply")
    assert killed.returncode == -signal.SIGKILL
    with open_record(home / "fleet.db", read_only=True) as record:
        view = record.rollout(ROLLOUT)
        assert view.controller is not None  # the dead one's claim is still there, and nobody is taken in by it
        assert controller.driver(view, time.time()) is None
        assert record.step(ROLLOUT, "b").state == "applying"  # on disk: intent and token; unknown: the outcome
        assert record.step(ROLLOUT, "a").state == "healthy"
    assert ScriptedHosts(home / "hosts").seen("b")["applied"] == 1
    assert go(home) == "COMPLETED"
    check_finished(home)
    assert ("apply-again", "b", "applying") in audited(home)


def _points() -> list[int]:
    """Every boundary with COROLLOUT_EVERY_BOUNDARY set, else a dozen spread over them."""
    every = range(1, 420)
    return list(every) if os.environ.get("COROLLOUT_EVERY_BOUNDARY") else list(every[7:400:33])


@pytest.mark.parametrize("boundary", _points())
def test_killed_anywhere_it_finishes_and_applies_nobody_twice(home: Path, boundary: int) -> None:
    first = doomed(home, boundary)
    if first.returncode == 0:  # this boundary lies beyond the end
        assert first.stdout.split()[1] == "COMPLETED"
    else:
        assert first.returncode == -signal.SIGKILL, first.stderr
        assert go(home) == "COMPLETED"
    check_finished(home)


def _server_points() -> list[int]:
    return list(range(1, 240)) if os.environ.get("COROLLOUT_EVERY_BOUNDARY") else [90, 170]


@pytest.mark.parametrize("boundary", _server_points())
def test_killed_anywhere_on_a_server_it_finishes_and_applies_nobody_twice(server_home: Path, boundary: int) -> None:
    first = doomed(server_home, boundary)
    if first.returncode == 0:
        assert first.stdout.split()[1] == "COMPLETED"
    else:
        assert first.returncode == -signal.SIGKILL, first.stderr
        assert go(server_home) == "COMPLETED"
    check_finished(server_home)


def test_killed_twice_in_a_row(home: Path) -> None:
    assert doomed(home, 60).returncode == -signal.SIGKILL
    assert doomed(home, 40).returncode == -signal.SIGKILL
    assert go(home) == "COMPLETED"
    check_finished(home)


def test_killed_while_rolling_back(home: Path) -> None:
    go(home)
    with open_record(home / "fleet.db") as record:
        record.request(ROLLOUT, "rollback", "ann")
    assert doomed(home, 50).returncode == -signal.SIGKILL
    assert go(home) == "ROLLED_BACK"
    hosts = ScriptedHosts(home / "hosts")
    assert {hosts.seen(h)["state"] for h in "abc"} == {"stopped"}
    with open_record(home / "fleet.db", read_only=True) as record:
        assert record.assignments() == []
        for host in "abc":
            verbs = [e.verb for e in record.events(limit=100_000, host=host)]
            assert verbs.count("revert") == 1


# One controller, versions, interruption


def test_a_second_controller_is_refused_while_the_first_lives(home: Path) -> None:
    hosts = ScriptedHosts(home / "hosts")
    inside, go_on = threading.Event(), threading.Event()

    def wait(host: str, verb: str) -> None:
        inside.set()
        go_on.wait(30)

    hosts.before = wait
    first = threading.Thread(target=go, args=(home,), kwargs={"hosts": hosts})
    first.start()
    try:
        assert inside.wait(30)
        other = doomed(home, 0)  # a process of its own
        assert other.returncode == 1
        assert "COR-REC-011" in other.stderr
        with pytest.raises(ClaimRefused):
            go(home)
    finally:
        go_on.set()
        first.join()
    check_finished(home)


def test_a_controller_is_alive_as_long_as_its_process() -> None:
    ours = controller.new_id()
    parts = ours.split("/")
    assert controller.alive(ours, 0.0)
    assert not controller.alive(ours, controller.SILENT_S + 1)  # stopped, not dead: its claim runs out
    assert not controller.alive("/".join([*parts[:4], "1", parts[5]]), 0.0)  # the pid went to another process
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert not controller.alive("/".join([*parts[:3], str(gone.pid), *parts[4:]]), 0.0)
    elsewhere = "/".join([parts[0], "otherboot", *parts[2:]])
    assert controller.alive(elsewhere, 1.0)  # cannot be seen from here: believed until it is silent
    assert not controller.alive(elsewhere, controller.SILENT_S + 1)


def test_an_interruption_ends_between_hosts_and_is_gone_on_from(home: Path) -> None:
    stop = threading.Event()
    hosts = ScriptedHosts(home / "hosts")
    hosts.after = lambda host, verb: stop.set() if host == "b" else None
    state = go(home, hosts=hosts, stop=stop)
    assert exit_of(state) == 130
    assert go(home) == "COMPLETED"
    check_finished(home)


def test_a_leg_of_another_protocol_is_not_resumed_by_surprise(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doomed(home, 70).returncode == -signal.SIGKILL
    monkeypatch.setattr(legs, "PROTOCOL", "0")
    with pytest.raises(ProtocolDiffers):
        go(home)
    assert go(home, adopt=True) == "COMPLETED"
    check_finished(home)


def test_a_lost_journal_costs_nothing_but_the_journal(home: Path) -> None:
    """The record is the truth: without the engine's file the rollout goes on from its steps."""
    assert doomed(home, 90).returncode == -signal.SIGKILL
    for path in home.glob("engine.db*"):
        path.unlink()
    assert go(home) == "COMPLETED"
    check_finished(home)


def test_a_fault_of_the_record_stops_the_run_and_is_told_as_itself(home: Path) -> None:
    hosts = ScriptedHosts(home / "hosts")

    def take_over(host: str, verb: str) -> None:
        if verb == "check":
            with open_record(home / "fleet.db") as record:
                record.claim_rollout(ROLLOUT, "another", alive=lambda *_: False)

    hosts.before = take_over
    with pytest.raises(ClaimRefused):
        go(home, hosts=hosts)
    with open_record(home / "fleet.db") as record:
        record.release_rollout(ROLLOUT, "another")
    assert go(home) == "COMPLETED"
    check_finished(home)


def test_a_record_that_is_locked_for_a_while_is_waited_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than any one write waits: what was begun is tried again, and done once."""
    monkeypatch.setattr(engine, "open_record", partial(open_record, busy_s=0.1))
    hosts = ScriptedHosts(home / "hosts")
    holder = sqlite3.connect(home / "fleet.db", isolation_level=None, check_same_thread=False)
    free = threading.Timer(2.0, lambda: holder.execute("ROLLBACK"))

    def lock(host: str, verb: str) -> None:
        if (host, verb) == ("b", "apply"):
            holder.execute("BEGIN IMMEDIATE")
            free.start()

    hosts.after = lock
    state = run_rollout(home, ROLLOUT, executor_factory=hosts.connect)
    free.join()
    holder.close()
    assert state == "COMPLETED"
    check_finished(home)
    assert ("apply-again", "b", "applying") in audited(home)  # the lost attempt left a trace, and no second effect
