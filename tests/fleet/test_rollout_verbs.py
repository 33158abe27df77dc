"""What persons ask of a rollout, on scripted hosts: what it does, what it leaves alone, and what it is answered."""

from __future__ import annotations

import pytest
from scripted_hosts import KERNEL_ID

from fleet.rollout.machine.answers import rehearse
from fleet.rollout.states import goes_on_by

OTHER = "cd" * 20 + "/x86_64"
BAD = {"sample": {"cpu_percent": 50.0}}
REFUSES = {"refuse": {"check": "COR-AGT-007"}}


def verbs(rollout, verb: str) -> list[str]:
    return [e.actor for e in rollout.record.events(limit=10_000) if e.verb == verb]


def while_baking(rollout, wave: int, *asks: tuple[str, dict]) -> None:
    """Ask these, once, when *wave* is seen baking."""
    left = list(asks)

    def look(host: str, verb: str) -> None:
        if left and rollout.view.state == "BAKING" and rollout.view.wave == wave:
            for name, arguments in (left.pop(0) for _ in list(left)):
                rollout.record.request(rollout.id, name, "ann", **arguments)

    rollout.fleet.before = look


# Approval


def test_nothing_is_touched_before_a_person_approves(start) -> None:
    rollout = start(["a"], approval=True)
    assert rollout.go() == "WAITING_APPROVAL"
    assert rollout.go() == "WAITING_APPROVAL"
    assert rollout.fleet.calls("a") == []
    assert "rollout approve" in goes_on_by(rollout.id, rollout.view.state, rollout.view.reason)
    assert rollout.ask("approve", "bob", remark="looked at") == "COMPLETED"
    assert rollout.view.approved_by == "bob"
    assert verbs(rollout, "approve") == ["bob"]


def test_denied_it_ends_and_says_who_and_why(start) -> None:
    rollout = start(["a"], approval=True)
    assert rollout.ask("deny", "bob", remark="not today") == "ABORTED"
    assert rollout.view.reason == "denied: by bob: not today"
    assert rollout.fleet.calls("a") == []


def test_a_second_person_approves_where_the_policy_wants_one(start) -> None:
    rollout = start(["a"], approval=True, second_person=True)
    assert rollout.ask("approve", "ann") == "WAITING_APPROVAL"
    assert rollout.outcomes()[0].startswith("refused: ann started it")
    assert rollout.ask("approve", "bob") == "COMPLETED"


def test_no_way_around_an_approval(start) -> None:
    rollout = start(["a"], approval=True)
    rollout.record.set_rollout_state(rollout.id, "HALTED", reason="asked: by ann")  # halted before it began
    assert rollout.ask("resume") == "WAITING_APPROVAL"
    for verb in ("promote", "retry", "resume", "rollback", "freeze", "reconcile"):
        assert rollout.ask(verb) == "WAITING_APPROVAL", verb
    assert rollout.fleet.calls("a") == []


def test_a_wave_waits_for_its_own_approval_and_what_runs_stays(start) -> None:
    rollout = start(approvals=(1,))
    assert rollout.go() == "WAITING_APPROVAL"
    assert rollout.view.reason == "approval: wave 1 (wave 1): the policy asks for it"
    assert rollout.states() == {"a": "healthy", **dict.fromkeys("bcdef", "pending")}
    assert all(rollout.fleet.calls(h) == [] for h in "bcdef")
    assert rollout.go() == "WAITING_APPROVAL"
    assert rollout.ask("approve", "bob") == "COMPLETED"  # wave 2 did not want one
    assert verbs(rollout, "approve") == ["bob"]


def test_who_approves_the_plan_approves_its_canaries_and_no_later_wave(start) -> None:
    rollout = start(approval=True, approvals=(0, 2))
    assert rollout.go() == "WAITING_APPROVAL"
    assert rollout.ask("approve", "bob") == "WAITING_APPROVAL"
    assert rollout.states() == {**dict.fromkeys("abc", "healthy"), **dict.fromkeys("def", "pending")}
    assert rollout.ask("approve", "eve") == "COMPLETED"
    assert verbs(rollout, "approve") == ["bob", "eve"]


