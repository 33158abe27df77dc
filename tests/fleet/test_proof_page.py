"""The page of a proof: every cell in its place, every difference named."""

from __future__ import annotations

from pathlib import Path

from proof_objects import compile_proof

from fleet.compatibility.outcome import Agreement, Outcome, Real, agreement
from fleet.compatibility.verdict import Assessment, Evidence, Verdict
from fleet.lab.kernel_store import Kernel
from fleet.lab.profiles import PROFILES
from fleet.lab.proof import Cell
from fleet.lab.proof_page import page
from fleet.lab.subject import subject_of_object


def test_the_page_has_a_table_for_each_kernel_and_the_differences(tmp_path: Path) -> None:
    subjects = [subject_of_object(n, compile_proof(n, tmp_path).read_bytes(), "core") for n in ("raw_tp", "stray")]
    kernels = [Kernel(f"debian:{v}", tmp_path, f"{v}.0-1", "x86_64") for v in ("5.10", "6.1")]
    log = "; *count += 1;\n7: (79) r1 = *(u64 *)(r0 +0)\nR0 invalid mem access 'map_value_or_null'"
    outcomes = {"raw_tp": Outcome(Real.RAN), "stray": Outcome(Real.REFUSED, "load", "EACCES", "p", "failed", log)}
    cells = []
    for kernel in kernels:
        for subject in subjects:
            for name in ("plain", "no-btf"):
                said = Assessment(subject.name, "core", subject.build, Verdict.FITS, Evidence.PROBED)
                outcome = outcomes[subject.name]
                agreed = agreement(said.verdict, outcome)
                cells.append(Cell(subject, kernel, PROFILES[name], agreed, outcome, said))
    text = page(cells, "make proof")
    lines = text.splitlines()
    assert "## debian:5.10: 5.10.0-1" in lines
    assert lines.count("| build | plain | no-btf |") == 2
    assert "| stray | refused ✎ | refused ✎ |" in lines
    assert "| raw_tp | ran | ran |" in lines
    assert "8 cells: 4 equal, 4 rejected." in lines
    differing = [line for line in lines if line.startswith("- **stray**")]
    assert len(differing) == 1
    assert "(4: debian:5.10 plain, debian:5.10 no-btf, debian:6.1 plain, debian:6.1 no-btf)" in differing[0]
    assert page([c for c in cells if c.agreement is Agreement.EQUAL], "x").endswith("## Differences\n\nNone.\n")


def test_the_torture_set_has_a_table_for_each_kernel(tmp_path: Path) -> None:
    data = compile_proof("raw_tp", tmp_path).read_bytes()
    subjects = [subject_of_object(name, data, "core") for name in ("a rule", "another")]
    kernels = [Kernel(f"debian:{v}", tmp_path, f"{v}.0-1", "x86_64") for v in ("5.10", "6.1")]
    cells = [
        Cell(s, k, PROFILES[p], Agreement.EQUAL, Outcome(Real.RAN if k is kernels[0] else Real.REFUSED))
        for k in kernels
        for s in subjects
        for p in ("plain", "no-btf")
    ]
    lines = page([], "make proof", cells[:-1]).splitlines()
    first, second = lines.index("### debian:5.10"), lines.index("### debian:6.1")
    assert lines[first + 2] == lines[second + 2] == "| object | plain | no-btf |"
    assert lines[first + 4 : first + 6] == ["| a rule | ran | ran |", "| another | ran | ran |"]
    assert lines[second + 4 : second + 6] == ["| a rule | refused | refused |", "| another | refused |  |"]
    assert "7 cells: 7 equal." in lines
