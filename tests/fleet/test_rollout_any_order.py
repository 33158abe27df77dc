"""Whatever persons ask in whatever order, and however hosts misbehave: what a rollout must never do, and that it ends.

Each example is one rollout on scripted hosts with a plain journal; requests, interruptions and deaths of the controller
come between any two of its decisions. COROLLOUT_ORDERS=N tries N rollouts instead of a few.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from scripted_hosts import KERNEL_ID, plan_of
from scripted_rollout import Rollout

from fleet.rollout.machine.verbs import VERBS, exits
from fleet.rollout.states import LEFT_STEPS, STATE_ROWS, STATES, STEP_ROWS

OTHER = "cd" * 20 + "/x86_64"
HOSTS = "abcdef"
WAVES = (["a", "b"], ["c", "d"], ["e", "f"])
EXAMPLES = int(os.environ.get("COROLLOUT_ORDERS", "12"))
TROUBLES: list[dict[str, Any]] = [
    {"silent": ["connect"]},
    {"silent": ["apply"]},
    {"silent": ["remove"]},
    {"refuse": {"check": "COR-AGT-007"}},
    {"refuse": {"apply": "COR-AGT-008"}},
    {"refuse": {"remove": "COR-AGT-010"}},
    {"garbled": ["apply"]},
    {"drop": 2},
    {"drop": 9},
    {"trip": True},
    {"sample": {"cpu_percent": 50.0}},
    {"kernel": {"build_id": "ef" * 20}},
]
ARGUMENTS: list[dict[str, Any]] = [
    {},
    {},
    {},
    {"remark": "because"},
    {"host": ["a"]},
    {"host": ["c", "f"]},
    {"host": ["nobody"]},
    {"kernel": [OTHER]},
    {"kernel": [KERNEL_ID]},
    {"wave": 1},
    {"wave": 2},
    {"wave": 77},
    {"wave": "; drop table"},
    {"all": True},
    {"skip_bake": True},
]
requests = st.tuples(
    st.integers(0, 25), st.sampled_from([*VERBS, "explode"]), st.sampled_from(["ann", "bob"]),
    st.sampled_from(ARGUMENTS),
)  # fmt: skip


class Died(BaseException):
    """The controller is gone between two decisions."""


class AnyOrder(RuleBasedStateMachine):
    rollout: Rollout

    @initialize(
        chosen=st.fixed_dictionaries({
            "approval": st.booleans(), "second_person": st.booleans(), "approvals": st.sampled_from([(), (1,), (0, 2)]),
            "on_fail": st.sampled_from(["halt", "rollback", "freeze"]), "kernel_halts_alone": st.booleans(),
            "kernels": st.sampled_from([{}, dict.fromkeys("bdf", OTHER)]),
        })
    )  # fmt: skip
    def begin(self, chosen: dict[str, Any]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="any-order-"))
        more = {"deadline_s": 4.0, "tries": 2, "unreachable_percent": 60.0, "failed_percent": 50.0}
        self.rollout = Rollout(self.folder, plan_of(*WAVES, **more, **chosen))
        self.waves = {h: n for n, names in enumerate(WAVES) for h in names}
        self.orders: dict[tuple[str, int], set[int]] = {}
        self.wrong: list[str] = []
        self.frozen: dict[str, Any] | None = None
        self.rollout.fleet.before = self.before
        self.rollout.fleet.after = self.after
        self.moments: dict[int, list[Any]] = {}
        self.rollout._between = self.between  # type: ignore[method-assign]  # where a test comes in between

    def before(self, host: str, verb: str) -> None:
        rollout = self.rollout
        if verb in ("apply", "remove", "stage", "check") and rollout.view.state == "FROZEN":
            self.wrong.append(f"{verb} on {host} of a frozen rollout")
        if verb == "apply" and not rollout.fleet.calls(host, "apply"):
            wave = [s for s in rollout.record.steps(rollout.id) if s.wave == self.waves[host]]
            if not rollout.fleet.calls(host, "check") or any(s.state in ("pending", "probed", "staged") for s in wave):
                self.wrong.append(f"{host} was attached before its whole wave had loaded")

    def after(self, host: str, verb: str) -> None:
        seen = self.rollout.fleet.seen(host)
        counts = self.orders.setdefault((host, seen["token"]), set())
        counts.add(seen["applied"])
        if len(counts) > 1:
            self.wrong.append(f"{host} was attached twice for token {seen['token']}")

    def between(self, _: str) -> None:
        self.rollout.commits += 1
        for kind, verb, actor, arguments in self.moments.pop(self.rollout.commits, ()):
            if kind == "die":
                raise Died
            if kind == "stop":
                self.rollout.stop.set()
            else:
                self.rollout.record.request(self.rollout.id, verb, actor, **arguments)

    @rule(
        asks=st.lists(requests, min_size=1, max_size=4), end=st.sampled_from(["", "", "", "stop", "die"]),
        when=st.integers(1, 25),
    )  # fmt: skip
    def go(self, asks: list[Any], end: str, when: int) -> None:
        """Drive, while persons ask for things, until it ends or waits for a person."""
        rollout = self.rollout
        self.moments = {}
        for moment, verb, actor, arguments in asks:
            if moment:
                at = rollout.commits + moment
                self.moments.setdefault(at, []).append(("ask", verb, actor, arguments))
            else:
                rollout.record.request(rollout.id, verb, actor, **arguments)
        if end:
            self.moments.setdefault(rollout.commits + when, []).append((end, "", "", {}))
        try:
            rollout.go()
        except Died:
            return
        if not rollout.stop.is_set():
            while rollout.record.requests(rollout.id, waiting=True):  # what was asked with its last decision
                rollout.go()
            assert all(r.outcome for r in rollout.record.requests(rollout.id))
        rollout.stop.clear()

    @rule(host=st.sampled_from(HOSTS), trouble=st.sampled_from(TROUBLES))
    def misbehave(self, host: str, trouble: dict[str, Any]) -> None:
        self.rollout.fleet.script[host] = trouble

    @precondition(lambda self: self.rollout.fleet.script)
    @rule()
    def mend(self) -> None:
        self.rollout.fleet.script.clear()

    @rule(host=st.sampled_from(HOSTS))
    def lose(self, host: str) -> None:
        """Somebody stops it on the host."""
        with self.rollout.fleet.state(host) as state:
            if state["state"] == "running":
                state["state"] = "stopped"

    @invariant()
    def nothing_went_wrong(self) -> None:
        assert self.wrong == []
        assert not [s.detail for s in self.rollout.record.steps(self.rollout.id) if "COR-ROL-099" in (s.detail or "")]

    @invariant()
    def the_audit_accounts_for_every_state(self) -> None:
        rollout = self.rollout
        state, steps = "", dict.fromkeys(HOSTS, "pending")
        for event in rollout.record.events(limit=100_000, rollout_id=rollout.id):
            if event.host is not None and event.after:
                was = steps[event.host]
                assert event.before in (None, was), (event, was)
                assert event.after == was or event.after in STEP_ROWS[was].then, (event.host, was, event.after)
                steps[event.host] = event.after
            elif event.host is None and event.verb != "wave" and event.after:
                assert event.before in (None, state)
                allowed = {state, *exits(state, STATE_ROWS[state].alone)} if state else {"PLANNED"}
                assert event.after in allowed, (state, event.after, event.verb)
                state = event.after
        assert state == rollout.view.state
        assert steps == rollout.states()

    @invariant()
    def what_is_undone_runs_nowhere(self) -> None:
        rollout = self.rollout
        running = {h for h in HOSTS if rollout.fleet.seen(h)["state"] == "running"}
        if rollout.view.state == "ROLLED_BACK":
            assert not running
        left = {s.host for s in rollout.record.steps(rollout.id) if s.state in LEFT_STEPS}
        if rollout.view.state == "ROLLBACK_INCOMPLETE":
            assert running <= left

    def teardown(self) -> None:
        if not hasattr(self, "rollout"):
            return
        try:
            self.come_to_an_end()
        finally:
            self.rollout.record.close()
            shutil.rmtree(self.folder)

    def come_to_an_end(self) -> None:
        """Hosts well again, a person who decides: an end is reached, by one request for each state at most."""
        rollout = self.rollout
        rollout.fleet.script.clear()
        self.moments = {}
        for _ in range(len(STATES)):
            state = rollout.go()
            if STATE_ROWS[state].ends:
                break
            verb = next(v for v in ("rollback", "deny") if state in VERBS[v].states)
            rollout.record.request(rollout.id, verb if rollout.view.wave >= 0 else "abort", "bob")
        assert STATE_ROWS[rollout.view.state].ends, rollout.view.state
        rollout.ask("rollback", "bob")
        self.nothing_went_wrong()
        self.the_audit_accounts_for_every_state()
        if rollout.view.state == "ABORTED":
            rollout.ask("rollback", "bob")
        assert rollout.view.state == "ROLLED_BACK", (rollout.view.state, rollout.view.reason)
        self.what_is_undone_runs_nowhere()


AnyOrder.TestCase.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=7, deadline=None, derandomize="COROLLOUT_ORDERS" not in os.environ,
    suppress_health_check=list(HealthCheck), print_blob=True,
)  # fmt: skip
TestAnyOrder = AnyOrder.TestCase