@pytest.mark.parametrize(("verb", "ends"), [("deny", "ABORTED"), ("rollback", "ROLLED_BACK"), ("abort", "ABORTED")])
def test_out_of_waiting_for_a_wave(start, verb: str, ends: str) -> None:
    rollout = start(approvals=(1,))
    rollout.go()
    assert rollout.ask(verb) == ends
    assert rollout.fleet.seen("a")["state"] == ("stopped" if verb == "rollback" else "running")
    assert rollout.ask("rollback") == "ROLLED_BACK"


def test_straight_through_does_not_go_past_an_approval(start) -> None:
    rollout = start(bake_s=1e9, canary_bake_s=1e9, approvals=(2,))
    while_baking(rollout, 0, ("promote", {"all": True}))
    assert rollout.go() == "WAITING_APPROVAL"
    assert rollout.ask("approve", "bob") == "COMPLETED"


def test_a_wave_that_was_approved_and_failed_is_retried_without_asking_again(start) -> None:
    rollout = start(approvals=(1,), script={"b": {"refuse": {"apply": "COR-AGT-008"}}})
    rollout.go()
    assert rollout.ask("approve") == "HALTED"
    rollout.fleet.script.clear()
    assert rollout.ask("retry") == "COMPLETED"


def test_what_runs_is_watched_while_a_wave_waits_for_approval(start) -> None:
    rollout = start(["a"], ["b"], approvals=(1,))
    looks: list[str] = []

    def look(host: str, verb: str) -> None:
        if rollout.view.state == "WAITING_APPROVAL":
            looks.append(verb)
            if len(looks) == 3:
                rollout.record.request(rollout.id, "approve", "bob")

    rollout.fleet.before = look
    assert rollout.go(hold=True) == "COMPLETED"
    assert looks == ["status"] * 3


# Freezing


def test_frozen_hosts_are_watched_and_nothing_else_happens_to_them(start) -> None:
    rollout = start(["a"], ["b"])
    while_baking(rollout, 0, ("freeze", {"remark": "an incident"}))
    assert rollout.go() == "FROZEN"
    rollout.fleet.before = lambda host, verb: None
    before = len(rollout.fleet.calls("a"))
    for verb in ("retry", "promote", "halt", "reconcile", "pause"):
        assert rollout.ask(verb) == "FROZEN", verb
    assert rollout.ask("rollback", host=["a"]) == "FROZEN"
    assert len(rollout.fleet.calls("a")) == before
    looks: list[str] = []

    def thaw(host: str, verb: str) -> None:
        looks.append(verb)
        if len(looks) == 3:
            rollout.record.request(rollout.id, "resume", "bob")

    rollout.fleet.before = thaw
    assert rollout.go(hold=True) == "COMPLETED"
    assert looks[:3] == ["status"] * 3


@pytest.mark.parametrize(("verb", "ends"), [("resume", "COMPLETED"), ("rollback", "ROLLED_BACK"), ("abort", "ABORTED")])
def test_out_of_frozen(start, verb: str, ends: str) -> None:
    rollout = start(["a"], ["b"])
    while_baking(rollout, 0, ("freeze", {}))
    assert rollout.go() == "FROZEN"
    assert rollout.ask(verb) == ends


@pytest.mark.parametrize(
    ("on_fail", "state", "a"),
    [("halt", "HALTED", "running"), ("freeze", "FROZEN", "running"), ("rollback", "ROLLED_BACK", "stopped")],
)  # fmt: skip
def test_a_failed_gate_leads_where_the_policy_says(start, on_fail: str, state: str, a: str) -> None:
    rollout = start(["a"], ["b"], script={"a": BAD}, on_fail=on_fail)
    assert rollout.go() == state
    assert rollout.fleet.seen("a")["state"] == a
    assert rollout.states()["b"] == "pending"


def test_a_rollout_frozen_by_its_gate_thaws_to_a_halt(start) -> None:
    rollout = start(["a"], ["b"], script={"a": BAD}, on_fail="freeze")
    rollout.go()
    assert rollout.ask("resume") == "HALTED"
    assert rollout.view.reason.startswith("gate-failed: wave 0")
    assert rollout.ask("rollback") == "ROLLED_BACK"


