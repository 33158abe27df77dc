"""The rollout's machine, on scripted hosts: every gate answer, every request, silence, change and crash in the small.

Most tests drive the machine with a plain journal; the engine's own promises are in test_rollout_engine.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted_hosts import KERNEL_ID, plan_of

from btf.fault import Fault
from fleet.compatibility.verdict import Choice, Verdict
from fleet.record.errors import ClaimRefused
from fleet.rollout.machine.answers import ANSWERS
from fleet.rollout.machine.phases import AFTER
from fleet.rollout.machine.verbs import VERBS
from fleet.rollout.states import PHASES, STATES


def test_every_host_is_applied_once_in_wave_order(start) -> None:
    rollout = start()
    assert rollout.go() == "COMPLETED"
    assert set(rollout.states().values()) == {"healthy"}
    assert all(rollout.fleet.seen(h)["applied"] == 1 for h in "abcdef")
    applied = [e.host for e in rollout.record.events(limit=1000) if e.verb == "apply"]
    assert [set(applied[:1]), set(applied[1:3]), set(applied[3:])] == [{"a"}, {"b", "c"}, {"d", "e", "f"}]
    assert {a.host for a in rollout.record.assignments()} == set("abcdef")
    assert [w.state for w in rollout.view.waves] == ["passed"] * 3
    assert rollout.view.waves[0].gate["answer"] == "pass"


def test_intent_with_token_is_written_before_the_host_is_touched(start) -> None:
    rollout = start(["a"])

    def look(host: str, verb: str) -> None:
        if verb == "apply":
            step = rollout.record.step(rollout.id, host)
            assert (step.state, step.attempts) == ("applying", 1)
            assert step.token

    rollout.fleet.before = look
    assert rollout.go() == "COMPLETED"
    assert rollout.fleet.seen("a")["token"] == rollout.record.step(rollout.id, "a").token


def test_all_of_a_wave_is_checked_before_any_is_attached(start) -> None:
    rollout = start(["a"], ["b", "c"])
    order = []
    rollout.fleet.before = lambda host, verb: order.append((verb, host))
    rollout.go()
    second = [(v, h) for v, h in order if h in "bc" and v in ("check", "apply")]
    assert [v for v, _ in second] == ["check", "check", "apply", "apply"]


def test_a_build_that_does_not_load_attaches_nowhere_in_its_wave(start) -> None:
    rollout = start(script={"b": {"refuse": {"check": "COR-AGT-007"}}})
    assert rollout.go() == "HALTED"
    assert rollout.view.reason.startswith("gate-failed: wave 1")
    assert rollout.fleet.calls("c", "apply") == []
    assert "COR-AGT-007" in rollout.record.step(rollout.id, "b").detail
    assert rollout.states()["d"] == "pending"


def test_a_host_whose_kernel_changed_is_skipped_with_a_code(start) -> None:
    rollout = start(script={"b": {"kernel": {"build_id": "cd" * 20}}})
    assert rollout.go() == "COMPLETED"
    assert rollout.states()["b"] == "skipped"
    assert rollout.record.step(rollout.id, "b").detail.startswith("COR-ROL-011")
    assert rollout.fleet.calls("b") == ["status"]


def test_a_host_decided_otherwise_since_is_skipped(start) -> None:
    rollout = start(["a"], ["b"])
    rollout.record.record_choice(Choice("b", "tcp-flow", KERNEL_ID, "x", "fallback", Verdict.DEGRADED, "no BTF"))
    assert rollout.go() == "COMPLETED"
    assert rollout.states() == {"a": "healthy", "b": "skipped"}


def test_a_host_that_left_the_inventory_fails_alone(start) -> None:
    rollout = start(["a"], ["b", "c"], failed_percent=60.0)
    rollout.record.remove_host("b")
    assert rollout.go() == "COMPLETED"
    assert rollout.states()["b"] == "failed"


def test_one_window_is_one_sample_however_often_it_is_looked_at(start) -> None:
    spike = {"at": 7.0, "cpu_percent": 9.0}
    rollout = start(["a"], script={"a": {"sample": spike}}, samples=3, breaches=2, deadline_s=5.0)
    assert rollout.go() == "PAUSED"
    assert rollout.view.reason.startswith("gate-inconclusive: wave 0: samples: fewer than")
    outcomes = [s.outcome for s in rollout.record.samples(rollout.id, wave=0, limit=1000)]
    assert (outcomes.count("ok"), set(outcomes)) == (1, {"ok", "idle"})


def test_silence_is_neither_success_nor_failure(start) -> None:
    rollout = start(script={"b": {"silent": ["connect"]}})
    assert rollout.go() == "PAUSED"
    assert rollout.view.reason.startswith("gate-inconclusive: wave 1: unreachable")
    assert rollout.states()["b"] == "unreachable"
    rollout.fleet.script.clear()
    assert rollout.go("retry") == "COMPLETED"
    assert rollout.states()["b"] == "healthy"


def test_unreachable_hosts_within_the_limit_do_not_stop_it(start) -> None:
    rollout = start(script={"b": {"silent": ["connect"]}}, unreachable_percent=50.0)
    assert rollout.go() == "COMPLETED"
    assert rollout.states()["b"] == "unreachable"
    rollout.fleet.script.clear()
    assert rollout.go("retry") == "COMPLETED"
    assert set(rollout.states().values()) == {"healthy"}
    assert all(rollout.fleet.seen(h)["applied"] == 1 for h in "abcdef")


def test_a_drop_during_apply_is_unknown_and_asked_after(start) -> None:
    rollout = start(["a"], script={"a": {"drop": 1}})
    assert rollout.go() == "COMPLETED"
    assert rollout.fleet.seen("a")["applied"] == 1
    assert rollout.fleet.calls("a", "apply") == ["apply"]  # the status told; it was not sent again


def test_a_drop_with_silence_after_keeps_the_token_for_later(start) -> None:
    rollout = start(["a"], script={"a": {"drop": 9, "silent": []}})
    asked = []

    def fall_silent(host: str, verb: str) -> None:
        if verb == "apply":
            rollout.fleet.script["a"]["silent"] = ["connect"]
        asked.append(verb)

    rollout.fleet.after = fall_silent
    assert rollout.go() == "PAUSED"
    step = rollout.record.step(rollout.id, "a")
    assert (step.state, step.attempts) == ("unreachable", 3)
    rollout.fleet.script.clear()
    rollout.fleet.after = lambda *_: None
    assert rollout.go("retry") == "COMPLETED"
    assert rollout.record.step(rollout.id, "a").token == step.token
    assert rollout.fleet.seen("a")["applied"] == 1


@pytest.mark.parametrize("verb", ["stage", "check", "apply"])
def test_garbage_from_a_host_is_not_success(start, verb: str) -> None:
    rollout = start(["a"], script={"a": {"garbled": [verb]}})
    assert rollout.go() in ("HALTED", "PAUSED")
    assert rollout.fleet.seen("a")["applied"] == 0


def test_a_refused_apply_gets_a_new_token_when_retried(start) -> None:
    rollout = start(["a"], script={"a": {"refuse": {"apply": "COR-AGT-008"}}})
    assert rollout.go() == "HALTED"
    rollout.fleet.script.clear()
    first = [e.token for e in rollout.record.events(limit=1000) if e.verb == "apply"]
    assert rollout.go("retry") == "COMPLETED"
    tokens = [e.token for e in rollout.record.events(limit=1000) if e.verb == "apply"]
    assert len(tokens) == 2
    assert tokens[1] > first[0]


def test_too_many_failures_stop_the_wave_before_it_is_through(start) -> None:
    names = [f"h{i}" for i in range(8)]
    rollout = start(["a"], names, script={n: {"refuse": {"apply": "COR-AGT-008"}} for n in names}, parallel=2)
    assert rollout.go() == "HALTED"
    tried = [n for n in names if rollout.fleet.calls(n, "apply")]
    assert tried == names[:2]


def test_cost_over_budget_halts(start) -> None:
    rollout = start(script={"b": {"sample": {"cpu_percent": 50.0}}})
    assert rollout.go() == "HALTED"
    check = next(c for c in rollout.view.waves[1].gate["checks"] if c["name"] == "cpu")
    assert check["answer"] == "fail"
    kept = {s.id: s.cpu_percent for s in rollout.record.samples(rollout.id)}
    assert [kept[i] for i in check["samples"]] == [50.0]
    assert rollout.fleet.calls("d") == []


def test_a_host_that_tripped_halts_at_once(start) -> None:
    rollout = start(script={"b": {}}, bake_s=2_000.0)

    def trip(host: str, verb: str) -> None:
        rollout.fleet.script.setdefault(host, {})["trip"] = True

    # It runs first, so that apply is verified, and trips while it bakes.
    rollout.fleet.before = lambda host, verb: (
        trip(host, verb) if host == "a" and verb == "status" and rollout.view.state == "BAKING" else None
    )
    began = rollout.clock.now()
    assert rollout.go() == "HALTED"
    assert "tripped" in rollout.record.step(rollout.id, "a").detail
    assert rollout.clock.now() - began < 2_000


def test_a_canary_that_trips_in_a_later_wave_halts_too(start) -> None:
    rollout = start(["a"], ["b"])
    rollout.fleet.before = lambda host, verb: (
        rollout.fleet.script.update(a={"trip": True})
        if rollout.view.state == "BAKING" and rollout.view.wave == 1
        else None
    )
    assert rollout.go() == "HALTED"
    assert rollout.view.reason == "canary-tripped: a"
    assert rollout.states()["a"] == "failed"
    assert rollout.go("rollback") == "ROLLED_BACK"


def test_a_reboot_while_baking_is_never_a_pass(start) -> None:
    rollout = start(["a"])
    rollout.fleet.before = lambda host, verb: (
        rollout.fleet.script.update(a={"boot_id": "boot-2"}) if rollout.view.state == "BAKING" else None
    )
    assert rollout.go() == "PAUSED"
    assert "rebooted" in rollout.view.reason


def test_a_program_gone_while_baking_fails(start) -> None:
    rollout = start(["a"])

    def vanish(host: str, verb: str) -> None:
        if rollout.view.state == "BAKING":
            with rollout.fleet.state("a") as state:
                state["state"] = "stopped"

    rollout.fleet.before = vanish
    assert rollout.go() == "HALTED"


def test_networking_is_confirmed_over_a_new_connection(start, tmp_path: Path) -> None:
    rollout = start(["a"], revert_s=60.0)
    opened: list[str] = []
    connect = rollout.fleet.connect
    rollout.fleet.connect = lambda host, *, fresh=False: (opened.append(host.name) if fresh else None) or connect(host)
    before: dict[str, int] = {}
    rollout.fleet.before = lambda host, verb: before.setdefault(verb, len(opened)) and None
    assert rollout.go() == "COMPLETED"
    assert rollout.fleet.seen("a")["confirmed"]
    assert before["confirm"] > before["apply"]


# Requests


@pytest.mark.parametrize("when", range(1, 14))
def test_pause_then_resume_at_every_boundary(start, when: int) -> None:
    rollout = start(["a"], ["b"])
    rollout.asked = {when: ["pause"]}
    state = rollout.go()
    if state == "PAUSED":
        rollout.asked = {}
        assert rollout.go() == "PAUSED"  # a pause outlives the controller
        state = rollout.go("resume")
    assert state == "COMPLETED"
    assert all(rollout.fleet.seen(h)["applied"] == 1 for h in "ab")


@pytest.mark.parametrize("when", range(1, 12))
def test_halt_twice_at_every_boundary_is_one_halt(start, when: int) -> None:
    rollout = start(["a"], ["b"])
    rollout.asked = {when: ["halt", "halt"]}
    assert rollout.go() == "HALTED"
    assert len([e for e in rollout.record.events(limit=1000) if e.verb == "halt"]) == 1
    assert rollout.go("rollback") == "ROLLED_BACK"
    assert all(rollout.fleet.seen(h)["state"] in ("absent", "stopped") for h in "ab")


@pytest.mark.parametrize("when", range(1, 12))
def test_stopped_and_started_at_every_boundary(start, when: int) -> None:
    rollout = start(["a"], ["b"])
    reached = []

    def stop(name: str) -> None:
        reached.append(name)
        if len(reached) == when:
            rollout.stop.set()

    rollout._between = stop
    assert rollout.go() in ("RUNNING", "BAKING", "COMPLETED")
    rollout.stop.clear()
    assert rollout.go() == "COMPLETED"
    assert all(rollout.fleet.seen(h)["applied"] == 1 for h in "ab")


def test_promote_skips_what_is_left_of_the_bake(start) -> None:
    rollout = start(["a"], ["b"], bake_s=1e9)
    rollout.fleet.after = lambda *_: None
    bakes = iter(["promote", "promote"])
    rollout.fleet.before = lambda host, verb: (
        rollout.record.request(rollout.id, next(bakes), "ann")
        if verb == "status" and rollout.view.state == "BAKING" and not rollout.record.requests(rollout.id, waiting=True)
        else None
    )
    assert rollout.go() == "COMPLETED"
    assert rollout.outcomes() == ["promoted", "promoted"]


def test_promote_past_a_failed_gate_leaves_the_bad_kernel_behind(start) -> None:
    rollout = start(["a"], ["b"], script={"a": {"sample": {"cpu_percent": 50.0}}})
    assert rollout.go() == "HALTED"
    assert rollout.go("promote") == "COMPLETED"
    assert rollout.states() == {"a": "healthy", "b": "skipped"}
    assert "quarantined" in rollout.record.step(rollout.id, "b").detail


def test_a_paused_rollout_is_watched_until_someone_decides(start) -> None:
    rollout = start(["a"], ["b"])
    rollout.asked = {5: ["pause"]}  # the canary bakes
    looks = []

    def decide(host: str, verb: str) -> None:
        if rollout.view.state == "PAUSED":
            looks.append(verb)
            if len(looks) == 3:
                rollout.record.request(rollout.id, "resume", "ann")

    rollout.fleet.before = decide
    assert rollout.go(hold=True) == "COMPLETED"
    assert rollout.outcomes() == ["paused", "resumed"]
    assert looks == ["status"] * 3


@pytest.mark.parametrize(
    ("state", "verb"),
    [
        (s, v.name)
        for v in VERBS.values()
        for s in STATES
        if s not in v.states and s not in ("RUNNING", "BAKING", "PLANNED", "ROLLING_BACK")
    ],
)
def test_a_request_that_does_not_fit_changes_nothing(start, state: str, verb: str) -> None:
    rollout = start(["a"])
    rollout.record.set_rollout_state(rollout.id, state)
    assert rollout.go(verb) == state
    assert rollout.outcomes() == [f"nothing to do: the rollout is {state}"]
    assert rollout.fleet.calls("a") == []


def test_an_unknown_request_is_answered(start) -> None:
    rollout = start(["a"])
    assert rollout.go("explode") == "COMPLETED"
    assert rollout.outcomes() == ["refused: no such verb"]


def test_every_verb_and_phase_has_its_arm() -> None:
    assert set(ANSWERS) == set(VERBS)
    assert set(AFTER) == set(PHASES)


# Rollback


def test_rollback_goes_widest_first_and_ends_desired_state(start) -> None:
    rollout = start()
    rollout.go()
    assert rollout.go("rollback") == "ROLLED_BACK"
    reverted = [e.host for e in rollout.record.events(limit=1000) if e.verb == "revert"]
    assert [set(reverted[:3]), set(reverted[3:5]), set(reverted[5:])] == [{"d", "e", "f"}, {"b", "c"}, {"a"}]
    assert rollout.record.assignments() == []
    assert set(rollout.states().values()) == {"reverted"}


def test_rollback_touches_only_what_was_touched(start) -> None:
    rollout = start(script={"b": {"refuse": {"check": "COR-AGT-007"}}})
    assert rollout.go() == "HALTED"
    assert rollout.go("rollback") == "ROLLED_BACK"
    assert [h for h in "abcdef" if rollout.fleet.calls(h, "remove")] == ["a"]


def test_a_host_that_is_away_stays_pending_until_it_is_back(start) -> None:
    rollout = start()
    rollout.go()
    rollout.fleet.script["e"] = {"silent": ["connect"]}
    assert rollout.go("rollback") == "ROLLBACK_INCOMPLETE"
    assert rollout.view.reason == "pending-reverts: e"
    assert rollout.states()["e"] == "revert-pending"
    rollout.fleet.script.clear()
    assert rollout.go("rollback") == "ROLLED_BACK"
    assert rollout.fleet.seen("e")["state"] == "stopped"
    assert all(len(rollout.fleet.calls(h, "remove")) == 1 for h in "abcdf")


def test_rollback_brings_back_what_ran_before(start, tmp_path: Path) -> None:
    rollout = start(["a"], ["b"])
    rollout.go()
    first = rollout.id
    newer = plan_of(["a"], ["b"], plan_id="plan-2", build="c" * 64)
    rollout.record.save_plan(newer)
    rollout.id = rollout.record.create_rollout("plan-2", "ann")
    assert rollout.go() == "COMPLETED"
    assert rollout.fleet.seen("b")["build"] == "sha256:" + "c" * 64
    assert rollout.go("rollback") == "ROLLED_BACK"
    assert rollout.fleet.seen("b")["build"] == "sha256:" + "b" * 64
    assert {a.rollout_id for a in rollout.record.assignments()} == {first}


def test_one_taken_over_touches_no_further_host(start) -> None:
    rollout = start(["a"])
    rollout.fleet.before = lambda host, verb: (
        rollout.record.claim_rollout(rollout.id, "other", alive=lambda *_: False) and None if verb == "check" else None
    )
    with pytest.raises(ClaimRefused):
        rollout.go()
    assert rollout.fleet.calls("a", "apply") == []


def test_a_bug_met_on_one_host_fails_that_host_only(start) -> None:
    rollout = start(["a"], ["b", "c"], failed_percent=60.0)

    def trouble(host: str, verb: str) -> None:
        if host == "b":
            raise KeyError("surprise")

    rollout.fleet.before = trouble
    assert rollout.go() == "COMPLETED"
    assert "unexpected KeyError" in rollout.record.step(rollout.id, "b").detail


def test_faults_of_this_room_have_codes_of_their_own() -> None:

    ours = [c for c in _subclasses(Fault) if c.__module__.startswith(("fleet.rollout", "fleet.record"))]
    codes = [c.code for c in ours]
    assert len(codes) == len(set(codes))


def _subclasses(kind: type) -> list[type]:
    return [d for c in kind.__subclasses__() for d in (c, *_subclasses(c))]
