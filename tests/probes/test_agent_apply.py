"""Apply, status and remove with a real fallback child: no kernel program is needed for any of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_host import ADAPTER, FALLBACK, AgentHost, wait_for

from probes.agent import process


@pytest.fixture
def host(tmp_path: Path) -> Iterator[AgentHost]:
    made = AgentHost(tmp_path)
    made.stage(FALLBACK.encode())
    yield made
    made.run("remove", "--program", "sample-trace", "--token", str(2**40))
    assert made.close() == []


def test_never_applied_is_an_empty_status(tmp_path: Path) -> None:
    host = AgentHost(tmp_path)
    status, answer = host.run("status")
    assert (status, answer["programs"], answer["schema"]) == (0, [], "corollout.status/1")
    assert answer["boot_id"] and answer["kernel"]["release"] == os.uname().release
    assert host.row() is None


def test_apply_runs_reports_and_removes(host: AgentHost) -> None:
    answer = host.applied(host.spec(), 7)
    assert (answer["already"], answer["applied"], answer["state"]) == (False, 1, "running")
    assert host.marks() == ["corollout_sample-trace_1"]
    row = host.when(lambda row: row["sample"])
    assert (row["state"], row["reason"], row["token"], row["applied"], row["variant"]) == (
        "running",
        None,
        7,
        1,
        "fallback",
    )
    assert row["observed"]["alive"] and row["observed"]["hooks"] == ["file:corollout:sample-trace:1"]
    sample = row["sample"]
    assert sample["records"] > 0 and sample["memory_bytes"] > 1_000_000 and sample["kernel_percent"] is None
    assert sample["cpu_percent"] == sample["user_percent"] > 0
    assert row["watchdog"] == {"state": "ok", "strikes": 0, "last": None}
    assert row["lease"]["expires"] > sample["at"] and row["counters"][0]["rule_id"] == 1

    status, answer = host.run("remove", "--program", "sample-trace", "--token", "8")
    assert (status, answer["already"]) == (0, False)
    assert host.marks() == []
    row = host.row()
    assert (row["state"], row["token"], row["applied"], row["observed"]["alive"]) == ("stopped", 8, 1, False)


def test_the_same_apply_twice_attaches_once(host: AgentHost) -> None:
    host.applied(host.spec(), 7)
    first = host.holder()
    again = host.applied(host.spec(), 7)
    assert (again["already"], again["applied"]) == (True, 1)
    assert host.holder() == first and host.row()["applied"] == 1


def test_an_older_token_is_refused_and_changes_nothing(host: AgentHost) -> None:
    host.applied(host.spec(), 7)
    before = host.document("state.json")
    for status, answer in (
        host.apply(host.spec(generation=2), 6),
        host.run("remove", "--program", "sample-trace", "--token", "6"),
    ):
        assert (status, answer["ok"], answer["code"], answer["token"]) == (3, False, "COR-AGT-003", 7)
    assert host.document("state.json") == before


def test_the_tombstone_keeps_the_token(host: AgentHost) -> None:
    assert host.run("remove", "--program", "sample-trace", "--token", "9")[0] == 0
    status, answer = host.apply(host.spec(), 8)
    assert (status, answer["code"]) == (3, "COR-AGT-003")
    assert host.row()["state"] == "stopped" and host.marks() == []


def test_remove_is_idempotent(host: AgentHost) -> None:
    host.applied(host.spec(), 7)
    assert [host.run("remove", "--program", "sample-trace", "--token", "7")[1]["already"] for _ in range(2)] == [
        False,
        True,
    ]


def test_a_new_generation_replaces_the_old_one(host: AgentHost) -> None:
    host.applied(host.spec(), 7)
    old = host.holder()
    answer = host.applied(host.spec(generation=2), 8)
    assert (answer["already"], answer["applied"], answer["generation"]) == (False, 2, 2)
    assert not process.alive(old) and process.alive(host.holder())
    assert host.marks() == ["corollout_sample-trace_2"]


def test_records_are_numbered_normalised_and_paged(host: AgentHost) -> None:
    adapter = host.stage(ADAPTER.encode())
    spec = host.spec()
    spec["files"]["adapter"] = adapter
    host.applied(spec, 7)
    wait_for(lambda: len(host.records()) > 8)
    records = host.records("--limit", "5")
    assert len(records) == 5
    assert [r["seq"] for r in records] == sorted(r["seq"] for r in records)
    assert {"v", "program", "host", "ts_ns", "mono_ns", "seq", "fidelity", "seen_on"} <= set(records[0])
    assert all(r["number"] not in (3, 10) and r["seen_on"] == "alpha" for r in host.records())
    after = host.records("--since", "4", "--limit", "2")
    assert [r["seq"] for r in after] == [5, 6]
    # The numbers go on with the next generation.
    spec["generation"] = 2
    host.applied(spec, 8)
    last = host.records()[-1]["seq"]
    wait_for(lambda: host.records("--since", str(last + 2)))
    numbers = [r["seq"] for r in host.records("--since", "0")]
    assert numbers == list(range(1, len(numbers) + 1))


def test_what_an_adapter_raises_is_counted_and_shown(host: AgentHost) -> None:
    spec = host.spec()
    spec["files"]["adapter"] = host.stage(b"def normalise(raw, clock):\n    raise KeyError('saddr')\n")
    host.applied(spec, 7)
    row = host.when(lambda row: row["errors"]["count"])
    assert row["state"] == "running" and "saddr" in row["errors"]["last"]


def test_artefacts_that_are_missing_or_altered_are_refused(host: AgentHost) -> None:
    spec = host.spec(files={"module": "a" * 64})
    status, answer = host.apply(spec, 7)
    assert (status, answer["code"], answer["step"]) == (3, "COR-AGT-006", "digests")
    assert host.run("missing", "a" * 64, "b" * 64)[1]["missing"] == ["a" * 64, "b" * 64]
    good = host.spec()["files"]["module"]
    assert host.run("missing", good)[1]["missing"] == []
    (host.state / "artefacts" / good).write_bytes(b"something else")
    status, answer = host.apply(host.spec(), 8)
    assert (status, answer["code"]) == (3, "COR-AGT-004")
    row = host.row()
    assert (row["state"], row["token"]) == ("failed", 8) and row["reason"].startswith("COR-AGT-004")
    assert host.marks() == []


@pytest.mark.parametrize("data", [b"", b"not zlib", b"\x78\x9c\x00"])
def test_stage_refuses_what_does_not_hash_to_its_name(host: AgentHost, data: bytes) -> None:
    status, answer = host.run("stage", "a" * 64, stdin=data)
    assert (status, answer["code"]) == (3, "COR-AGT-004")
    assert host.run("missing", "a" * 64)[1]["missing"] == ["a" * 64]


def test_another_kernel_is_refused(host: AgentHost) -> None:
    status, answer = host.apply(host.spec(kernel={"build_id": "00" * 20, "release": "3.10.0"}), 7)
    assert (status, answer["code"], answer["step"]) == (3, "COR-AGT-005", "kernel")
    assert host.marks() == []


def test_check_loads_and_attaches_nothing(host: AgentHost) -> None:
    status, answer = host.run("check", "--spec", "-", stdin=json.dumps(host.spec()).encode())
    assert (status, answer["ok"], answer["programs"]) == (0, True, []) and answer["took_us"] > 0
    broken = host.stage(b"def run(context):\n    this is no python\n")
    status, answer = host.run("check", "--spec", "-", stdin=json.dumps(host.spec(files={"module": broken})).encode())
    assert (status, answer["code"], answer["stage"]) == (3, "COR-AGT-007", "load") and "SyntaxError" in answer["log"]
    assert host.row() is None and host.marks() == []


def test_a_failure_leaves_nothing_when_nothing_ran(host: AgentHost) -> None:
    status, answer = host.apply(host.spec(config={"refuse": True}), 7)
    assert (status, answer["code"], answer["step"], answer["errno"]) == (1, "COR-AGT-008", "start", "EPERM")
    assert answer["left"] == []
    row = host.row()
    assert (row["state"], row["token"], row["applied"]) == ("failed", 7, 0) and "the host says no" in row["reason"]


def test_a_failure_leaves_the_predecessor_running(host: AgentHost) -> None:
    host.applied(host.spec(), 7)
    holder = host.holder()
    status, _ = host.apply(host.spec(generation=2, config={"refuse": True}), 8)
    assert status == 1
    row = host.row()
    assert (row["state"], row["generation"], row["token"], row["applied"]) == ("running", 1, 8, 1)
    assert "generation 2" in row["reason"] and host.holder() == holder
    assert host.marks() == ["corollout_sample-trace_1"]


def test_two_applies_at_once_take_turns(host: AgentHost) -> None:
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(host.apply(host.spec(), 7))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(a[1]["already"] for a in answers) == [False, True]
    assert host.row()["applied"] == 1


def test_a_busy_lock_is_said_so(host: AgentHost) -> None:
    import fcntl

    with (host.state / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        status, answer = host.run("remove", "--program", "sample-trace", "--token", "1", "--wait-s", "0.1")
    assert (status, answer["code"]) == (1, "COR-AGT-009")


def test_kill_9_of_the_holder_ends_the_child_and_is_told(host: AgentHost) -> None:
    host.applied(host.spec(), 7)
    child = host.child()
    os.kill(host.holder()["pid"], signal.SIGKILL)
    wait_for(lambda: not process.alive(child))
    row = host.row()
    assert (row["state"], row["observed"]["alive"]) == ("failed", False) and row["reason"].startswith("COR-AGT-023")
    assert host.marks() == []  # the child undid itself
    assert host.applied(host.spec(), 7)["applied"] == 2  # not alive: the same step may bring it back


def test_kill_9_of_the_child_is_told_and_undone(host: AgentHost) -> None:
    host.applied(host.spec(), 7)
    os.kill(host.child()["pid"], signal.SIGKILL)
    assert not host.reaches("failed", "COR-AGT-025")["observed"]["alive"]
    assert host.marks() == []


def test_a_child_that_dies_by_itself_says_why(host: AgentHost) -> None:
    host.applied(host.spec(config={"die": 5}), 7)
    assert "died on purpose" in host.reaches("failed", "COR-AGT-025")["reason"]
    assert host.marks() == []


def test_kill_9_of_apply_in_the_middle_leaves_no_candidate(host: AgentHost, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    slow = FALLBACK.replace(
        "    context.ready(", f"    while not os.path.exists({str(gate)!r}): time.sleep(0.01)\n    context.ready("
    )
    spec = host.spec(files={"module": host.stage(slow.encode())})
    process_ = subprocess.Popen(host.command("apply", "--spec", "-", "--token", "7"), stdin=subprocess.PIPE)
    assert process_.stdin
    process_.stdin.write(json.dumps(spec).encode())
    process_.stdin.close()
    wait_for(host.marks)
    assert host.row()["state"] == "applying"
    process_.kill()
    process_.wait()
    gate.touch()
    wait_for(lambda: not host.marks())
    row = host.row()
    assert row["state"] == "failed" and row["reason"].startswith("COR-AGT-026")
    assert host.applied(spec, 7)["already"] is False


def test_another_boot_makes_the_state_stale(host: AgentHost) -> None:
    host.applied(host.spec(), 7)
    path = host.state / "programs/sample-trace/state.json"
    state = host.document("state.json")
    holder = state["holder"]
    path.write_text(json.dumps(dict(state, boot_id="00000000-0000-0000-0000-000000000000")))
    row = host.row()
    assert (row["state"], row["observed"]["alive"]) == ("stopped", False) and row["reason"].startswith("COR-AGT-024")
    path.write_text(json.dumps(state))
    assert host.row()["state"] == "running" and process.alive(holder)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[AgentHost]:
    """A host whose state lies on a tmpfs of 3 MB, in a mount namespace of its own."""
    room = tmp_path / "room"
    room.mkdir()
    script = f"mount -t tmpfs -o size=3m none {room}; echo; exec sleep 600"
    with subprocess.Popen(["unshare", "-m", "sh", "-c", script], stdout=subprocess.PIPE) as keeper:
        assert keeper.stdout
        keeper.stdout.readline()
        made = AgentHost(tmp_path / "host", prefix=("nsenter", "-t", str(keeper.pid), "-m"))
        made.state, made.state_inside = Path(f"/proc/{keeper.pid}/root{room}"), room
        made.stage(FALLBACK.encode())
        try:
            yield made
            assert made.run("remove", "--program", "sample-trace", "--token", "9")[0] == 0
            assert made.close() == [] and made.marks() == []
        finally:
            made.close()
            keeper.kill()


def fill(folder: Path) -> Path:
    """Fill the file system to its last byte; return the file that does."""
    ballast = folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        while file.write(b"x"):
            pass
    return ballast


def test_a_host_with_a_full_disk_keeps_what_runs(small: AgentHost) -> None:
    small.applied(small.spec(budget={"loss_percent": 100}), 7)
    ballast = fill(small.state)
    status, answer = small.apply(small.spec(generation=2), 8)
    assert (status, answer["code"]) == (1, "COR-AGT-010") and "full" in answer["message"]
    row = small.row()
    assert (row["state"], row["generation"], row["token"]) == ("running", 1, 7)
    assert small.marks() == ["corollout_sample-trace_1"]
    last = max((r["seq"] for r in small.records()), default=0)
    ballast.unlink()
    found = wait_for(lambda: small.records("--since", str(last), "--limit", "1"))
    assert found[0]["seq"] > last and small.row()["state"] == "running"
    folder = small.state / "programs/sample-trace"
    assert not list(folder.rglob("*.new"))
    assert all(json.loads(line) for line in (folder / "records.jsonl").read_bytes().splitlines()[:-1])


def test_a_trip_on_a_full_disk_happens_and_is_told_once_there_is_room(small: AgentHost) -> None:
    small.applied(small.spec(budget={"loss_percent": 5}), 7)
    ballast = fill(small.state)  # records that the disk does not take are lost, and losses have a budget
    assert not small.reaches("failed", "COR-AGT-027")["observed"]["alive"]
    ballast.unlink()
    assert small.reaches("tripped", "COR-AGT-020")["watchdog"]["last"]["budget"] == "loss_percent"


def test_a_full_disk_makes_no_restart_and_one_comes_when_there_is_room(small: AgentHost) -> None:
    small.applied(small.spec(budget={"loss_percent": 100}, restart={"limit": 2}), 7)
    supervisor = small.state / "supervisor.json"
    wait_for(supervisor.exists)
    former = small.holder()
    ballast = fill(small.state)
    os.kill(former["pid"], signal.SIGKILL)
    small.reaches("failed", "COR-AGT-023")
    time.sleep(3)  # the supervisor looks every second
    row = small.row()
    assert (row["state"], row["restarts"]["total"], small.holder()) == ("failed", 0, former)
    ballast.unlink()
    row = small.reaches("running")
    assert row["observed"]["alive"] and row["restarts"]["total"] == 1 and small.holder() != former