# Promotion


def test_straight_through_skips_bakes(start) -> None:
    rollout = start(bake_s=1e9, canary_bake_s=1e9)
    while_baking(rollout, 0, ("promote", {"all": True}))
    assert rollout.go() == "COMPLETED"
    assert len([e for e in rollout.record.events(limit=10_000) if e.after == "BAKING"]) == 1
    assert set(rollout.states().values()) == {"healthy"}
    assert rollout.view.pace == ""


def test_straight_through_halts_on_failed_applies_all_the_same(start) -> None:
    rollout = start(bake_s=1e9, script={"b": {"refuse": {"apply": "COR-AGT-008"}}})
    while_baking(rollout, 0, ("promote", {"all": True}))
    assert rollout.go() == "HALTED"
    assert rollout.states()["d"] == "pending"
    assert rollout.view.pace == ""  # whoever goes on decides anew


def test_one_bake_is_skipped_and_the_next_is_not(start) -> None:
    rollout = start()
    rollout.asked = {2: ["pause"]}
    assert rollout.go() == "PAUSED"
    rollout.asked = {}
    assert rollout.ask("promote", skip_bake=True) == "COMPLETED"
    baked = [e.detail for e in rollout.record.events(limit=10_000) if e.verb == "wave" and e.after == "baking"]
    assert [d.split()[1] for d in baked] == ["1", "2"]


def test_promote_of_a_wave_that_is_not_attached_says_what_would_help(start) -> None:
    rollout = start()
    rollout.asked = {2: ["pause"]}
    rollout.go()
    assert rollout.ask("promote") == "PAUSED"
    assert "--skip-bake" in rollout.outcomes()[-1]


# Halting


def test_a_canary_failed_by_hand_keeps_who_did_it_as_its_gate(start) -> None:
    rollout = start(["a"], ["b"])
    while_baking(rollout, 0, ("halt", {"remark": "pager"}))
    assert rollout.go() == "HALTED"
    wave = rollout.view.waves[0]
    assert (wave.state, wave.gate["answer"], wave.gate["reason"]) == ("failed", "fail", "failed by hand by ann: pager")
    assert rollout.ask("resume") == "COMPLETED"  # a person's failing is a person's to take back


def test_a_halt_that_crosses_a_passing_gate_wins(start) -> None:
    rollout = start(["a"])
    judged = []

    def at_gate(name: str) -> None:
        if name == "advance" and rollout.view.waves[0].phase == "gate" and not judged:
            judged.append(name)  # the gate is about to be asked; the request is there when it has answered
            rollout.record.request(rollout.id, "halt", "ann")
            rollout.record.request(rollout.id, "halt", "bob")

    rollout._between = at_gate
    assert rollout.go() == "HALTED"
    assert verbs(rollout, "halt") == ["ann"]
    assert rollout.outcomes() == ["halted", "nothing to do: the rollout is HALTED"]


def test_a_promotion_that_crosses_a_failing_gate_promotes_nothing_unseen(start) -> None:
    rollout = start(["a"], ["b"], script={"a": BAD})
    asked = []

    def at_gate(name: str) -> None:
        if rollout.view.state == "BAKING" and rollout.view.waves[0].phase == "gate" and not asked:
            asked.append(rollout.record.request(rollout.id, "pause", "ann"))

    rollout._between = at_gate
    assert rollout.go() == "PAUSED"
    assert rollout.states()["b"] == "pending"


# Kernels that halt alone


def two_kernels(start, **more):
    """Canaries a (our kernel), b and x (others); then c, d of ours and e of b's."""
    kernels = {"b": OTHER, "e": OTHER, "x": "ef" * 20 + "/x86_64"}
    return start(["a", "b", "x"], ["c", "e"], ["d"], kernels=kernels, **more)


