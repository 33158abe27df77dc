"""The watchdog's judgement and the cost model: pure, so every edge is a case."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.agent.cost import DEFAULT_ATTACH_NS, MIN_EVENTS, Meter, hook_kinds, kernel_cost, process_cpu_ns
from probes.agent.watchdog import CALM, Standing, judge

BUDGET = {"cpu_percent": 1.0, "ns_per_event": 1000.0, "memory_mib": 96.0, "loss_percent": 0.1, "strikes": 2}


def sample(**measures: float | None) -> dict[str, Any]:
    quiet = {"cpu_percent": 0.1, "ns_per_event": 50.0, "memory_bytes": 1 << 20, "loss_percent": 0.0}
    return {**quiet, **measures}


def after(*samples: dict[str, Any]) -> Standing:
    standing = Standing()
    for one in samples:
        standing = judge(standing, one, BUDGET)
    return standing


OVER = sample(cpu_percent=2.0)
EDGE = sample(cpu_percent=0.9)  # within the budget, above calm
QUIET = sample()


@pytest.mark.parametrize(
    ("samples", "state", "strikes"),
    [
        ([QUIET], "ok", 0),
        ([EDGE], "ok", 0),
        ([sample(cpu_percent=1.0)], "ok", 0),  # the limit itself is within the budget
        ([OVER], "warn", 1),
        ([OVER, QUIET], "ok", 0),
        ([OVER, EDGE], "warn", 1),  # nothing is forgiven until it is calm
        ([OVER, EDGE, QUIET], "ok", 0),
        ([OVER, OVER], "trip", 2),
        ([OVER, EDGE, OVER], "trip", 2),
        ([OVER, QUIET, OVER], "warn", 1),
        ([OVER, QUIET, OVER, QUIET, OVER], "trip", 1),  # three of the last five
        ([OVER, QUIET, QUIET, QUIET, OVER, QUIET], "ok", 0),
        ([sample(memory_bytes=97 << 20)], "trip", 1),  # a hard limit
        ([sample(memory_bytes=95 << 20)], "ok", 0),
        ([sample(ns_per_event=None, cpu_percent=None)] * 3, "ok", 0),  # unread is not over
        ([OVER, OVER, QUIET], "trip", 2),  # final
    ],
)
def test_judgement(samples: list[dict[str, Any]], state: str, strikes: int) -> None:
    standing = after(*samples)
    assert (standing.state, standing.strikes) == (state, strikes)


def test_the_breach_is_kept_with_budget_limit_and_what_was_seen() -> None:
    assert after(OVER, QUIET).document() == {
        "state": "ok",
        "strikes": 0,
        "last": {"budget": "cpu_percent", "limit": 1.0, "seen": 2.0},
    }
    assert after(sample(memory_bytes=192 << 20)).document()["last"] == {
        "budget": "memory_mib",
        "limit": 96.0,
        "seen": 192.0,
    }


measure = st.floats(0, 3)


@given(st.lists(measure, max_size=30))
def test_nothing_trips_below_the_budget_and_two_in_a_row_always_do(series: list[float]) -> None:
    standing = after(*(sample(cpu_percent=value) for value in series))
    over = [value > 1.0 for value in series]
    if not any(over):
        assert standing.state == "ok"
    if any(a and b for a, b in itertools.pairwise(over)):
        assert standing.state == "trip"
    if standing.state == "ok" and any(over):
        assert any(value <= CALM for value in series[len(over) - 1 - over[::-1].index(True) :])


def counts(at_ns: int, **programs: tuple[int, int]) -> dict[str, Any]:
    rows = [{"id": ord(n), "run_cnt": c, "run_time_ns": t} for n, (c, t) in programs.items()]
    return {"at_ns": at_ns, "programs": rows}


def test_the_kernels_share_takes_attach_cost_and_floor_into_account() -> None:
    calibration = {"floor_ns": 30.0, "attach_ns": {"tracepoint": 40.0, "uprobe": 15000.0}}
    kinds = {ord("a"): "tracepoint", ord("b"): "uprobe"}
    # a: 1000 runs of 130 ns reported → 40 + 100; b: 100 runs that report the floor → 15,000 all the same
    found = kernel_cost(
        counts(0, a=(500, 0), b=(0, 0)), counts(10**9, a=(1500, 130_000), b=(100, 3000)), kinds, calibration
    )
    assert found == {
        "percent": pytest.approx(100 * (1000 * 140 + 100 * 15000) / 1e9),
        "ns_per_event": pytest.approx((1000 * 140 + 100 * 15000) / 1100),
        "events": 1100,
        "window_s": 1.0,
    }


def test_without_a_calibration_the_defaults_hold_and_an_unknown_hook_is_not_free() -> None:
    for kind, cost in (("tracepoint", DEFAULT_ATTACH_NS["tracepoint"]), ("novel", DEFAULT_ATTACH_NS["kprobe"])):
        found = kernel_cost(counts(0, a=(0, 0)), counts(10**9, a=(10, 0)), {ord("a"): kind}, {})
        assert found and found["ns_per_event"] == cost


def test_a_program_that_did_not_run_costs_nothing_and_no_window_is_no_measure() -> None:
    found = kernel_cost(counts(0, a=(7, 700)), counts(10**9, a=(7, 700)), {}, {})
    assert found and (found["percent"], found["ns_per_event"], found["events"]) == (0, 0, 0)
    assert kernel_cost(counts(5), counts(5), {}, {}) is None


def test_types_map_to_hook_kinds() -> None:
    rows = [{"id": 1, "type": "sched_cls"}, {"id": 2, "type": "tracing"}, {"id": 3, "type": "tracepoint"}]
    assert hook_kinds(rows) == {1: "tc", 2: "tp_btf", 3: "tracepoint"}


def test_statistics_are_on_for_a_part_of_the_interval_only() -> None:
    meter = Meter([], {ord("a"): "tracepoint"}, {}, 10.0, metered=True, dumps=["rules"], now=100.0)
    assert meter.due() == 109.0 and meter.orders(108.9) == []
    assert meter.orders(109.0) == ["stats on", "sample"] and meter.orders(109.1) == []
    meter.heard(counts(0, a=(0, 0)))
    assert meter.due() == 110.0
    assert meter.orders(110.0) == ["sample", "stats off", "dump rules"]
    assert meter.sample(110.0, 1.0, 0, 0) is None  # the answer is still out
    meter.heard(counts(10**9, a=(100, 0)))
    found = meter.sample(110.0, 1.0, 1, 99)
    assert found and (found["events"], found["loss_percent"], found["kernel_percent"]) == (1000, 1.0, 0.0004)
    assert meter.due() == 119.0


@pytest.mark.parametrize(("runs", "mean"), [(MIN_EVENTS - 1, None), (MIN_EVENTS, 1040.0 - 30.0)])
def test_a_mean_over_a_few_runs_is_no_measure(runs: int, mean: float | None) -> None:
    meter = Meter([], {ord("a"): "tracepoint"}, {}, 1.0, metered=True, dumps=[], now=0.0)
    for now, answer in ((0.5, counts(0, a=(0, 0))), (1.0, counts(10**9, a=(runs, runs * 1000)))):
        assert meter.orders(now)
        meter.heard(answer)
    found = meter.sample(1.0, 0.0, 0, 0)
    assert found and found["ns_per_event"] == mean
    assert found["kernel_percent"] > 0, "what a few runs cost still counts"


def test_without_statistics_nothing_is_made_up() -> None:
    meter = Meter([], {}, {}, 1.0, metered=True, dumps=[], now=0.0)
    for now, answer in ((0.5, counts(0, a=(0, 0))), (1.0, counts(10**9, a=(0, 0)))):
        assert meter.orders(now)
        meter.heard(answer)
    meter.uncounted()
    found = meter.sample(1.0, 0.0, 0, 5)
    assert found and (found["kernel_percent"], found["ns_per_event"], found["events"]) == (None, None, 5)


def test_a_child_that_does_not_answer_is_counted_and_nothing_is_made_up() -> None:
    meter = Meter([], {}, {}, 1.0, metered=True, dumps=[], now=0.0)
    meter.orders(0.5)
    meter.orders(1.0)
    assert meter.sample(1.5, 0.0, 0, 0) is None
    found = meter.sample(2.0, 0.0, 0, 0)
    assert found and found["kernel_percent"] is None and found["ns_per_event"] is None and meter.unanswered == 1


def test_what_commands_took_counts_as_what_ran_them() -> None:
    """A fallback that runs a tool instead of working itself is no cheaper for it."""
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    before = process_cpu_ns(os.getpid())
    subprocess.run([sys.executable, "-c", burn], check=True)
    after = process_cpu_ns(os.getpid())
    assert before is not None and after is not None
    assert after - before >= 280_000_000


def test_a_sample_says_whose_attach_costs_it_rests_on() -> None:
    for calibration, said in (({}, False), ({"attach_ns": {"tracepoint": 40.0}}, True)):
        meter = Meter([], {1: "tracepoint"}, calibration, 2.0, metered=True, dumps=[], now=0.0)
        for at, runs in ((1, 0), (2, 1000)):
            meter.heard({"at_ns": at * 10**9, "programs": [{"id": 1, "run_cnt": runs, "run_time_ns": 30 * runs}]})
        found = meter.sample(2.0, 2.0, 0, 0)
        assert found and found["calibrated"] is said
    bare = Meter([], {}, {}, 2.0, metered=False, dumps=[], now=0.0).sample(2.0, 2.0, 0, 0)
    assert bare and bare["calibrated"] is None
