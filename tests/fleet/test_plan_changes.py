"""What a plan changes on hosts: against what they run, against pins, and against another plan."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from decide_cases import program

from fleet.rollout.planning.changes import changes_anything, count_changes, differences, summary
from fleet.rollout.planning.freeze import Candidate, Pinned, Running, freeze
from fleet.rollout.planning.plan import Plan, PlanMalformed, read_plan
from fleet.rollout.planning.settings import WaveSettings, WaveStep
from probes.catalogue import Build
from probes.manifest import Budget

BUILDS = {v: Build("tcp-flow", v, f"sha256:{v * 4}", {}, {"object": v}) for v in ("core", "bcc", "fallback")}


def candidate(host: str, variant: str | None = "core", verdict: str = "fits", **more: Any) -> Candidate:
    return Candidate(host, "k1/x86_64", variant, verdict, f"{variant} {verdict}", "f", **more)


def plan(*candidates: Candidate, name: str = "p", careful: WaveSettings | None = None, **more: Any) -> Plan:
    arguments: dict[str, Any] = {"config": {}, "now": 1.0, **more}
    return freeze(program(), candidates, careful or WaveSettings(), BUILDS, id=name, **arguments)


def running(made: Plan) -> dict[str, Running]:
    return {h.host: Running(h.variant, h.build, made) for h in made.hosts}


def change(made: Plan, host: str) -> str:
    planned = made.by_name.get(host)
    return planned.change if planned else next(s.code for s in made.skipped if s.host == host)


def test_a_host_that_runs_exactly_this_is_left_out_unless_asked_for() -> None:
    first = plan(candidate("a"), candidate("b"))
    again = plan(candidate("a"), candidate("b"), candidate("c"), running=running(first))
    assert {s.host: s.code for s in again.skipped} == {"a": "unchanged", "b": "unchanged"}
    assert [h.host for h in again.hosts] == ["c"]
    assert summary(again) == "1 new; 2 unchanged and left out"
    every = plan(candidate("a"), careful=WaveSettings(include_unchanged=True), running=running(first))
    assert change(every, "a") == "unchanged"
    assert not changes_anything(every)
    assert changes_anything(again)


@pytest.mark.parametrize(
    ("what", "then", "now"),
    [
        ("replace", {}, {"variant": "bcc"}),
        ("configure", {"config": {"a": {"x": 1}}}, {"config": {"a": {"x": 2}}}),
        ("configure", {}, {"config": {"a": {"x": 2}}}),
        ("configure", {}, {"budget": Budget(cpu_percent=9.0)}),
        ("configure", {"releases": {"k1/x86_64": "6.1"}}, {"releases": {"k1/x86_64": "6.2"}}),
        ("unchanged", {}, {"generation": 9}),
        ("unchanged", {"config": {"a": {"x": 1}}}, {"config": {"a": {"x": 1}}}),
    ],
)
def test_what_changes_is_named(what: str, then: dict[str, Any], now: dict[str, Any]) -> None:
    before = plan(candidate("a"), **then)
    variant = now.pop("variant", "core")
    after = plan(candidate("a", variant), running=running(before), **now)
    assert change(after, "a") == what
    assert (after.hosts + after.skipped)[0].runs == "core sha256:corecorecorecore"


def test_a_plan_that_is_no_longer_known_proves_nothing_unchanged() -> None:
    made = plan(candidate("a"), running={"a": Running("core", BUILDS["core"].digest)})
    assert change(made, "a") == "configure"


def test_who_is_left_out_goes_on_running_what_it_runs() -> None:
    before = plan(candidate("a"), candidate("b"))
    after = plan(candidate("a", None, "refused"), candidate("b", "bcc"), running=running(before))
    assert after.skipped[0].runs == "core sha256:corecorecorecore"
    assert count_changes(after) == {"replace": 1}
    assert summary(after) == "1 replaced; 1 left out, 1 of them keep what they run"


def test_pins_are_respected() -> None:
    pins = {
        "a": Pinned(None, "audit until May (ann)"),
        "b": Pinned("bcc", "core is slow there (ann)", "degraded"),
        "c": Pinned("bcc", "as b (ann)", "refused"),
        "d": Pinned("bcc", "as b (ann)", ""),
    }
    made = plan(*(candidate(h) for h in "abcde"), pins=pins)
    assert {h.host: h.variant for h in made.hosts} == {"b": "bcc", "e": "core"}
    assert {s.host: (s.code, s.detail) for s in made.skipped} == {
        "a": ("pinned", "stays as it is: audit until May (ann)"),
        "c": ("pinned", "to bcc, which is refused here: as b (ann)"),
        "d": ("pinned", "to bcc, which is not decided here: as b (ann)"),
    }


def test_a_pin_does_not_make_a_stale_or_silent_host_feasible() -> None:
    pins = dict.fromkeys("ab", Pinned("bcc", "x", "fits"))
    made = plan(candidate("a", fresh=False), candidate("b", away="COR-SSH-001: no route"), pins=pins)
    assert {s.host: s.code for s in made.skipped} == {"a": "decision-stale", "b": "no-answer"}


def test_two_plans_differ_host_by_host() -> None:
    one = plan(candidate("a"), candidate("b"), candidate("c"), candidate("d"), name="one")
    other = plan(
        candidate("a"), candidate("b", "bcc"), candidate("c", None, "refused"), candidate("e"), name="other",
        config={"a": {"x": 1}},
    )  # fmt: skip
    found = {d.host: d.what for d in differences(one, other)}
    assert found == {"a": "spec", "b": "build", "c": "removed", "d": "removed", "e": "added"}
    assert list(differences(one, plan(*map(candidate, "abcd"), name="three"))) == []
    moved = plan(*map(candidate, "abcd"), name="four", careful=WaveSettings(waves=(WaveStep("2"),), control_hosts=0))
    assert {d.what for d in differences(one, moved)} == {"wave"}


@given(
    st.lists(st.sampled_from(["core", "bcc", None]), max_size=30),
    st.lists(st.sampled_from(["core", "bcc"]), max_size=30),
)
@settings(max_examples=100, deadline=None)
def test_planning_again_after_carrying_out_changes_nothing(now: list[str | None], then: list[str]) -> None:
    before = plan(*(candidate(f"h{n:02}", v) for n, v in enumerate(then)), name="then")
    decided = [candidate(f"h{n:02}", v, "fits" if v else "refused") for n, v in enumerate(now)]
    made = plan(*decided, running=running(before))
    hosts = {**running(before), **running(made)}
    again = plan(*decided, running=hosts)
    assert again.hosts == ()
    assert not changes_anything(again)
    for n, variant in enumerate(now):
        same = n < len(then) and then[n] == variant
        assert (change(made, f"h{n:02}") == "unchanged") is same


def test_a_plan_as_text_is_refused_when_one_byte_of_it_changed() -> None:
    text = plan(candidate("a"), candidate("b")).text()
    assert read_plan(text).text() == text
    for was, then in ((b'"core"', b'"bcc"'), (b'"bake_s":300.0', b'"bake_s":3.0'), (b'"a"', b'"z"')):
        with pytest.raises(PlanMalformed, match="COR-PLN-010"):
            read_plan(text.replace(was, then))
    for broken in (b"", b"[]", b"{}", text[:-2], b"\xff" + text, b"[" * 100_000):
        with pytest.raises(PlanMalformed):
            read_plan(broken)
