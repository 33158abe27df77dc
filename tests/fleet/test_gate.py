"""The gate: four answers, and the samples behind each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.record.rollout_views import SampleView, StepView
from fleet.rollout.gate import GateVerdict, judge_wave
from fleet.rollout.planning.settings import WaveSettings
from probes.manifest import Budget

BUDGET = Budget(cpu_percent=1.0, ns_per_event=1000.0, memory_mib=64.0, loss_percent=0.1)
GOOD = {"cpu_percent": 0.2, "ns_per_event": 300.0, "memory_bytes": 8 << 20, "loss_percent": 0.0}


@dataclass(frozen=True)
class Step:
    host: str
    state: str = "healthy"
    kernel_id: str = "k1"
    variant: str = "core"


def samples(host: str, count: int = 3, first: int = 1, **changes: Any) -> list[SampleView]:
    return [
        SampleView(host, "tcp-flow", "r", 0, at=float(first + i), id=first + i, **{**GOOD, **changes})
        for i in range(count)
    ]


def wave(count: int, **changes: Any) -> list[SampleView]:
    return [s for n in range(count) for s in samples(f"h{n}", first=10 * n + 1, **changes)]


def judge(steps: list[Step], taken: list[SampleView], **changes: Any) -> GateVerdict:
    canary = changes.pop("canary", False)
    return judge_wave(steps, taken, BUDGET, WaveSettings(**changes), canary=canary)


def hosts(count: int) -> list[Step]:
    return [Step(f"h{n}") for n in range(count)]


def check(verdict: GateVerdict, name: str) -> Any:
    return next(c for c in verdict.checks if c.name == name)


def test_healthy_hosts_within_budget_pass_and_name_their_samples() -> None:
    verdict = judge(hosts(2), wave(2))
    assert verdict.answer == "pass"
    assert check(verdict, "cpu").samples == (1, 2, 3, 11, 12, 13)
    assert verdict.failed_kernels == ()


def test_the_records_views_fit() -> None:
    step = StepView("r", "h0", 0, "core", "sha256:1", "k1", "healthy", 1, 5, None, None, None, None, 0.0, 1.0)
    assert judge_wave([step], samples("h0"), BUDGET, WaveSettings()).answer == "pass"


@pytest.mark.parametrize(
    ("over", "name"),
    [
        ({"cpu_percent": 1.5}, "cpu"),
        ({"ns_per_event": 5000.0}, "time-per-event"),
        ({"memory_bytes": 65 << 20}, "memory"),
        ({"loss_percent": 0.2}, "losses"),
    ],
)
def test_two_of_three_over_budget_fail_and_name_the_host_and_samples(over: dict[str, Any], name: str) -> None:
    taken = [*samples("h0", 1), *samples("h0", 2, 2, **over), *samples("h1", first=11)]
    verdict = judge([Step("h0", kernel_id="k7"), Step("h1")], taken)
    assert verdict.answer == "fail"
    assert (check(verdict, name).hosts, check(verdict, name).samples) == (("h0",), (2, 3))
    assert verdict.failed_kernels == (("k7", "core"),)
    assert name in verdict.reason


def test_one_spike_is_no_breach_and_old_samples_do_not_count() -> None:
    assert judge(hosts(1), [*samples("h0", 2), *samples("h0", 1, 3, cpu_percent=9.0)]).answer == "pass"
    assert judge(hosts(1), [*samples("h0", 2, cpu_percent=9.0), *samples("h0", 3, 3)]).answer == "pass"


def test_exactly_the_budget_is_within_it() -> None:
    assert judge(hosts(1), samples("h0", cpu_percent=1.0, memory_bytes=64 << 20)).answer == "pass"


def test_too_few_samples_are_inconclusive() -> None:
    verdict = judge(hosts(2), [*samples("h0"), *samples("h1", 2, 11)])
    assert verdict.answer == "inconclusive"
    assert check(verdict, "samples").hosts == ("h1",)
    assert judge(hosts(1), []).answer == "inconclusive"


def test_a_window_that_is_not_over_is_no_measurement() -> None:
    assert (
        judge(hosts(1), samples("h0", 9, outcome="idle", cpu_percent=None, memory_bytes=None)).answer == "inconclusive"
    )


def test_an_empty_wave_or_an_unfinished_one_never_passes() -> None:
    assert judge([], []).answer == "inconclusive"
    assert judge([Step("h0"), Step("h1", "staged")], samples("h0")).answer == "inconclusive"
    assert judge([Step("h0", "skipped")], []).answer == "inconclusive"


@pytest.mark.parametrize("state", ["failed", "reverted", "revert-failed"])
def test_a_failed_step_fails_small_waves(state: str) -> None:
    verdict = judge([Step("h0"), Step("h1", state, kernel_id="k2", variant="bcc")], samples("h0"))
    assert verdict.answer == "fail"
    assert verdict.failed_kernels == (("k2", "bcc"),)


def test_failures_are_counted_against_finished_hosts_rounded_down() -> None:
    steps = hosts(50)
    steps[0] = replace(steps[0], state="failed")
    assert judge(steps, wave(50)[3:]).answer == "pass"  # 2 % of 50 is one
    assert judge(steps, wave(50)[3:], canary=True).answer == "fail"
    assert judge(steps, wave(50)[3:], failed_cap=0).answer == "fail"
    assert judge(steps[:49], wave(49)[3:]).answer == "fail"  # 2 % of 49 is none


def test_unreachable_is_neither_good_nor_failed() -> None:
    steps = [*hosts(9), Step("h9", "unreachable")]
    assert judge(steps, wave(9)).answer == "pass"  # one in ten is tolerated
    assert judge(steps, wave(9), canary=True).answer == "inconclusive"
    two = [*hosts(8), Step("h8", "unreachable"), Step("h9", "unreachable")]
    verdict = judge(two, wave(8))
    assert verdict.answer == "inconclusive"
    assert check(verdict, "failures").answer == "pass"


def test_a_signal_lost_while_baking_is_inconclusive() -> None:
    taken = [*samples("h0"), *samples("h0", 1, 9, outcome="unreachable")]
    assert judge(hosts(1), taken).answer == "inconclusive"


def test_a_watchdog_trip_fails_and_names_its_sample() -> None:
    taken = [*samples("h0", 3), *samples("h0", 1, 7, tripped=True)]
    verdict = judge(hosts(1), taken)
    assert verdict.answer == "fail"
    assert check(verdict, "watchdog").samples == (7,)


def test_gone_from_the_kernel_fails_and_a_reboot_proves_nothing() -> None:
    assert judge(hosts(1), [*samples("h0"), *samples("h0", 1, 9, outcome="absent")]).answer == "fail"
    assert judge(hosts(1), [*samples("h0"), *samples("h0", 1, 9, outcome="rebooted")]).answer == "inconclusive"


def test_unreadable_is_an_error_only_when_it_lasts() -> None:
    unreadable = {"outcome": "error", "cpu_percent": None, "memory_bytes": None}
    assert judge(hosts(1), [*samples("h0"), *samples("h0", 4, 4, **unreadable)]).answer == "pass"
    verdict = judge(hosts(1), [*samples("h0"), *samples("h0", 5, 4, **unreadable)])
    assert verdict.answer == "error"
    assert check(verdict, "readable").samples == (4, 5, 6, 7, 8)


def test_a_cost_that_should_be_there_and_is_not_is_an_error() -> None:
    assert judge(hosts(1), samples("h0", cpu_percent=None)).answer == "error"
    assert judge(hosts(1), samples("h0", ns_per_event=None, loss_percent=None)).answer == "pass"


def test_a_breach_outranks_what_is_unreadable() -> None:
    assert judge(hosts(1), samples("h0", cpu_percent=None, memory_bytes=65 << 20)).answer == "fail"


STATES = st.sampled_from(["pending", "healthy", "verified", "failed", "unreachable", "skipped", "reverted"])


@given(st.lists(STATES, max_size=8), st.integers(0, 4), st.booleans())
def test_a_pass_always_rests_on_enough_samples_of_every_running_host(
    states: list[str], count: int, canary: bool
) -> None:
    steps = [Step(f"h{n}", state) for n, state in enumerate(states)]
    taken = [s for n in range(len(states)) for s in samples(f"h{n}", count, 10 * n + 1)]
    verdict = judge(steps, taken, canary=canary)
    if verdict.answer == "pass":
        running = [s for s in steps if s.state in ("healthy", "verified")]
        assert running
        assert count >= 3
        assert "pending" not in states
    ids = {s.id for s in taken}
    assert all(set(c.samples) <= ids for c in verdict.checks)


def test_default_attach_costs_are_told_and_judged_all_the_same() -> None:
    guessed = {"document": {"sample": {"calibrated": False}}}
    verdict = judge(hosts(2), [*samples("h0"), *samples("h1", first=11, **guessed)])
    assert verdict.answer == "pass"
    assert check(verdict, "cpu").detail.endswith("; 1 hosts at default attach costs")
    assert "default" not in check(verdict, "memory").detail
    assert judge(hosts(1), samples("h0", cpu_percent=3.0, **guessed)).answer == "fail"


def test_a_fallback_without_kernel_part_is_held_against_the_same_share_of_a_core() -> None:
    fallback = {"ns_per_event": None, "document": {"sample": {"calibrated": None}}}
    step = [Step("h0", variant="fallback")]
    assert judge(step, samples("h0", cpu_percent=0.9, **fallback)).answer == "pass"
    verdict = judge(step, samples("h0", cpu_percent=1.1, **fallback))
    assert (verdict.answer, verdict.failed_kernels) == ("fail", (("k1", "fallback"),))
    assert "default" not in check(verdict, "cpu").detail


def test_silent_controls_are_told_beside_silent_hosts() -> None:
    steps = [Step("h0", "unreachable")]
    silent = samples("c0", 1, 5, outcome="unreachable")
    verdict = judge_wave(steps, silent, BUDGET, WaveSettings(), controls={"c0": ("k1", "core"), "c1": ("k1", "core")})
    assert check(verdict, "unreachable").detail.endswith("; of 2 controls 1 silent too")
    assert check(verdict, "unreachable").samples == (5,)


def test_a_check_names_what_it_was_held_against() -> None:
    found = check(judge(hosts(1), samples("h0")), "memory")
    assert (found.limit, found.unit) == (64.0, "MiB")
