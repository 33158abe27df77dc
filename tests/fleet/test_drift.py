"""Drift: status in, differences out (``cases/drift``), what is kept of them, and the patrol that looks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_hosts import ScriptedHosts, TestClock, plan_of, prepare

from fleet.record import Record, open_record
from fleet.record.views import Desired
from fleet.rollout.drift.compare import KINDS, compare
from fleet.rollout.drift.patrol import Look, patrol
from fleet.rollout.driving.engine import run_rollout

FILES = sorted((Path(__file__).parent / "cases" / "drift").glob("*.json"))


def desired(row: dict[str, Any]) -> Desired:
    return Desired(host="web-1", rollout_id="r-1", **row)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_comparing(path: Path) -> None:
    case = json.loads(path.read_text())
    found = compare("web-1", [desired(row) for row in case["desired"]], case["status"])
    assert [[d.program, d.kind] for d in found] == case["expect"], case["why"]


def test_every_kind_has_a_case() -> None:
    seen = {kind for path in FILES for _, kind in json.loads(path.read_text())["expect"]}
    assert seen == set(KINDS)


KEYS = [
    "programs",
    "program",
    "observed",
    "alive",
    "token",
    "kernel",
    "others",
    "residue",
    "state",
    "build",
    "name",
    "tag",
    "count",
    "build_id",
]
LEAVES = st.none() | st.booleans() | st.integers() | st.sampled_from(["tcp-flow", "running", "\x1b[31m", ""])


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)


JSON = st.recursive(LEAVES, nested, max_leaves=12)


@settings(suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
@given(st.dictionaries(st.sampled_from(["programs", "kernel", "others", "residue", "boot_id"]), JSON))
def test_a_hostile_status_is_only_ever_compared(status: dict[str, Any]) -> None:
    wanted = Desired("h", "tcp-flow", "core", "sha256:b", 7, "r", "ab/x86_64", {"observed": {"programs": []}})
    for found in compare("h", [wanted], status):
        assert found.kind in KINDS
        assert "\x1b" not in found.detail + found.seen + found.program


# On scripted hosts


@pytest.fixture
def fleet(tmp_path: Path) -> ScriptedHosts:
    hosts = ScriptedHosts(tmp_path / "hosts")
    with open_record(tmp_path / "fleet.db", create=True) as record:
        rollout_id = prepare(record, plan_of(["a"], ["b", "c"]))
    assert run_rollout(tmp_path, rollout_id, executor_factory=hosts.connect, clock=TestClock()) == "COMPLETED"
    return hosts


def look(record: Record, hosts: ScriptedHosts) -> list[Look]:
    names = record.assigned_hosts()
    return list(patrol(record, names, record.definitions(), hosts.connect, parallel=4))


def test_what_is_found_is_kept_until_it_is_mended(tmp_path: Path, fleet: ScriptedHosts) -> None:
    with open_record(tmp_path / "fleet.db") as record:
        assert [found.differences for found in look(record, fleet)] == [(), (), ()]
        with fleet.state("b") as state:
            state["state"] = "expired"
        look(record, fleet)
        (kept,) = record.drift()
        assert (kept.difference.host, kept.difference.kind) == ("b", "missing")
        look(record, fleet)
        (again,) = record.drift()
        assert again.first_seen == kept.first_seen
        assert again.last_seen >= kept.last_seen
        with fleet.state("b") as state:
            state["state"] = "running"
        look(record, fleet)
        assert record.drift() == []
        told = [(e.host, e.before, e.after) for e in record.events(0, 10_000) if e.verb == "drift"]
        assert told == [("b", None, "missing"), ("b", "missing", None)]


def test_silence_is_no_drift_and_forgets_none(tmp_path: Path, fleet: ScriptedHosts) -> None:
    with open_record(tmp_path / "fleet.db") as record:
        with fleet.state("b") as state:
            state["state"] = "expired"
        look(record, fleet)
        fleet.script["b"] = {"silent": ["connect"]}
        fleet.script["c"] = {"silent": ["connect"]}
        away = [found.host for found in look(record, fleet) if found.fault]
        assert away == ["b", "c"]
        assert [view.difference.host for view in record.drift()] == ["b"]


def test_a_lease_that_is_past_its_half_is_extended(tmp_path: Path) -> None:
    hosts = ScriptedHosts(tmp_path / "hosts")
    plan = plan_of(["a"])
    shared = {"core": {**plan.shared["core"], "lease_s": 100.0}}
    leased = type(plan)(plan.id, plan.program, plan.created_at, plan.settings, plan.waves, (), shared, plan.own)
    with open_record(tmp_path / "fleet.db", create=True) as record:
        rollout_id = prepare(record, leased)
        run_rollout(tmp_path, rollout_id, executor_factory=hosts.connect, clock=TestClock())
        before = len(hosts.calls("a", "renew"))
        hosts.script["a"] = {"lease": 60.0}
        look(record, hosts)
        assert len(hosts.calls("a", "renew")) == before
        hosts.script["a"] = {"lease": 40.0}
        look(record, hosts)
        assert len(hosts.calls("a", "renew")) == before + 1