@pytest.mark.parametrize("trouble", [BAD, REFUSES, {"refuse": {"apply": "COR-AGT-008"}}])
def test_a_bad_kernel_build_halts_alone(start, trouble: dict) -> None:
    rollout = two_kernels(start, script={"b": trouble})
    assert rollout.go() == "COMPLETED"
    states = rollout.states()
    assert {h: states[h] for h in "axcd"} == dict.fromkeys("axcd", "healthy")
    assert states["e"] == "held"
    assert rollout.view.held == ((OTHER, "core"),)
    assert rollout.view.reason == f"held: core on {OTHER} (2 hosts)"
    assert rollout.fleet.calls("e") == []
    told = [e.detail for e in rollout.record.events(limit=10_000) if e.verb == "hold"]
    assert [t.partition(" halts alone")[0] for t in told] == [f"core on {OTHER}"]
    assert all(rollout.fleet.seen(h)["applied"] == 1 for h in "axcd")


def test_what_runs_on_a_held_kernel_is_undone_where_policy_rolls_back(start) -> None:
    rollout = two_kernels(start, script={"b": BAD}, on_fail="rollback")
    assert rollout.go() == "COMPLETED"
    assert rollout.states()["b"] == "reverted"
    assert rollout.fleet.seen("b")["state"] == "stopped"
    assert rollout.fleet.seen("a")["state"] == "running"


def test_a_held_kernel_is_retried_when_a_person_says_so(start) -> None:
    rollout = two_kernels(start, script={"b": REFUSES})
    rollout.go()
    assert rollout.ask("retry") == "COMPLETED"
    assert rollout.outcomes() == ["nothing to do: no host failed or was unreachable"]
    rollout.fleet.script.clear()
    assert rollout.ask("retry", kernel=[OTHER]) == "COMPLETED"
    assert set(rollout.states().values()) == {"healthy"}
    assert (rollout.view.held, rollout.view.reason) == ((), None)


def test_a_held_kernel_is_rolled_back_when_a_person_says_so(start) -> None:
    rollout = two_kernels(start, script={"b": BAD})
    rollout.go()
    assert rollout.ask("rollback", kernel=[OTHER]) == "COMPLETED"
    assert rollout.states() == {**dict.fromkeys("acdx", "healthy"), "b": "reverted", "e": "skipped"}
    assert (rollout.view.held, rollout.view.reason) == ((), None)


def test_when_most_kernels_fail_it_is_not_about_kernels(start) -> None:
    rollout = two_kernels(start, script={"b": REFUSES, "x": REFUSES})
    assert rollout.go() == "HALTED"
    assert rollout.view.held == ()
    assert all(rollout.fleet.seen(h)["applied"] == 0 for h in "abx")


def test_policy_may_have_one_kernel_halt_all(start) -> None:
    rollout = two_kernels(start, script={"b": REFUSES}, kernel_halts_alone=False)
    assert rollout.go() == "HALTED"


def test_a_canary_that_trips_later_halts_its_kernel_alone(start) -> None:
    rollout = two_kernels(start)
    rollout.fleet.before = lambda host, verb: (
        rollout.fleet.script.update(b={"trip": True})
        if rollout.view.state == "BAKING" and rollout.view.wave == 1
        else None
    )
    assert rollout.go() == "COMPLETED"
    assert rollout.view.held == ((OTHER, "core"),)
    assert rollout.states()["b"] == "failed"


def test_a_kernel_is_halted_by_hand(start) -> None:
    rollout = two_kernels(start)
    while_baking(rollout, 0, ("halt", {"kernel": [OTHER]}))
    assert rollout.go() == "COMPLETED"
    assert rollout.states()["e"] == "held"
    assert rollout.fleet.seen("b")["state"] == "running"
    assert rollout.ask("halt", kernel=["nonsense"]) == "COMPLETED"


# Rolling back a part


def test_later_waves_are_rolled_back_and_done_anew(start) -> None:
    rollout = start()
    rollout.go()
    assert rollout.ask("rollback", wave=1) == "HALTED"
    assert rollout.view.reason == "in-part: wave 1 and later, by ann"
    assert rollout.states() == {"a": "healthy", **dict.fromkeys("bcdef", "reverted")}
    reverted = [e.host for e in rollout.record.events(limit=10_000) if e.verb == "revert"]
    assert [set(reverted[:3]), set(reverted[3:])] == [set("def"), set("bc")]
    assert {a.host for a in rollout.record.assignments()} == {"a"}
    assert rollout.ask("resume") == "COMPLETED"
    assert set(rollout.states().values()) == {"healthy"}
    assert [rollout.fleet.seen(h)["applied"] for h in "abd"] == [1, 2, 2]


