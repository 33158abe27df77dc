"""The tables of states, reasons, verbs and arguments: every state has an exit, nothing dangles."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from btf.fault import EXIT_WAITS
from fleet.actions import ACTIONS
from fleet.cli.rollout_ask import ASKS
from fleet.console.look import SIGNS
from fleet.rollout import states
from fleet.rollout.hosts import acts
from fleet.rollout.machine import verbs
from fleet.rollout.machine.answers import ANSWERS
from fleet.rollout.machine.phases import AFTER, ON_FAIL
from fleet.rollout.machine.verbs import ARGUMENTS, VERBS, RequestWrong, check_request
from fleet.rollout.states import PHASES, REASONS, STATE_ROWS, STATES, STEP_ROWS


def reachable(start: str, edges) -> set[str]:
    found, left = set(), [start]
    while left:
        state = left.pop()
        if state not in found:
            found.add(state)
            left += edges(state)
    return found


def rollout_edges(state: str) -> frozenset[str]:
    return verbs.exits(state, STATE_ROWS[state].alone)


def test_every_state_is_reached_and_leads_to_an_end() -> None:
    assert reachable("PLANNED", rollout_edges) == set(STATES)
    ends = {name for name, row in STATE_ROWS.items() if row.ends}
    for state in STATES:
        assert reachable(state, rollout_edges) & ends, f"{state} leads nowhere"


def test_every_state_that_is_no_end_is_left_by_itself_or_by_a_verb() -> None:
    for name, row in STATE_ROWS.items():
        assert row.ends or rollout_edges(name), f"nothing leads out of {name}"
        asked = {verb.name for verb in VERBS.values() if name in verb.states}
        assert row.alone or asked, f"nobody can do anything about {name}"


def test_from_every_state_that_touched_hosts_a_rollback_is_reached() -> None:
    for state in set(STATES) - {"ROLLED_BACK"}:
        assert "ROLLED_BACK" in reachable(state, rollout_edges), state


def test_every_step_state_is_reached_and_leads_on() -> None:
    edges = {name: row.then for name, row in STEP_ROWS.items()}
    assert reachable("pending", edges.__getitem__) == set(STEP_ROWS)
    for state in STEP_ROWS:
        assert reachable(state, edges.__getitem__) & {"healthy", "reverted", "skipped"}, state
    groups = (states.LIVE_STEPS, states.RETRIED_STEPS, states.WAITING_STEPS, states.NAMED_STEPS, states.LEFT_STEPS)
    assert {s for group in (*groups, states.UNDONE_STEPS, states.OUT_STEPS) for s in group} <= set(STEP_ROWS)
    used = {s for taken, _, silent, faulty in acts.ACTS.values() for s in (*taken, silent, faulty) if s}
    assert used <= set(STEP_ROWS)


def test_words_of_the_tables_are_known_everywhere() -> None:
    assert set(ANSWERS) == set(VERBS) == {"start"} | {c.name for c in ASKS}
    assert {a.name for a in ACTIONS if a.changes} == {c.name for c in ASKS}
    assert set(AFTER) == set(PHASES)
    assert {s.lower() for s in STATES} | set(STEP_ROWS) <= set(SIGNS)
    assert {state for state, _ in ON_FAIL.values()} <= set(STATES)
    for verb in VERBS.values():
        assert {*verb.states, *verb.to} <= set(STATES)
        assert set(verb.one_of) <= set(verb.takes) <= set(ARGUMENTS)


def test_a_reason_says_what_it_means_and_what_gets_out() -> None:
    for code, row in REASONS.items():
        assert set(row.states) <= set(STATES)
        assert row.meaning
        for state in {*row.states} - {"ROLLING_BACK"}:
            way = states.goes_on_by("tcp-flow-7", state, f"{code}: x")
            assert way.startswith("goes on by: ")
            assert "tcp-flow-7" in way or "{id}" not in row.out
    assert states.goes_on_by("x", "HALTED", None) == states.goes_on_by("x", "HALTED", "nonsense") == ""
    assert states.goes_on_by("x", "ROLLING_BACK", "asked: by ann") == ""  # whoever drives it goes on


def test_what_a_reason_says_gets_out_is_taken_where_it_stands() -> None:
    """A verb that the advice names is one that the state takes."""
    for row in REASONS.values():
        for state in row.states:
            for verb in re.findall(r"`rollout (\w+) ", states.goes_on_by("x", state, f"{row.code}: y")):
                assert verb == "go" or state in VERBS[verb].states, (row.code, state, verb)
    assert {s for s in STATES if not any(s in row.states for row in REASONS.values())} <= {
        "PLANNED", "RUNNING", "BAKING", "ROLLED_BACK",
    }  # fmt: skip


def test_an_end_with_a_reason_waits_for_a_person() -> None:
    assert states.exit_of("COMPLETED") == 0
    assert states.exit_of("COMPLETED", "held: core on x") == EXIT_WAITS
    assert states.exit_of("HALTED", "asked: y") == STATES["HALTED"]


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("explode", {}),
        ("pause", {"wave": 1}),
        ("rollback", {"wave": -1}),
        ("rollback", {"wave": True}),
        ("rollback", {"wave": 1, "host": ["a"]}),
        ("rollback", {"host": "a"}),
        ("rollback", {"host": [""]}),
        ("rollback", {"kernel": ["x"] * 10_001}),
        ("retry", {"host": [1]}),
        ("promote", {"all": True, "skip_bake": True}),
        ("promote", {"all": "yes"}),
        ("halt", {"remark": "\x1b[31mred"}),
        ("halt", {"remark": "x" * 301}),
    ],
)
def test_arguments_that_do_not_fit_are_refused(verb: str, arguments: dict) -> None:
    with pytest.raises(RequestWrong):
        check_request(verb, arguments)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # a machine that is busy is no failure
@given(st.sampled_from(sorted(VERBS)), st.dictionaries(st.sampled_from([*ARGUMENTS, "x"]), json_like, max_size=4))
def test_whatever_is_accepted_is_of_the_kind_that_the_verb_takes(verb: str, arguments: dict) -> None:
    try:
        given_back = check_request(verb, arguments)
    except RequestWrong:
        return
    assert set(given_back) <= set(VERBS[verb].takes)
    assert check_request(verb, given_back) == given_back
