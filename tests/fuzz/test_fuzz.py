"""A short run of the fuzzer over every target, by the same chance each time; and that it finds what is wrong."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

import pytest
from fuzz_judge import Judge, by_chance
from fuzz_limits import in_bounds
from fuzz_seeds import all_kinds
from fuzz_targets import TARGETS, Target

from btf.fault import Fault
from btf.format.encode import encode_btf
from btf.format.parse import BtfMalformed

INPUTS = 250  # per target
CASES = sorted((Path(__file__).parent / "cases").glob("*/*"))  # TARGET/INPUT


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_damaged_input_parses_or_is_one_clear_fault(target) -> None:
    target.run(target.seeds()[0])  # compiles what it needs outside the bounds

    def run() -> tuple[dict[str, int], dict[str, list[bytes]]]:
        judge = Judge(target, cpu_s=10)
        for data in islice(by_chance(target, 1), INPUTS):
            judge.judge(data)
        return dict(judge.counts), judge.findings

    counts, findings = in_bounds(run, seconds=200)
    assert not findings, {kind: kept[0].hex() for kind, kept in findings.items()}
    # Neither all of them nor none got through, or the damage tests nothing.
    assert counts["inputs"] == INPUTS == counts["parsed"] + counts["refused"]
    assert counts["parsed"] > 0 < counts["refused"]


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_was_found_once_stays_mended(path) -> None:
    target = next(t for t in TARGETS if t.name == path.parent.name)
    target.run(target.seeds()[0])

    def run() -> list[str]:
        judge = Judge(target, cpu_s=10)
        judge.judge(path.read_bytes())
        return list(judge.findings)

    assert in_bounds(run, seconds=60) == []


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_seeds_are_not_refused(target) -> None:
    for data in target.seeds():
        target.run(data)


def _loops(_: bytes) -> None:
    while True:
        pass


def _hoards(_: bytes) -> None:
    bytes(1 << 30)


def _raises(data: bytes) -> None:
    raise {b"fault": BtfMalformed("no"), b"place": BtfMalformed("no at byte 7"), b"bug": IndexError("no")}[data]


@pytest.mark.parametrize(
    ("run", "data", "found"),
    [
        (_raises, b"bug", "IndexError"),
        (_raises, b"fault", "NoPlace"),
        (_raises, b"place", None),
        (_loops, b"", "TooLong"),
        (_hoards, b"", "MemoryError"),
        (len, b"", None),
    ],
)
def test_what_is_wrong_is_found(run, data, found, tmp_path) -> None:
    def judged() -> tuple[list[str], int]:
        judge = Judge(Target("t", lambda: [b""], lambda d, _: d, run), tmp_path, cpu_s=0.2)
        judge.judge(data)
        judge.judge(data)
        return list(judge.findings), judge.counts["findings"]

    kinds, count = in_bounds(judged, seconds=20)
    assert [kind.split()[0] for kind in kinds] == ([found] if found else []) and count == (2 if found else 0)
    kept = [p for p in tmp_path.iterdir() if not p.suffix]
    assert [p.read_bytes() for p in kept] == ([data] if found else [])


def test_a_process_out_of_bounds_is_found() -> None:
    with pytest.raises(AssertionError, match="killed by signal"):
        in_bounds(lambda: sum(range(1 << 62)), seconds=1)  # inside C code, where no handler of Python's runs
    with pytest.raises(AssertionError, match="MemoryError"):
        in_bounds(lambda: bytes(1 << 30), seconds=20)
    assert in_bounds(lambda: 7, seconds=20) == 7


def test_the_same_chance_gives_the_same_inputs() -> None:
    target = TARGETS[0]
    one, same, other = (list(islice(by_chance(target, seed), 60)) for seed in (1, 1, 2))
    assert one == same != other


def test_damage_is_of_every_depth() -> None:
    """Mutations reach past the header: most of what refuses them says another thing."""
    target = TARGETS[0]
    reasons = set()
    for data in islice(by_chance(target, 3), 400):
        try:
            target.run(data)
        except Fault as fault:
            reasons.add(re.sub(r"\d+|0x\w+", "N", fault.message))
    assert len(reasons) > 10, reasons


def test_a_seed_has_every_kind() -> None:
    from btf.format.kinds import RECORDS

    assert {type_.kind for type_ in all_kinds()} == set(RECORDS) and encode_btf(all_kinds())
