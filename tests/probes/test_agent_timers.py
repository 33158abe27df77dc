"""What happens on a host when nobody calls any more: leases, the revert timer, the watchdog."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_host import FALLBACK, AgentHost, wait_for

from probes.agent import process
from probes.agent.hold import Holder
from probes.agent.variant import VARIANTS


@pytest.fixture
def host(tmp_path: Path) -> Iterator[AgentHost]:
    made = AgentHost(tmp_path)
    made.stage(FALLBACK.encode())
    yield made
    made.run("remove", "--program", "sample-trace", "--token", str(2**40))
    assert made.close() == [] and made.marks() == []


def test_an_unrenewed_lease_ends_a_tracing_program(host: AgentHost) -> None:
    host.applied(host.spec(lease_s=60), 7)
    holder = host.holder()
    host.make_due("lease.json", "expires_boot")
    row = host.reaches("expired", "COR-AGT-021")
    assert row["lease"] is None and host.marks() == [] and not row["observed"]["alive"]
    wait_for(lambda: not process.alive(holder))
    # The same step repeated does not bring back what the host ended by itself; a new one does.
    assert host.applied(host.spec(lease_s=60), 7)["already"] is True
    assert host.applied(host.spec(lease_s=60), 8)["already"] is False


def test_a_renewed_lease_goes_on(host: AgentHost) -> None:
    host.applied(host.spec(lease_s=60), 7)
    first = host.document("lease.json")
    status, answer = host.run("renew", "--program", "sample-trace", "--lease-s", "600")
    renewed = host.document("lease.json")
    assert status == 0 and answer["expires"] == renewed["expires"] > first["expires"] + 500
    assert renewed["expires_boot"] > first["expires_boot"] + 500
    row = host.row()
    assert row["state"] == "running"
    assert row["lease"]["expires"] == pytest.approx(renewed["expires"], abs=1)  # told by the clock as it is now


def test_over_budget_is_stopped_with_no_controller_and_the_breach_is_kept(host: AgentHost) -> None:
    spec = host.spec(config={"burn_s": 0.05, "every_s": 0.0}, budget={"cpu_percent": 5.0, "interval_s": 0.2})
    host.applied(spec, 7)
    row = host.reaches("tripped", "COR-AGT-020")
    assert row["watchdog"]["state"] == "trip" and row["watchdog"]["strikes"] == 2
    assert row["watchdog"]["last"]["budget"] == "cpu_percent" and row["watchdog"]["last"]["limit"] == 5.0
    assert row["watchdog"]["last"]["seen"] > 5 and "cpu_percent" in row["reason"]
    assert row["sample"]["cpu_percent"] > 5 and host.marks() == []
    again = host.applied(spec, 7)
    assert (again["already"], again["state"], again["applied"]) == (True, "tripped", 1)


def test_losses_over_budget_trip(host: AgentHost) -> None:
    host.applied(host.spec(config={"lose": 1}), 7)
    row = host.reaches("tripped")
    assert row["watchdog"]["last"]["budget"] == "loss_percent" and row["sample"]["lost"] > 0


def test_memory_over_budget_trips_at_once(host: AgentHost) -> None:
    host.applied(host.spec(budget={"memory_mib": 1}), 7)
    assert host.reaches("tripped")["watchdog"] | {"last": None} == {"state": "trip", "strikes": 1, "last": None}


def test_a_tripped_networking_program_keeps_its_policy_and_says_so(host: AgentHost) -> None:
    host.applied(host.networking(budget={"memory_mib": 1, "action": "static"}), 7)
    row = host.reaches("tripped")
    assert "stays in force" in row["reason"]
    assert host.marks() == ["corollout_sample-trace_1"]
    assert host.run("remove", "--program", "sample-trace", "--token", "8")[0] == 0
    assert host.marks() == []


def test_a_networking_program_declared_to_detach_is_undone(host: AgentHost) -> None:
    host.applied(host.networking(budget={"memory_mib": 1, "action": "detach"}), 7)
    assert "stays" not in host.reaches("tripped")["reason"]
    wait_for(lambda: not host.marks())


def test_the_unconfirmed_is_reverted_even_when_the_holder_is_dead(host: AgentHost) -> None:
    host.applied(host.networking(), 7)
    assert host.row()["revert"]["at"] > 0
    os.kill(host.holder()["pid"], signal.SIGKILL)
    host.make_due("revert.json", "at_boot")
    row = host.reaches("reverted", "COR-AGT-022")
    assert host.marks() == [] and row["revert"] is None and not row["observed"]["alive"]
    status, answer = host.run("confirm", "--program", "sample-trace", "--token", "7")
    assert (status, answer["code"]) == (3, "COR-AGT-013")
    assert host.applied(host.networking(), 7)["state"] == "reverted"


def test_a_revert_brings_the_confirmed_predecessor_back(host: AgentHost) -> None:
    host.applied(host.networking(revert_s=600), 7)
    assert host.run("confirm", "--program", "sample-trace", "--token", "7")[1]["already"] is False
    assert host.run("confirm", "--program", "sample-trace", "--token", "7")[1]["already"] is True
    host.applied(host.networking(generation=2), 8)
    host.make_due("revert.json", "at_boot")
    row = host.reaches("reverted", "COR-AGT-022")
    assert row["generation"] == 1 and row["observed"]["alive"] and "generation 1 is back" in row["reason"]
    assert host.marks() == ["corollout_sample-trace_1"]
    assert host.run("remove", "--program", "sample-trace", "--token", "9")[0] == 0


def test_what_never_came_up_is_not_put_back(host: AgentHost) -> None:
    assert host.apply(host.networking(config={"refuse": True}), 7)[0] == 1
    row = host.row()
    assert (row["state"], row["generation"], row["revert"]) == ("failed", 1, None)
    host.applied(host.networking(generation=2), 8)
    host.make_due("revert.json", "at_boot")
    row = host.reaches("reverted")
    assert host.marks() == [] and not row["observed"]["alive"] and "back" not in row["reason"]


def test_confirm_cancels_the_revert_for_its_own_token_only(host: AgentHost) -> None:
    host.applied(host.networking(), 7)
    assert host.run("confirm", "--program", "sample-trace", "--token", "6")[0] == 3
    assert host.row()["revert"]["at"] > 0
    assert host.run("confirm", "--program", "sample-trace", "--token", "7")[0] == 0
    assert host.row()["revert"] is None
    assert (
        host.run("revert", "--program", "sample-trace", "--token", "7")[1]["reverted"] is False
    )  # what the timer does
    assert host.row()["state"] == "running"


def test_a_revert_whose_timer_was_killed_can_be_done_by_the_verb(host: AgentHost) -> None:
    host.applied(host.networking(), 7)
    assert host.run("revert", "--program", "sample-trace", "--token", "6")[1]["reverted"] is False
    host.make_due("revert.json", "at_boot")
    host.run("revert", "--program", "sample-trace", "--token", "7")  # whoever comes first, it happens once
    row = host.reaches("reverted")
    journal = (host.state / "programs/sample-trace/journal.jsonl").read_text()
    assert journal.count('"reverted"') == 1 and row["revert"] is None


def test_networking_survives_the_death_of_its_holder(host: AgentHost) -> None:
    host.applied(host.networking(), 7)
    child = host.child()
    os.kill(host.holder()["pid"], signal.SIGKILL)
    wait_for(lambda: not process.alive(child))
    row = host.row()
    assert row["state"] == "failed" and "stays in force" in row["reason"]
    assert host.marks() == ["corollout_sample-trace_1"]


@pytest.mark.parametrize("state", ["starting", "candidate"])
def test_a_holder_whose_child_is_not_ready_waits_and_does_not_spin(state: str) -> None:
    holder = Holder.__new__(Holder)
    holder.row, holder.meter, holder.state, holder.check_s = VARIANTS["bcc"], None, state, 1.0
    holder._started = holder._checked = time.monotonic() - 100  # compiling for long
    holder._tick(time.monotonic())
    assert holder.state == state
    assert holder._patience() > 0


# Read at the start of every Python of the host: its wall clock is the machine's plus what a file says.
CLOCK = """
import time
_real, _path = time.time, {path!r}
def _set():
    with open(_path) as file:
        return _real() + float(file.read())
