"""Plans: every feasible host in exactly one wave, a canary for every kernel build and variant, nothing forgotten."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from decide_cases import facts, program

from fleet.compatibility.verdict import Choice, Verdict
from fleet.rollout.planning.freeze import PlanImpossible, make_plan
from fleet.rollout.planning.plan import Plan, PlanMalformed, build_id, load_plan, read_plan
from fleet.rollout.planning.settings import SettingsWrong, WaveSettings, WaveStep
from fleet.rollout.planning.stale import PlanStale, find_stale, refuse_stale
from fleet.rollout.planning.waves import PlannedHost, make_waves
from inventory.host import Host
from probes.agent.spec import check_spec
from probes.catalogue import Build
from probes.manifest import Budget

HEX = "ab" * 32
BUILDS = {
    variant: Build("tcp-flow", variant, f"sha256:{HEX}", {}, dict.fromkeys(roles, HEX))
    for variant, roles in {
        "core": ("object", "runner", "adapter"),
        "core-btf": ("object", "runner", "adapter"),
        "bcc": ("source", "adapter"),
        "fallback": ("module", "adapter"),
    }.items()
}


def choice(
    host: str, variant: str | None = "core", verdict: Verdict = Verdict.FITS, kernel: str = "k1/x86_64"
) -> Choice:
    return Choice(host, "tcp-flow", kernel, facts().digest, variant, verdict, f"{variant} {verdict}")


def plan(choices: Sequence[Choice], **changes: Any) -> Plan:
    hosts = [Host(c.host) for c in choices]
    arguments: dict[str, Any] = {"config": {}, "now": 1000.0, "id": "plan-1"}
    wave_settings = changes.pop("settings", WaveSettings())
    extra = changes.pop("hosts", [])
    return make_plan(program(), choices, [*hosts, *extra], wave_settings, BUILDS, **{**arguments, **changes})


def steps(*takes: str) -> tuple[WaveStep, ...]:
    return tuple(WaveStep(take) for take in takes)


SETTINGS = st.builds(
    WaveSettings,
    waves=st.lists(st.integers(1, 99), unique=True, max_size=4).map(lambda p: steps(*(f"{n}%" for n in sorted(p)))),
    try_unknown=st.booleans(),
    control_hosts=st.integers(0, 4),
)
READY = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from(["core", "bcc", "fallback"]), st.booleans()), max_size=120
).map(
    lambda rows: [
        (PlannedHost(f"h{i:03}", f"{kernel}/x86_64", variant, "sha256:1", "d"), trial)
        for i, (kernel, variant, trial) in enumerate(rows)
    ]
)


@given(READY, SETTINGS)
@settings(max_examples=200, deadline=None)
def test_waves_partition_the_feasible_hosts(ready: list[tuple[PlannedHost, bool]], careful: WaveSettings) -> None:
    waves, waiting, _ = make_waves(ready, careful)
    planned = [h.host for w in waves for h in w.hosts]
    assert len(planned) == len(set(planned))
    assert sorted(planned + [s.host for s in waiting]) == [h.host for h, _ in ready]
    assert [w.number for w in waves] == list(range(len(waves)))
    assert all(w.hosts for w in waves)


@given(READY, SETTINGS)
@settings(max_examples=200, deadline=None)
def test_wave_zero_has_one_canary_per_kernel_and_variant(
    ready: list[tuple[PlannedHost, bool]], careful: WaveSettings
) -> None:
    waves, _, _ = make_waves(ready, careful)
    strata = {(h.kernel_id, h.variant, trial) for h, trial in ready}
    trials = {h.host for h, trial in ready if trial}
    canaries = [(h.kernel_id, h.variant, h.host in trials) for h in (waves[0].hosts if waves else ())]
    assert sorted(canaries) == sorted(strata)
    assert all(h.host not in trials for w in waves[1:] for h in w.hosts)


@given(READY, SETTINGS)
@settings(max_examples=200, deadline=None)
def test_controls_are_in_the_last_wave_alone_and_leave_a_canary_and_another(
    ready: list[tuple[PlannedHost, bool]], careful: WaveSettings
) -> None:
    waves, _, controls = make_waves(ready, careful)
    early = {h.host for w in waves[:-1] for h in w.hosts}
    assert not early & set(controls)
    assert set(controls) <= {h.host for w in waves[-1:] for h in w.hosts}
    sizes = Counter((h.kernel_id, h.variant) for h, trial in ready if not trial)
    kept = Counter((h.kernel_id, h.variant) for h, _ in ready if h.host in controls)
    assert {s: kept[s] for s in sizes} == {s: max(0, min(careful.control_hosts, n - 2)) for s, n in sizes.items()}


@given(READY, SETTINGS)
@settings(max_examples=100, deadline=None)
def test_no_wave_is_wider_than_its_percentage_allows(
    ready: list[tuple[PlannedHost, bool]], careful: WaveSettings
) -> None:
    waves, _, _ = make_waves(ready, careful)
    total = sum(len(w.hosts) for w in waves)
    done = len(waves[0].hosts) if waves else 0
    for wave in waves[1:]:
        percent = float(wave.name.removeprefix("to ").removesuffix(" %"))
        assert done + len(wave.hosts) <= max(math.ceil(total * percent / 100), done + 1)
        done += len(wave.hosts)


@pytest.mark.parametrize(
    ("hosts", "sizes"),
    [
        (1, [1]),
        (2, [1, 1]),
        (3, [1, 1, 1]),
        (8, [1, 1, 1, 5]),
        (30, [1, 1, 6, 22]),
        (100, [1, 4, 20, 75]),
        (1000, [1, 49, 200, 750]),
    ],
)
def test_stated_rounding(hosts: int, sizes: list[int]) -> None:
    made = plan([choice(f"h{i:04}") for i in range(hosts)])
    assert [len(w.hosts) for w in made.waves] == sizes
    assert [w.bake_s for w in made.waves] == [600.0, *[300.0] * (len(sizes) - 1)]


def test_who_cannot_run_it_is_skipped_with_a_code() -> None:
    made = plan(
        [
            choice("a"),
            choice("b", None, Verdict.BLOCKED),
            choice("c", None, Verdict.REFUSED),
            choice("d", "core", Verdict.UNKNOWN),
            choice("e", "core-btf"),
            choice("f", "fallback", Verdict.DEGRADED),
            choice("h"),
        ],
        hosts=[Host("g")],
        away={"h": "COR-SSH-001: no route"},
        facts={"f": facts({"kernel.boot_id": {"answer": "yes", "value": "rebooted"}})},
    )
    assert [h.host for h in made.hosts] == ["a"]
    assert {s.host: s.code for s in made.skipped} == {
        "b": "blocked", "c": "refused", "d": "unknown", "e": "btf-missing", "f": "decision-stale", "g": "no-decision",
        "h": "no-answer",
    }  # fmt: skip
    assert set(made.specs) == {"a"}


def test_unknown_hosts_try_as_canaries_only_when_allowed() -> None:
    choices = [choice("a"), choice("b", verdict=Verdict.UNKNOWN), choice("c", verdict=Verdict.UNKNOWN)]
    made = plan(choices, settings=WaveSettings(try_unknown=True))
    assert [h.host for h in made.waves[0].hosts] == ["a", "b"]
    assert {s.host: s.code for s in made.skipped} == {"c": "unknown-waits"}


def test_the_agent_accepts_every_spec() -> None:
    kernel = "a" * 40 + "/x86_64"
    choices = [choice(v, v, kernel=kernel) for v in BUILDS]
    seen = {v: facts() for v in BUILDS}
    made = plan(choices, btf={kernel: HEX}, facts=seen, config={"core": {"ports": [80]}}, generation=7)
    assert sorted(made.specs) == sorted(BUILDS)
    for host, spec in made.specs.items():
        checked = check_spec(json.loads(json.dumps(spec)))
        assert (checked.host, checked.variant, checked.generation) == (host, host, 7)
        assert checked.kernel == {"build_id": "a" * 40, "release": "6.1.0-18-amd64"}
        assert checked.btf == (HEX if host == "core-btf" else None)
    assert made.spec("core")["config"] == {"ports": [80]}
    assert made.spec("core")["optional"] == ["close_reason"]


def test_a_kernel_known_by_something_weaker_has_no_build_id() -> None:
    assert build_id("btf-00ff/x86_64") is None
    assert build_id("uname-00ff/x86_64") is None


def test_round_trip_and_tampering() -> None:
    made = plan([choice("a"), choice("b", kernel="k2/x86_64"), choice("c", None, Verdict.BLOCKED)])
    document = json.loads(json.dumps(made.document()))
    assert load_plan(document) == made
    assert load_plan(document).digest == made.digest
    document["waves"][0]["hosts"][0]["variant"] = "fallback"
    with pytest.raises(PlanMalformed, match="digest"):
        load_plan(document)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d.update(schema="corollout.plan/2"),
        lambda d: d.pop("waves"),
        lambda d: d.update(waves="many"),
        lambda d: d["settings"].update(bake_s=-1),
        lambda d: d["settings"].update(waves=[{"take": "50%"}, {"take": "5%"}]),
    ],
)
def test_what_is_not_a_plan_is_refused(spoil: Any) -> None:
    document = plan([choice("a")]).document()
    spoil(document)
    with pytest.raises(PlanMalformed):
        load_plan(document)


def old_plan() -> bytes:
    """A plan as a version wrote it that knew fewer settings: one like it is in somebody's record."""
    return (Path(__file__).parent / "cases/plans/fewer_settings.json").read_bytes()


