"""What holds for every combination of facts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from decide_cases import BASE, decide, facts, types

from fleet.compatibility.decide import RUNS_BPF, answer, weigh
from fleet.compatibility.features import FEATURES
from fleet.compatibility.signs import ATTACH_SIGNS, FEATURE_SIGNS
from fleet.compatibility.sources import Finding, Known
from fleet.compatibility.unlock import needed, openings
from fleet.compatibility.verdict import Evidence, Requirement, Verdict
from inventory.facts import Answer

# Facts whose answer a host or its operator decides; the rest of the base host only names it.
PROBED = sorted(n for n in BASE["facts"] if n.startswith(("bpf.", "probe.", "hook.", "btf.", "python.")))
DENIALS = st.sampled_from(["EPERM", "EACCES", "ENOSYS"])
DENIED = st.dictionaries(
    st.sampled_from(PROBED), st.builds(lambda e: {"answer": "blocked", "errno": e}, DENIALS), min_size=1
)
UNCLEAR = st.dictionaries(st.sampled_from(PROBED), st.just({"answer": "unknown"}))
FINDINGS = st.lists(
    st.builds(Finding, st.sampled_from(Answer), st.sampled_from(Evidence), st.just("said so")), max_size=6
)
NEEDS = [Requirement(**r) for r in BASE["requirements"]["core"]]


@given(DENIED, UNCLEAR)
@settings(max_examples=150, deadline=None)
def test_denied_or_unclear_never_becomes_refused(denied: dict[str, Any], unclear: dict[str, Any]) -> None:
    changes = {**unclear, **denied, "bcc.usable": {"answer": "yes"}, "headers.path": {"answer": "yes"}}
    choice = decide({"changes": changes})
    for assessment in choice.assessments:
        assert assessment.verdict is not Verdict.REFUSED
        assert all(r.answer is not Answer.NO for r in assessment.reasons)


@given(DENIED)
@settings(max_examples=100, deadline=None)
def test_every_denial_names_an_unlock(denied: dict[str, Any]) -> None:
    for assessment in decide({"changes": denied}).assessments:
        blocked = [r for r in assessment.reasons if r.answer is Answer.BLOCKED]
        assert all(r.unlock and r.unlock.action for r in blocked)
        if assessment.verdict is Verdict.BLOCKED:
            assert needed(assessment)


@given(FINDINGS, FINDINGS)
def test_more_evidence_never_turns_an_answer_into_unknown(before: list[Finding], more: list[Finding]) -> None:
    if weigh(before).answer is not Answer.UNKNOWN:
        assert weigh([*before, *more]).answer is not Answer.UNKNOWN


@given(FINDINGS)
def test_the_strongest_conclusive_evidence_wins_in_any_order(findings: list[Finding]) -> None:
    found = weigh(findings)
    conclusive = [f for f in findings if f.answer is not Answer.UNKNOWN]
    if conclusive:
        assert found.evidence.strength == max(f.evidence.strength for f in conclusive)
        assert weigh(reversed(findings)).answer is found.answer


@given(st.sampled_from(NEEDS), UNCLEAR)
@settings(deadline=None)
def test_btf_never_makes_a_yes_unknown(need: Requirement, unclear: dict[str, Any]) -> None:
    seen = facts(unclear)
    if answer(need, Known(seen)).answer is Answer.YES:
        assert answer(need, Known(seen, types(BASE["btf"]))).answer is not Answer.UNKNOWN


@given(DENIED, UNCLEAR)
@settings(max_examples=100, deadline=None)
def test_what_is_chosen_runs_and_openings_are_better(denied: dict[str, Any], unclear: dict[str, Any]) -> None:
    choice = decide({"changes": {**unclear, **denied}})
    ladder = [a.variant for a in choice.assessments]
    if choice.variant:
        chosen = next(a for a in choice.assessments if a.variant == choice.variant)
        assert chosen.verdict is choice.verdict
        assert choice.verdict in (Verdict.FITS, Verdict.DEGRADED, Verdict.UNKNOWN)
        assert all(ladder.index(v) < ladder.index(choice.variant) for v, _ in openings(choice))
    else:
        assert choice.verdict in (Verdict.BLOCKED, Verdict.REFUSED)
    assert choice.summary.isprintable()


def test_every_row_answers_unknown_when_nothing_is_known() -> None:
    for kind in FEATURES:
        for subject in ("thing", "a|b"):
            assert answer(Requirement(kind, subject), Known()).answer is Answer.UNKNOWN, kind


def test_a_kind_nobody_knows_is_unknown_not_no() -> None:
    reason = answer(Requirement("telepathy", "strong"), Known(facts()))
    assert (reason.answer, reason.code) == (Answer.UNKNOWN, "requirement-unknown")


def test_versions_only_claim_and_never_refuse_a_backporter() -> None:
    for release, expected in (("6.1.0", Answer.YES), ("4.4.0", Answer.NO), ("4.18.0-193.el8.x86_64", Answer.UNKNOWN)):
        seen = facts(only={"kernel.release": {"answer": "yes", "value": release}})
        reason = answer(Requirement("feature", "large_insns"), Known(seen))
        assert reason.answer is expected
        assert reason.evidence is Evidence.CLAIMED


def test_a_probe_overrules_what_btf_promises() -> None:
    seen = facts({"bpf.attach.fentry": {"answer": "blocked", "errno": "EPERM"}})
    promised = types({"enums": {"bpf_attach_type": ["BPF_TRACE_FENTRY"]}})
    reason = answer(Requirement("attach", "fentry"), Known(seen, promised))
    assert (reason.answer, reason.evidence, reason.code) == (Answer.BLOCKED, Evidence.PROBED, "attach-denied")
    assert reason.unlock is not None


def test_bpf_syscall_denied_reads_as_denied() -> None:
    reason = answer(RUNS_BPF, Known(facts({"bpf.syscall": {"answer": "blocked", "errno": "EPERM"}})))
    assert (reason.answer, reason.code, reason.errno) == (Answer.BLOCKED, "fact-denied", "EPERM")


def test_signs_say_something() -> None:
    for name, sign in {**ATTACH_SIGNS, **FEATURE_SIGNS}.items():
        assert sign.enum or sign.later or sign.function or sign.member_of or sign.kconfig or sign.since, name


def test_a_later_constant_proves_and_its_absence_does_not() -> None:
    need = Requirement("isa", "v2")
    assert answer(need, Known(btf=types({"enums": {"bpf_cmd": ["BPF_BTF_LOAD"]}}))).answer is Answer.YES
    assert answer(need, Known(btf=types({"enums": {"bpf_cmd": ["BPF_MAP_CREATE"]}}))).answer is Answer.UNKNOWN