time.time = _set
"""


def test_a_wall_clock_that_jumps_ends_no_lease_and_fires_no_revert(tmp_path: Path) -> None:
    offset = tmp_path / "offset"
    offset.write_text("0")
    (tmp_path / "sitecustomize.py").write_text(CLOCK.format(path=str(offset)))
    host = AgentHost(tmp_path / "host", prefix=("env", f"PYTHONPATH={tmp_path}"))
    host.stage(FALLBACK.encode())
    host.applied(host.networking(lease_s=600, restart={"limit": 1}), 7)
    for jump in (86400, -2 * 86400):
        beside = tmp_path / "beside"
        beside.write_text(str(jump))
        beside.replace(offset)
        last = host.row()["sample"]
        row = host.when(lambda row, last=last: row["sample"] and row["sample"] != last)  # the holder saw it, too
        now = time.time() + jump
        assert (row["state"], row["watchdog"]["state"], row["restarts"]["total"]) == ("running", "ok", 0)
        assert abs(row["sample"]["at"] - now) < 60
        assert 0 < row["lease"]["expires"] - now < 601 and 0 < row["revert"]["at"] - now < 601
    assert host.run("confirm", "--program", "sample-trace", "--token", "7")[0] == 0
    assert host.run("remove", "--program", "sample-trace", "--token", "8")[0] == 0
    assert host.close() == [] and host.marks() == []