def test_one_host_is_rolled_back_and_the_rollout_goes_on(start) -> None:
    rollout = start()
    while_baking(rollout, 1, ("rollback", {"host": ["a", "d"]}))
    assert rollout.go() == "COMPLETED"
    assert rollout.states() == {"a": "reverted", "d": "skipped", **dict.fromkeys("bcef", "healthy")}
    assert rollout.fleet.calls("d") == []
    rollout.fleet.before = lambda host, verb: None
    assert rollout.ask("retry", host=["a", "d"]) == "COMPLETED"
    assert set(rollout.states().values()) == {"healthy"}


def test_a_part_that_is_away_is_undone_by_the_next_go(start) -> None:
    rollout = start()
    rollout.go()
    rollout.fleet.script["e"] = {"silent": ["connect"]}
    assert rollout.ask("rollback", host=["e"]) == "COMPLETED"
    assert rollout.view.reason == "pending-reverts: e"
    assert [(s.rollout_id, s.host) for s in rollout.record.pending_reverts()] == [(rollout.id, "e")]
    assert rollout.go() == "COMPLETED"
    rollout.fleet.script.clear()
    assert rollout.go() == "COMPLETED"
    assert rollout.states()["e"] == "reverted"
    assert (rollout.view.reason, rollout.record.pending_reverts()) == (None, [])


def test_hosts_that_were_away_are_undone_by_go_after_a_whole_rollback(start) -> None:
    rollout = start()
    rollout.go()
    rollout.fleet.script["e"] = {"silent": ["connect"]}
    assert rollout.ask("rollback") == "ROLLBACK_INCOMPLETE"
    assert rollout.go() == "ROLLBACK_INCOMPLETE"
    rollout.fleet.script.clear()
    assert rollout.go() == "ROLLED_BACK"
    assert rollout.fleet.seen("e")["state"] == "stopped"


def test_a_rollback_that_names_nothing_of_it_changes_nothing(start) -> None:
    rollout = start(["a"])
    rollout.go()
    assert rollout.ask("rollback", host=["nobody"]) == "COMPLETED"
    assert rollout.outcomes()[-1].startswith("nothing to do")
    assert rollout.ask("rollback", wave=7) == "COMPLETED"
    assert rollout.fleet.calls("a", "remove") == []


# Reconcile


def test_reconcile_applies_again_what_a_host_lost(start) -> None:
    rollout = start()
    rollout.go()
    with rollout.fleet.state("b") as state:
        state["state"] = "stopped"
    first = rollout.record.step(rollout.id, "b").token
    assert rollout.ask("reconcile") == "COMPLETED"
    step = rollout.record.step(rollout.id, "b")
    assert step.state == "healthy"
    assert step.token > first
    assert rollout.fleet.seen("b")["state"] == "running"
    assert [rollout.fleet.seen(h)["applied"] for h in "abc"] == [1, 2, 1]
    assert next(a for a in rollout.record.assignments() if a.host == "b").token == step.token
    assert rollout.ask("rollback") == "ROLLED_BACK"
    assert rollout.record.assignments() == []


@pytest.mark.parametrize("reattached", [True, False])
def test_a_bake_in_which_a_host_rebooted_is_begun_anew_after_a_reconcile(start, reattached: bool) -> None:
    rollout = start()

    def reboot(host: str, verb: str) -> None:
        baking = rollout.fleet.calls(host).count("status") == 2  # probed and verified until now
        if host == "a" and verb == "status" and baking and not rollout.fleet.script.get("a"):
            rollout.fleet.script["a"] = {"boot_id": "boot-2"}
            with rollout.fleet.state("a") as state:
                state["state"] = "running" if reattached else "stopped"

    rollout.fleet.before = reboot
    assert rollout.go() == "PAUSED"
    assert "rebooted meanwhile" in rollout.view.reason
    assert rollout.ask("resume") == "PAUSED", "the bake that begins anew is of a host that rebooted since it got it"
    rollout.record.request(rollout.id, "reconcile", "ann")
    assert rollout.ask("resume") == "COMPLETED"
    assert rollout.fleet.seen("a")["applied"] == (1 if reattached else 2)


