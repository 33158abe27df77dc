"""The verifier's complaints in words: cases are logs of real kernels, with what a person should be told."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.compatibility.outcome import Agreement, Outcome, Real, agreement
from fleet.compatibility.verdict import Verdict
from fleet.compatibility.verifier import COMPLAINTS, explain

CASES = sorted((Path(__file__).parent / "cases" / "verifier").glob("*.json"))


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_a_complaint_is_told_in_words(path: Path) -> None:
    case = json.loads(path.read_text())
    found = explain("\n".join(case["log"]))
    assert found is not None
    assert {k: v for k, v in asdict(found).items() if v not in ("", None)} == case["expect"]


def test_one_complaint_is_the_same_on_every_kernel() -> None:
    told: dict[str, set[tuple[str, bool]]] = {}
    for path in CASES:
        case = json.loads(path.read_text())
        kind = re.sub(r"R\d is a \w+", "R is a", case["expect"]["cause"])[:24]  # `inv` is `scalar` from 5.18 on
        told.setdefault(path.stem.partition("-")[0], set()).add((kind, case["expect"]["absence"]))
    assert {name: len(causes) for name, causes in told.items()} == dict.fromkeys(told, 1)


@pytest.mark.parametrize(
    ("complaint", "cause"),
    [
        ("BPF program is too large. Processed 1000001 insn", "too many paths"),
        ("The sequence of 8193 jumps is too complex.", "too many paths"),
        ("back-edge from insn 12 to 3", "no loops"),
        ("infinite loop detected at insn 9", "no end of the loop"),
        ("unknown opcode 16", "newer instruction set"),
        ("invalid func unknown#195896080", "CO-RE poison"),
        ("invalid indirect read from stack R2 off -16+0 size 16", "nobody has written"),
        ("invalid read from stack off -8+0 size 8", "nobody has written"),
        ("combined stack size of 2 calls is 544. Too large", "512 bytes of stack"),
        ("R3 !read_ok", "before it has a value"),
        ("unreachable insn 7", "dead code"),
        ("program of this type cannot use helper bpf_probe_read_kernel#113", "licence or lockdown"),
        ("R1 pointer arithmetic on map_value_or_null prohibited, null-check it first", "pointers are computed"),
    ],
)
def test_kinds_of_complaint(complaint: str, cause: str) -> None:
    log = f"; sum += next; @ a.bpf.c:12\n7: (0f) r3 += r1 ; R1_w=scalar() R3_w=fp-8\n{complaint}\nprocessed 8 insns"
    found = explain(log)
    assert found is not None
    assert cause in found.cause
    assert (found.complaint, found.instruction, found.code) == (complaint, 7, "r3 += r1")
    assert (found.source, found.place) == ("sum += next;", "a.bpf.c:12")


def test_what_no_row_knows_is_quoted_and_no_cause_is_made_up() -> None:
    found = explain("0: (95) exit\nthe moon is in the wrong place\nprocessed 1 insns")
    assert found is not None
    assert (found.complaint, found.cause, found.absence) == ("the moon is in the wrong place", "", False)
    assert explain("") is None
    assert explain("processed 3 insns (limit 1000000)") is None
    assert explain("0: (b7) r0 = 0\n1: (95) exit\nprocessed 2 insns") is None


def test_every_row_formats_and_compiles() -> None:
    for row in COMPLAINTS:
        groups = re.compile(row.pattern).groups
        assert row.cause.format(*["x"] * groups)


@settings(deadline=None)
@given(
    st.text(max_size=400)
    | st.lists(st.sampled_from([c.pattern for c in COMPLAINTS]) | st.text(max_size=80)).map("\n".join)
)
def test_whatever_the_log_says_is_read(log: str) -> None:
    found = explain(log)
    assert found is None or all(line.isprintable() for line in found.lines())


def test_a_rejection_is_no_absence() -> None:
    log = "7: (79) r1 = *(u64 *)(r0 +0)\nR0 invalid mem access 'map_value_or_null'"
    wrong = Outcome(Real.REFUSED, "load", "EACCES", "p", "failed", log)
    assert agreement(Verdict.FITS, wrong) is Agreement.REJECTED
    absent = Outcome(
        Real.REFUSED, "load", "EINVAL", "p", "failed", "0: (85) call unknown#208\ninvalid func unknown#208"
    )
    assert agreement(Verdict.FITS, absent) is Agreement.FALSE_FITS
    denied = Outcome(Real.REFUSED, "load", "EPERM", "p", "failed")
    assert agreement(Verdict.FITS, denied) is Agreement.FALSE_FITS
    assert agreement(Verdict.REFUSED, wrong) is Agreement.EQUAL
