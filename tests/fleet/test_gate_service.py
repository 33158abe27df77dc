"""What users of a service feel: hosts with the program against controls at the same times."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from fleet.record.rollout_views import ServiceView
from fleet.rollout.gate import GateVerdict, judge_wave
from fleet.rollout.gate.service import MEASURES, rounds_needed
from fleet.rollout.gate.shift import least_chance
from fleet.rollout.planning.service import Service, ServiceWrong
from fleet.rollout.planning.settings import WaveSettings
from probes.manifest import Budget

BUDGET = Budget(cpu_percent=1.0, ns_per_event=1000.0, memory_mib=64.0, loss_percent=0.1)
POLICY = Service("tcp:127.0.0.1:80", tolerance_percent=5.0, tolerance_ms=0.1)
SETTINGS = WaveSettings(samples=1, breaches=1, service=POLICY)


@dataclass(frozen=True)
class Step:
    host: str
    kernel_id: str = "k1"
    variant: str = "core"
    state: str = "healthy"


@dataclass
class World:
    """Hosts and controls whose service takes 5 ms give or take, more at noon, as ``felt`` says."""

    hosts: dict[str, tuple[str, str]] = field(default_factory=lambda: {"h0": ("k1", "core")})
    controls: dict[str, tuple[str, str]] = field(default_factory=lambda: {"c0": ("k1", "core")})
    rounds: int = 8
    seed: int = 1
    noise: float = 0.02
    load: Callable[[int], float] = lambda number: 1.0  # of the day, on all hosts alike
    felt: Callable[[str, bool], float] = lambda host, running: 1.0
    errors: Callable[[str, bool, int], int] = lambda host, running, number: 0

    def rows(self) -> list[ServiceView]:
        rng, found = random.Random(self.seed), []
        own = {h: rng.uniform(0.5, 2) for h in (*self.hosts, *self.controls)}
        for number in range(2 * self.rounds):
            after = number >= self.rounds
            for host in (*self.hosts, *self.controls):
                running = after and host in self.hosts
                level = (
                    5000 * own[host] * self.load(number) * self.felt(host, running) * rng.lognormvariate(0, self.noise)
                )
                errors = self.errors(host, running, number)
                answered = errors < 20
                found.append(ServiceView(
                    "r", 0, host, "canary" if host in self.hosts else "control", "after" if after else "before",
                    float(number), float(number), asked=20, errors=errors,
                    median_us=level if answered else None, tail_us=2 * level if answered else None, id=len(found) + 1,
                ))  # fmt: skip
        return found

    def judge(self, settings: WaveSettings = SETTINGS) -> GateVerdict:
        steps = [Step(h, *k) for h, k in self.hosts.items()]
        return judge_wave(steps, [], BUDGET, settings, controls=self.controls, service=self.rows())


def answers(verdict: GateVerdict) -> dict[str, str]:
    return {c.name.removeprefix("service-"): c.answer for c in verdict.checks if c.name.startswith("service")}


def check(verdict: GateVerdict, name: str) -> Any:
    return next(c for c in verdict.checks if c.name == name)


GOOD = {"asked": "pass", "latency": "pass", "tail": "pass", "errors": "pass"}


def test_nothing_is_asked_of_a_policy_without_a_service() -> None:
    assert answers(World().judge(WaveSettings())) == {}


def test_equal_hosts_pass_and_name_their_samples() -> None:
    verdict = World().judge()
    assert answers(verdict) == GOOD
    assert len(check(verdict, "service-latency").service_samples) == 32


def test_a_slower_service_fails_names_the_kernel_and_says_how_much() -> None:
    verdict = World(felt=lambda host, running: 1.3 if running else 1.0).judge()
    assert answers(verdict) == GOOD | {"latency": "fail", "tail": "fail"}
    assert verdict.answer == "fail"
    assert verdict.failed_kernels == (("k1", "core"),)
    assert "+30" in check(verdict, "service-latency").detail or "+29" in check(verdict, "service-latency").detail
    assert check(verdict, "service-latency").limit == 5.0


def test_the_load_of_the_day_is_not_taken_for_the_program() -> None:
    """The same rise on all hosts: before and after would call it 60 percent."""
    noon = lambda number: 1.0 + 0.05 * number  # noqa: E731 - a shape
    assert answers(World(load=noon).judge()) == GOOD
    alone = World(load=noon, controls={}).judge()
    assert answers(alone)["latency"] == "inconclusive"


def test_without_a_control_nothing_fails_but_nothing_moved_passes() -> None:
    slow = World(felt=lambda host, running: 3.0 if running else 1.0, controls={}).judge()
    assert answers(slow) == GOOD | {"latency": "inconclusive", "tail": "inconclusive"}
    assert "no control" in check(slow, "service-latency").detail
    assert answers(World(controls={}).judge()) == GOOD


def test_what_is_tolerated_passes_the_larger_of_percent_and_time() -> None:
    four = World(felt=lambda host, running: 1.04 if running else 1.0, noise=0.001)
    assert answers(four.judge()) == GOOD
    thirty = World(felt=lambda host, running: 1.3 if running else 1.0)
    lax = WaveSettings(service=Service("tcp:127.0.0.1:80", tolerance_ms=10.0))
    assert answers(thirty.judge(lax)) == GOOD


def test_too_few_rounds_are_inconclusive_never_a_pass() -> None:
    verdict = World(rounds=5, felt=lambda host, running: 9.0 if running else 1.0).judge()
    assert set(answers(verdict).values()) == {"pass", "inconclusive"}
    assert answers(verdict)["latency"] == "inconclusive"
    assert "too few" in check(verdict, "service-latency").detail


def test_errors_that_rise_fail_and_errors_everywhere_do_not() -> None:
    assert answers(World(errors=lambda host, running, _: 4 if running else 0).judge())["errors"] == "fail"
    assert answers(World(errors=lambda host, running, _: 4).judge())["errors"] == "pass"


def test_a_service_that_answers_no_more_fails_though_there_is_no_latency_left() -> None:
    verdict = World(errors=lambda host, running, _: 20 if running else 0).judge()
    assert answers(verdict)["errors"] == "fail"
    assert answers(verdict)["latency"] == "inconclusive"
    assert verdict.answer == "fail"


def test_errors_that_crowd_in_few_rounds_are_told_and_do_not_fail() -> None:
    crowded = World(errors=lambda host, running, number: 20 if running and number > 13 else 0)
    assert answers(crowded.judge())["errors"] == "inconclusive"


def test_a_bad_kernel_is_not_hidden_by_a_good_one() -> None:
    kernels = {"h0": ("k1", "core"), "h1": ("k2", "core"), "h2": ("k1", "core")}
    slow = World(
        kernels, {"c0": ("k1", "core"), "c1": ("k2", "core")}, felt=lambda h, on: 1.4 if on and h == "h1" else 1.0
    )
    verdict = slow.judge()
    assert answers(verdict)["latency"] == "fail"
    assert verdict.failed_kernels == (("k2", "core"),)
    assert check(verdict, "service-latency").hosts == ("h1",)
    assert {r.host for r in slow.rows() if r.id in check(verdict, "service-latency").service_samples} == {"h1", "c1"}


def test_a_control_of_the_same_variant_serves_where_none_has_the_kernel_and_another_variant_never() -> None:
    load = lambda number: 1.0 + 0.05 * number  # noqa: E731 - a shape
    assert answers(World(load=load, controls={"c0": ("k9", "core")}).judge()) == GOOD
    assert answers(World(load=load, controls={"c0": ("k1", "bcc")}).judge())["latency"] == "inconclusive"


def test_a_host_that_misses_a_round_shifts_nothing() -> None:
    world = World({"h0": ("k1", "core"), "h1": ("k1", "core")})
    rows = [r for r in world.rows() if not (r.host == "h1" and r.moment == "after" and r.round % 2)]
    steps = [Step("h0"), Step("h1")]
    verdict = judge_wave(steps, [], BUDGET, SETTINGS, controls=world.controls, service=rows)
    assert answers(verdict) == GOOD


def test_a_service_that_cannot_be_asked_is_an_error_counted_apart() -> None:
    rows = World().rows()
    blind = [
        ServiceView("r", 0, "h0", "canary", "after", float(90 + i), 0.0, outcome="error", id=900 + i) for i in range(5)
    ]
    verdict = judge_wave([Step("h0")], [], BUDGET, SETTINGS, controls=World().controls, service=[*rows, *blind])
    assert answers(verdict)["asked"] == "error"
    assert check(verdict, "service-asked").service_samples == (900, 901, 902, 903, 904)


@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_false_alarms_are_as_rare_as_stated(noise: float) -> None:
    """Of 300 worlds without a shift, fails stay under two percent (stated: at most one)."""
    verdicts = [World(seed=seed, noise=noise).judge() for seed in range(300)]
    assert sum("fail" in answers(v).values() for v in verdicts) <= 6
    assert sum(answers(v) == GOOD for v in verdicts) >= 300 * 0.88


def test_rounds_that_are_needed_can_show_something_and_one_less_cannot() -> None:
    for groups in (1, 5, 42, 100):
        needed, allowed = rounds_needed(groups), 0.01 / len(MEASURES) / groups
        assert least_chance(needed, needed) <= allowed
        assert needed == 6 or least_chance(needed - 1, needed - 1) > allowed


@pytest.mark.parametrize(
    "wrong",
    [{"probe": "udp:1.2.3.4:5"}, {"probe": "tcp:"}, {"probe": "tcp:a\n:1"}, {"arguments": ("x",)}, {"count": 0},
     {"rounds": 5}, {"every_s": 0}, {"timeout_s": 31}, {"tolerance_ms": -1}, {"hosts": 0}],
)  # fmt: skip
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ServiceWrong):
        Service(**{"probe": "tcp:127.0.0.1:80", **wrong})