@pytest.mark.parametrize(
    ("script", "state"),
    [
        ({"kernel": {"build_id": "99" * 20}}, "drifted"),
        ({"trip": True}, "failed"),
        ({"silent": ["connect"]}, "healthy"),
    ],
)
def test_reconcile_marks_what_it_must_not_force(start, script: dict, state: str) -> None:
    rollout = start()
    rollout.go()
    rollout.fleet.script["b"] = script
    assert rollout.ask("reconcile") == "COMPLETED"
    assert rollout.states()["b"] == state
    assert rollout.fleet.seen("b")["applied"] == 1
    rollout.fleet.script.clear()
    assert rollout.ask("reconcile") == "COMPLETED"
    assert rollout.states()["b"] == ("failed" if state == "failed" else "healthy")


def test_reconcile_ends_a_rollback_that_was_incomplete(start) -> None:
    rollout = start()
    rollout.go()
    rollout.fleet.script["e"] = {"silent": ["connect"]}
    assert rollout.ask("rollback") == "ROLLBACK_INCOMPLETE"
    rollout.fleet.script.clear()
    assert rollout.ask("reconcile") == "ROLLED_BACK"


# Retry


def test_retry_of_one_host_leaves_the_others(start) -> None:
    rollout = start(script={h: {"silent": ["connect"]} for h in "bc"}, unreachable_percent=100.0)
    rollout.go()
    rollout.fleet.script.clear()
    assert rollout.ask("retry", host=["b"]) == "COMPLETED"
    assert {h: rollout.states()[h] for h in "bc"} == {"b": "healthy", "c": "unreachable"}


def test_a_host_that_came_back_joins_while_a_later_wave_bakes(start) -> None:
    rollout = start(script={"b": {"silent": ["connect"]}}, unreachable_percent=100.0)
    while_baking(rollout, 2, ("retry", {}))
    look = rollout.fleet.before

    def back(host: str, verb: str) -> None:
        if rollout.view.wave == 2:
            rollout.fleet.script.clear()
        look(host, verb)

    rollout.fleet.before = back
    assert rollout.go() == "COMPLETED"
    assert set(rollout.states().values()) == {"healthy"}
    assert all(rollout.fleet.seen(h)["applied"] == 1 for h in "abcdef")


# Rehearsal


@pytest.mark.parametrize(
    ("verb", "arguments", "says"),
    [
        ("rollback", {}, "rolling back"),
        ("rollback", {"host": ["a"]}, "rolling back 1 hosts"),
        ("rollback", {"wave": 1}, "rolling back 5 hosts"),
        ("retry", {}, "nothing to do: no host failed or was unreachable"),
        ("halt", {}, "nothing to do: the rollout is COMPLETED"),
        ("pause", {"wave": 3}, "refused: pause takes no 'wave'"),
        ("reconcile", {}, "looking at every host again"),
    ],
)
def test_a_rehearsal_says_what_it_would_do_and_changes_nothing(start, verb: str, arguments: dict, says: str) -> None:
    rollout = start()
    rollout.go()
    before = (rollout.view, rollout.record.steps(rollout.id), rollout.record.last_event_id())
    assert rehearse(rollout.record, rollout.id, verb, "ann", arguments) == says
    assert (rollout.view, rollout.record.steps(rollout.id), rollout.record.last_event_id()) == before


def test_a_request_written_by_hand_with_nonsense_is_refused(start) -> None:
    rollout = start(["a"])
    rollout.record.request(rollout.id, "rollback", "mallory", wave="; drop table")
    assert rollout.go() == "COMPLETED"
    assert rollout.outcomes()[0].startswith("refused: rollback: an argument")
    assert KERNEL_ID in {s.kernel_id for s in rollout.record.steps(rollout.id)}
