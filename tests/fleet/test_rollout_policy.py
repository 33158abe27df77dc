"""Rollout policies: what a file means for who comes in which wave, and what is wrong with it, in one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from decide_cases import program

from btf.fault import Fault
from fleet.compatibility.verdict import Choice, Verdict
from fleet.rollout.planning.freeze import make_plan
from fleet.rollout.planning.plan import Plan, read_plan
from fleet.rollout.planning.policy_file import policy_schema, read_policy, settings_of
from fleet.rollout.planning.settings import WaveSettings, WaveStep
from inventory.host import Host
from probes.catalogue import Build

CASES = json.loads((Path(__file__).parent / "cases" / "waves.json").read_text())
BUILDS = {v: Build("tcp-flow", v, f"sha256:{v}", {}, {}) for v in ("core", "bcc")}
ZONES, TIERS = ("eu1", "us1"), ("edge", "db", "web")
# Twelve hosts: zones in turn, tiers in turn, the first half on one kernel build and the second on another.
HOSTS = [Host(f"h{n:02}", zone=ZONES[n % 2], labels={"tier": TIERS[n % 3]}) for n in range(12)]


def kernel(host: Host) -> str:
    return f"{'a' if host.name < 'h06' else 'b'}/x86_64"


def plan(careful: WaveSettings, hosts: list[Host]) -> Plan:
    choices = [Choice(h.name, "tcp-flow", kernel(h), "f", "core", Verdict.FITS, "core fits") for h in hosts]
    return make_plan(program(), choices, hosts, careful, BUILDS, config={}, now=1.0, id="p")


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_cases(case: dict[str, Any]) -> None:
    made = plan(settings_of(read_policy(case["policy"].encode(), "policy.toml")), HOSTS)
    assert {w.name: len(w.hosts) for w in made.waves} == case["waves"]
    assert len(made.controls) == case["controls"]
    assert set(made.controls) <= {h.host for h in made.waves[-1].hosts}


def test_a_selector_takes_whom_it_matches() -> None:
    made = plan(settings_of(read_policy(b'waves = ["zone:eu1"]', "p")), HOSTS)
    zones = {h.name: h.zone for h in HOSTS}
    assert {zones[h.host] for h in made.waves[1].hosts} == {"eu1"}
    left = [h.host for h in made.waves[2].hosts if zones[h.host] == "eu1"]
    assert set(left) <= set(made.controls)


def test_each_wave_keeps_its_window_its_bake_and_its_approval() -> None:
    policy = b"""
    waves = ["canaries", {take = "25%", window = "Sat 08:00-12:00 UTC", approval = true}, {take = "100%", bake_s = 5}]
    window = "daily 22:00-04:00 Europe/Berlin"
    """
    made = plan(settings_of(read_policy(policy, "p")), HOSTS)
    assert [(w.window, w.approval, w.bake_s) for w in made.waves] == [
        ("", False, 600.0), ("Sat 08:00-12:00 UTC", True, 300.0), ("", False, 5.0)
    ]  # fmt: skip
    assert made.settings.window == "daily 22:00-04:00 Europe/Berlin"
    assert read_plan(made.text()) == made


def test_who_is_excluded_is_named() -> None:
    made = plan(WaveSettings(exclude="zone=us1"), HOSTS)
    assert {s.code for s in made.skipped} == {"excluded"}
    assert [s.host for s in made.skipped] == [h.name for h in HOSTS if h.zone == "us1"]


TAKES = st.one_of(
    st.integers(1, 5).map(str), st.sampled_from(["zone:eu1", "zone:us1", "zone:mars", "label:tier=edge", "name~h0*"])
)


@st.composite
def policies(draw: st.DrawFn) -> WaveSettings:
    """Any mix of counts, zones and selectors, with rising shares among them."""
    shares = [f"{n}%" for n in sorted(draw(st.sets(st.integers(1, 99), max_size=3)))]
    takes = draw(st.lists(TAKES, max_size=4))
    for share, at in zip(shares, sorted(draw(st.lists(st.integers(0, 4), min_size=3, max_size=3))), strict=False):
        takes.insert(min(at + shares.index(share), len(takes)), share)
    return WaveSettings(waves=tuple(WaveStep(t) for t in takes), control_hosts=draw(st.integers(0, 3)))


@given(policies(), st.integers(0, 60))
@settings(max_examples=150, deadline=None)
def test_every_feasible_host_is_in_exactly_one_wave_whatever_the_steps(careful: WaveSettings, count: int) -> None:
    hosts = [Host(f"h{n:02}", zone=ZONES[n % 2], labels={"tier": TIERS[n % 3]}) for n in range(count)]
    made = plan(careful, hosts)
    planned = [h.host for w in made.waves for h in w.hosts]
    assert sorted(planned) == [h.name for h in hosts]
    assert all(w.hosts for w in made.waves)
    assert {h.kernel_id for w in made.waves[:1] for h in w.hosts} == {kernel(h) for h in hosts}
    assert not {h.host for w in made.waves[:-1] for h in w.hosts} & set(made.controls)
    assert plan(careful, list(reversed(hosts))).digest == made.digest


@pytest.mark.parametrize(
    ("policy", "code", "words"),
    [
        ("bake = 3", "COR-PLN-003", "did you mean bake_s?"),
        ("failed_percnt = 3", "COR-PLN-003", "did you mean failed_percent?"),
        ("zzz = 1", "COR-PLN-003", "there is waves,"),
        ("waves = [{tkae = 3}]", "COR-PLN-003", "waves[0]: no key is called 'tkae'; did you mean take?"),
        ("[service]\nprob = 'tcp:127.0.0.1:1'", "COR-PLN-003", "service: no key is called 'prob'; did you mean probe?"),
        ("waves = [true]", "COR-PLN-003", "waves[0]: True is no wave"),
        ("waves = [0]", "COR-PLN-003", "waves[0]: 0 is no wave"),
        ("waves = 'all'", "COR-PLN-003", "waves must be a list"),
        ("waves = [{name = 'x'}]", "COR-PLN-003", "missing required field `take`"),
        ("waves = ['eu1']", "COR-PLN-001", "'eu1' is no wave: canaries, 3, 5%, zone:NAME or a selector"),
        ("waves = ['']", "COR-PLN-001", "a wave must say whom it takes"),
        ("waves = ['0%']", "COR-PLN-001", "takes nobody"),
        ("waves = ['101%']", "COR-PLN-001", "more than there are"),
        ("waves = ['5%', '5%']", "COR-PLN-001", "do not rise"),
        ("waves = ['100%', 3]", "COR-PLN-001", "nobody left"),
        ("waves = [3, 'canaries']", "COR-PLN-001", "first wave"),
        ("waves = [{take = '5%', bake_s = -1}]", "COR-PLN-001", "at least 0 s"),
        ("bake_s = nan", "COR-PLN-001", "not finite"),
        ("bake_s = 'long'", "COR-PLN-003", "Expected `float`, got `str` - at `bake_s`"),
        ("on_fail = 'explode'", "COR-PLN-003", "at `on_fail`"),
        ("window = 'at night'", "COR-PLN-004", "is no window"),
        ("exclude = 'zone'", "COR-INV-020", "expected"),
        ("a b", "COR-PLN-003", "p.toml: not TOML"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(policy: str, code: str, words: str) -> None:
    with pytest.raises(Fault) as raised:
        read_policy(policy.encode(), "p.toml")
    assert raised.value.code == code
    assert words in raised.value.message
    assert "\n" not in raised.value.message
    assert raised.value.advice


def test_bytes_that_are_no_text_and_files_without_end_are_refused() -> None:
    for data in (b"\xff\xfe", b"#" * 300_000):
        with pytest.raises(Fault, match="COR-PLN-003"):
            read_policy(data, "p.toml")


def test_the_schema_knows_every_key_and_no_other() -> None:
    schema = policy_schema()["$defs"]["WaveSettings"]
    assert set(schema["properties"]) == set(WaveSettings.__dataclass_fields__)
    assert schema["additionalProperties"] is False
    assert {"type": "integer", "minimum": 1} in schema["properties"]["waves"]["items"]["anyOf"]


def test_an_empty_file_is_the_defaults() -> None:
    assert settings_of(read_policy(b"", "p")) == WaveSettings()