def test_a_plan_that_an_older_version_saved_stays_loadable() -> None:
    made = read_plan(old_plan())
    assert set(json.loads(made.text())["settings"]) > set(json.loads(old_plan())["settings"])
    assert [[h.host for h in wave.hosts] for wave in made.waves] == [["a"], ["b", "c"]]
    assert made.settings.tries == WaveSettings().tries  # what it did not know has its default
    assert read_plan(made.text()) == made == load_plan(json.loads(old_plan()))  # also where it was written anew


@pytest.mark.parametrize("spoil", [
    lambda d: d["settings"].update(parallel=24),
    lambda d: d["settings"].pop("parallel"),
    lambda d: d["waves"].pop(),
    lambda d: d.update(digest="0" * 64),
])  # fmt: skip
def test_an_old_plan_that_was_changed_is_refused_all_the_same(spoil: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads(old_plan())
    spoil(document)
    with pytest.raises(PlanMalformed, match="digest"):
        load_plan(document)


@pytest.mark.parametrize(("place", "name"), [
    (lambda d: d, "mood"), (lambda d: d["settings"], "settings.mood"), (lambda d: d["waves"][1], "waves[1].mood"),
    (lambda d: d["waves"][0]["hosts"][0], "waves[0].hosts[0].mood"),
])  # fmt: skip
def test_a_plan_of_a_newer_version_is_refused_and_says_why(place: Callable[[Any], Any], name: str) -> None:
    """A wish that is not understood would not be kept: an approval, say."""
    document = json.loads(old_plan())
    place(document)["mood"] = "careful"
    body = {k: v for k, v in document.items() if k not in ("digest", "schema")}
    document["digest"] = sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    with pytest.raises(PlanMalformed, match=re.escape(name)) as raised:
        load_plan(document)
    assert "version" in raised.value.advice


def test_the_same_input_gives_the_same_plan() -> None:
    choices = [choice(f"h{i}", kernel=f"k{i % 3}/x86_64") for i in range(20)]
    assert plan(choices).digest == plan(list(reversed(choices))).digest
    assert plan(choices).digest != plan(choices, generation=2).digest


def test_stale_hosts_are_found() -> None:
    made = plan([choice(h) for h in "abcd"])
    digest = facts().digest
    current = {"a": ("k1/x86_64", digest), "b": ("k9/x86_64", digest), "c": ("k1/x86_64", "other")}
    assert {s.host: s.what for s in find_stale(made, current)} == {
        "b": "kernel-changed", "c": "facts-changed", "d": "gone",
    }  # fmt: skip
    with pytest.raises(PlanStale, match="3 of 4 hosts") as raised:
        refuse_stale(made, current)
    assert raised.value.exit == 3
    refuse_stale(made, dict.fromkeys("abcd", ("k1/x86_64", digest)))


def test_another_budget_goes_to_every_host_and_nothing_else_changes() -> None:
    usual, slow = plan([choice("a")]), plan([choice("a")], budget=Budget(cpu_percent=80.0, interval_s=1.0))
    ours, others = usual.spec("a"), slow.spec("a")
    assert check_spec(json.loads(json.dumps(others))).budget["cpu_percent"] == 80.0
    assert ours.pop("budget") == msgspec.to_builtins(program().manifest.budget) != others.pop("budget")
    assert ours == others
    assert usual.digest != slow.digest


def test_scopes_are_those_of_the_program() -> None:
    made = plan([choice("a")])
    assert made.spec("a")["scope"] == {"kind": "host"}
    with pytest.raises(PlanImpossible, match="netns"):
        plan([choice("a")], scopes={"a": {"kind": "netns"}})


@pytest.mark.parametrize(
    "wrong",
    [{"waves": steps("50%", "5%")}, {"waves": steps("5%", "canaries")}, {"waves": steps("100%", "3")},
     {"waves": steps("5%", "5%")}, {"control_hosts": -1}, {"waves": steps("1") * 101},
     {"bake_s": math.inf}, {"breaches": 4}, {"bake_s": -1.0}, {"parallel": 0}, {"deadline_s": 0.0}],
)  # fmt: skip
def test_settings_that_contradict_themselves_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsWrong):
        WaveSettings(**wrong)


def test_no_feasible_host_is_an_empty_plan() -> None:
    made = plan([choice("a", None, Verdict.BLOCKED)])
    assert made.waves == ()
    assert load_plan(made.document()) == made
    assert dataclasses.is_dataclass(made)
