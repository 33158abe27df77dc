"""A service asked in a rollout, on scripted hosts: baseline, controls at the same times, evidence kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripted_hosts import KERNEL_ID, plan_of
from scripted_rollout import Rollout

from fleet.record.rollout_views import ServiceView
from fleet.rollout.gate import judge_wave
from fleet.rollout.hosts.ask import ask_round, chosen, read_answer
from fleet.rollout.hosts.work import Work
from fleet.rollout.planning.plan import load_plan
from fleet.rollout.planning.service import Service
from probes.manifest import Budget

POLICY = Service("tcp:127.0.0.1:80", every_s=2.0, count=5, rounds=6, tolerance_ms=0.0)
WAVES = (["a"], ["b", "c"], ["d", "e", "f"])


def felt(slower: float, errors: int = 0) -> Callable[[str, bool, Any], Any]:
    """5 ms, *slower* where the program runs, and never twice the same."""
    turn = iter(range(10**6))

    def service(host: str, running: bool, question: Any) -> Any:
        bad = errors if running else 0
        level = 5000.0 * (slower if running else 1.0) * (1 + 0.0001 * (next(turn) % 7))
        count = question["count"] - bad
        return {"asked": question["count"], "errors": bad, "latencies_us": [level + i for i in range(count)]}

    return service


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Rollout]]:
    made = []

    def begin(service: Callable[[str, bool, Any], Any], policy: Service = POLICY, script: Any = None) -> Rollout:
        plan = replace(plan_of(*WAVES, service=policy), controls=("f",))
        made.append(Rollout(tmp_path, plan, script))
        made[-1].fleet.service = service
        return made[-1]

    yield begin
    for rollout in made:
        rollout.record.close()


def rows(rollout: Rollout, wave: int, moment: str) -> list[ServiceView]:
    return rollout.record.service_samples(rollout.id, wave, moment=moment)


def test_equal_hosts_go_through_with_baseline_and_controls_at_the_same_times(start) -> None:
    rollout = start(felt(1.0))
    order = []
    rollout.fleet.before = lambda host, verb: order.append((verb, host))
    assert rollout.go() == "COMPLETED"
    assert order.index(("ask", "a")) < order.index(("apply", "a"))
    for wave, hosts in enumerate(WAVES):
        for moment in ("before", "after"):
            found = rows(rollout, wave, moment)
            by_round: dict[float, set[str]] = {}
            for row in found:
                by_round.setdefault(row.round, set()).add(row.host)
            asked = {*hosts, "f"}
            assert len(by_round) >= 6
            assert all(together == asked for together in by_round.values())
            assert {r.role for r in found if r.host == "f"} == ({"control"} if wave < 2 else {"canary"})
    assert rollout.fleet.calls("f", "apply") == ["apply"]
    gate = rollout.view.waves[0].gate
    check = next(c for c in gate["checks"] if c["name"] == "service-latency")
    ids = {r.id for moment in ("before", "after") for r in rows(rollout, 0, moment)}
    assert set(check["service_samples"]) == ids


def test_a_service_that_got_slower_halts_and_nobody_else_is_touched(start) -> None:
    rollout = start(felt(1.5))
    assert rollout.go() == "HALTED"
    assert rollout.view.reason.startswith("gate-failed: wave 0: service-latency: +50")
    assert rollout.states()["b"] == "pending"


def test_errors_where_it_runs_halt(start) -> None:
    assert (rollout := start(felt(1.0, errors=2))).go() == "HALTED"
    assert "service-errors" in rollout.view.reason


def test_the_last_wave_has_no_control_left_and_can_only_be_doubted(start) -> None:
    wave_2 = felt(1.5)
    calm = felt(1.0)
    rollout = start(lambda host, running, q: (wave_2 if host in "def" else calm)(host, running, q))
    assert rollout.go() == "PAUSED"
    assert rollout.view.reason.startswith("gate-inconclusive: wave 2: service-latency")


def test_a_request_cuts_the_baseline_and_what_was_asked_counts(start) -> None:
    rollout = start(felt(1.0))
    asked = []

    def pause_in_the_third_round(host: str, verb: str) -> None:
        if verb == "ask" and host == "a":
            asked.append(host)
            if len(asked) == 3:
                rollout.record.request(rollout.id, "pause", "ann")

    rollout.fleet.before = pause_in_the_third_round
    assert rollout.go() == "PAUSED"
    assert rollout.fleet.calls("a", "apply") == []
    assert len(rows(rollout, 0, "before")) == 6  # three rounds, host and control
    assert rollout.go("resume") == "COMPLETED"
    assert len({r.round for r in rows(rollout, 0, "before")}) == 6


def test_silent_and_refusing_hosts_are_kept_as_what_they_are(start) -> None:
    rollout = start(felt(1.0), script={"a": {"refuse": {"ask": "COR-AGT-040"}}})
    assert rollout.go() == "PAUSED"
    assert rollout.view.reason.startswith("gate-error: wave 0: service-asked")
    found = rows(rollout, 0, "before")
    assert {(r.host, r.outcome) for r in found} == {("a", "error"), ("f", "ok")}
    assert all("COR-AGT-040" in r.document["trouble"] for r in found if r.host == "a")


def test_controls_are_looked_at_while_a_wave_bakes_also_without_a_service(tmp_path: Path) -> None:
    rollout = Rollout(tmp_path, replace(plan_of(*WAVES), controls=("f",)))
    assert rollout.go() == "COMPLETED"
    outcomes = {(s.wave, s.outcome) for s in rollout.record.samples(rollout.id, host="f", limit=1000)}
    assert outcomes >= {(0, "control"), (1, "control"), (2, "ok")}
    assert (2, "control") not in outcomes
    rollout.record.close()


ROW = ServiceView("r", 0, "h", "canary", "before", 1.0, 1.0)


def test_an_answer_becomes_its_median_and_its_tail() -> None:
    row = read_answer(ROW, {"asked": 11, "errors": 1, "latencies_us": list(range(10, 0, -1)), "trouble": "\x1b[31mno"})
    assert (row.outcome, row.median_us, row.tail_us, row.errors) == ("ok", 5.5, 9.0, 1)
    assert row.document["latencies_us"] == [float(v) for v in range(1, 11)]
    assert row.document["trouble"].isprintable()
    assert read_answer(ROW, {"asked": 2, "errors": 2, "latencies_us": []}).median_us is None


@pytest.mark.parametrize(
    "answer",
    [{}, {"asked": 1, "errors": 0, "latencies_us": []}, {"asked": 0, "errors": 0, "latencies_us": []},
     {"asked": 1, "errors": 0, "latencies_us": [float("inf")]}, {"asked": 1, "errors": 0, "latencies_us": [True]},
     {"asked": 1, "errors": 0, "latencies_us": ["1"]}, {"asked": 1, "errors": -1, "latencies_us": [1, 1]},
     {"asked": 10**9, "errors": 10**9, "latencies_us": []}, {"asked": "1", "errors": 0, "latencies_us": [1]},
     {"asked": 1, "errors": 0, "latencies_us": [-1.0]}],
)  # fmt: skip
def test_noise_is_an_error_never_a_measure(answer: dict[str, Any]) -> None:
    row = read_answer(ROW, answer)
    assert (row.outcome, row.asked, row.median_us) == ("error", 0, None)


def test_kernels_take_turns_in_who_is_asked(start) -> None:
    rollout = start(felt(1.0))
    steps = [replace(s, kernel_id="old" if s.host == "e" else "new") for s in rollout.record.steps(rollout.id)]
    assert chosen(steps, 3) == {"a", "b", "e"}
    assert chosen(steps, 100) == set("abcdef")


def test_hosts_of_one_zone_are_held_against_controls_that_another_process_asks(start) -> None:
    """Each zone's process asks its own hosts; the rounds of both begin alike, and each has a baseline of its own."""
    rollout = start(felt(1.5))
    plan = load_plan(rollout.record.plan(rollout.view.plan_id).document)
    hosts = {n: replace(h, zone="far" if n == "f" else "near") for n, h in rollout.record.definitions().items()}
    rollout.record.move_steps(rollout.id, ("pending",), "checked", wave=0)
    for moment in ("before", "after"):
        for _ in range(6):
            for zone in ("near", "far"):
                work = Work(rollout.record, rollout.id, plan, hosts, rollout.fleet.connect, rollout.clock, "test",
                            rollout.stop, zone=zone)  # fmt: skip
                ask_round(work, 0, moment, ["a"] if zone == "near" else [], POLICY)
            rollout.clock.wait(rollout.stop, POLICY.every_s)
        with rollout.fleet.state("a") as state:
            state |= {"state": "running", "token": 1}
    found = rollout.record.service_samples(rollout.id, 0)
    assert {h for h in "af" if any(r.host == h for r in found)} == {"a", "f"}
    verdict = judge_wave(
        [replace(rollout.record.step(rollout.id, "a"), state="verified")], [], Budget(), plan.settings,
        controls={"f": (KERNEL_ID, "core")}, service=found,
    )  # fmt: skip
    assert next(c.answer for c in verdict.checks if c.name == "service-latency") == "fail"
