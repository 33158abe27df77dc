"""The supervisor with real processes: what died comes back, what keeps dying is given up, what hangs is ended."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_host import FALLBACK, AgentHost, wait_for

from probes.agent import process

RESTART = {"limit": 2, "backoff_s": 0.1, "window_s": 600}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[AgentHost]:
    made = AgentHost(tmp_path)
    made.stage(FALLBACK.encode())
    yield made
    made.run("remove", "--program", "sample-trace", "--token", str(2**40))
    supervisor = supervisor_of(made)
    assert made.close() == [] and made.marks() == []
    assert not process.alive(supervisor)


def supervisor_of(host: AgentHost) -> Any:
    try:
        return json.loads((host.state / "supervisor.json").read_bytes())["process"]
    except OSError:
        return None


def comes_back(host: AgentHost, former: Any) -> Any:
    """Wait for another holder than *former*; return the row."""
    wait_for(lambda: host.holder() not in (None, former))
    return host.when(lambda row: row["state"] == "running" and row["observed"]["alive"])


@pytest.mark.parametrize("victim", ["holder", "child"])
def test_what_was_killed_runs_again_under_the_same_token(host: AgentHost, victim: str) -> None:
    host.applied(host.spec(restart=RESTART), 7)
    former = host.holder()
    os.kill((former if victim == "holder" else host.child())["pid"], signal.SIGKILL)
    row = comes_back(host, former)
    assert (row["token"], row["generation"], row["applied"]) == (7, 1, 1)
    assert row["restarts"]["total"] == 1
    assert row["restarts"]["last"].startswith("COR-AGT-023" if victim == "holder" else "COR-AGT-025")
    assert host.marks() == ["corollout_sample-trace_1"]
    assert host.applied(host.spec(restart=RESTART), 7)["already"] is True


def test_a_crash_loop_is_given_up_cleaned_and_told_and_a_new_token_forgives(host: AgentHost) -> None:
    spec = host.spec(config={"die": 2}, restart=RESTART)
    host.applied(spec, 7)
    row = host.reaches("crash-looping", "COR-AGT-031")
    assert "after 2 restarts" in row["reason"] and "died on purpose" in row["reason"]
    assert not row["observed"]["alive"] and host.marks() == []
    journal = (host.state / "programs/sample-trace/journal.jsonl").read_text()
    assert journal.count('"restart"') == 2
    again = host.applied(spec, 7)  # the same step repeated does not start it all over
    assert (again["already"], again["state"]) == (True, "crash-looping")
    host.applied(host.spec(generation=2, restart=RESTART), 8)
    row = host.row()
    assert (row["state"], row["restarts"]["recent"], row["restarts"]["total"]) == ("running", 0, 0)


def test_what_does_not_come_up_again_counts_too(host: AgentHost) -> None:
    gate = host.folder / "gate"
    once = FALLBACK.replace("def run(context):", f"def run(context):\n    open({str(gate)!r}, 'x').close()")
    host.applied(host.spec(files={"module": host.stage(once.encode())}, restart=RESTART), 7)
    os.kill(host.holder()["pid"], signal.SIGKILL)
    row = host.reaches("crash-looping", "COR-AGT-031")
    assert "FileExistsError" in row["reason"] and host.marks() == []


def test_a_networking_program_that_is_given_up_keeps_its_policy(host: AgentHost) -> None:
    spec = host.networking(config={"die": 2}, restart={**RESTART, "limit": 1}, budget={"action": "static"})
    host.applied(spec, 7)
    host.run("confirm", "--program", "sample-trace", "--token", "7")
    row = host.reaches("crash-looping")
    assert "the last policy stays in force" in row["reason"] and host.marks() == ["corollout_sample-trace_1"]
    assert host.run("remove", "--program", "sample-trace", "--token", "8")[0] == 0


def test_the_unconfirmed_is_not_restarted_and_reverts_with_holder_and_timer_dead(host: AgentHost) -> None:
    host.applied(host.networking(restart=RESTART), 7)
    for pid in timers(host):
        os.kill(pid, signal.SIGKILL)
    os.kill(host.holder()["pid"], signal.SIGKILL)
    host.make_due("revert.json", "at_boot")
    row = host.reaches("reverted", "COR-AGT-022")
    assert host.marks() == [] and row["restarts"]["total"] == 0


def timers(host: AgentHost) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"revert" in words and str(host.state).encode() in words:
            found.append(int(path.parent.name))
    assert found
    return found


def test_a_holder_that_is_stopped_does_not_outlive_its_lease(host: AgentHost) -> None:
    host.applied(host.spec(restart=RESTART, lease_s=60), 7)
    os.kill(host.holder()["pid"], signal.SIGSTOP)
    host.make_due("lease.json", "expires_boot")
    row = host.reaches("expired", "COR-AGT-021")
    assert not row["observed"]["alive"]
    wait_for(lambda: not host.marks())


def test_a_holder_that_stays_stopped_is_replaced(host: AgentHost) -> None:
    host.applied(host.spec(restart=RESTART), 7)
    former = host.holder()
    os.kill(former["pid"], signal.SIGSTOP)
    row = comes_back(host, former)
    assert row["restarts"]["total"] == 1 and not process.alive(former)


def test_there_is_one_supervisor_and_it_goes_with_the_last_program(host: AgentHost) -> None:
    host.applied(host.spec(restart=RESTART), 7)
    first = wait_for(lambda: supervisor_of(host))
    assert host.run("supervise")[1]["already"] is True
    host.applied(host.spec(generation=2, restart=RESTART), 8)
    assert supervisor_of(host) == first
    status = host.run("status")[1]
    assert status["supervisor"] == {"needed": True, "alive": True, "boot": "nothing will start it"}
    assert host.run("remove", "--program", "sample-trace", "--token", "9")[0] == 0
    assert not process.alive(first) and not list(host.state.glob("supervisor*"))
    assert host.run("status")[1]["supervisor"]["needed"] is False


def test_a_killed_supervisor_is_told_and_the_next_apply_brings_it_back(host: AgentHost) -> None:
    host.applied(host.spec(restart=RESTART), 7)
    os.kill(wait_for(lambda: supervisor_of(host))["pid"], signal.SIGKILL)
    wait_for(lambda: not host.run("status")[1]["supervisor"]["alive"])
    assert host.row()["state"] == "running"  # holding needs no supervisor
    host.applied(host.spec(generation=2, restart=RESTART), 8)
    wait_for(lambda: host.run("status")[1]["supervisor"]["alive"])
