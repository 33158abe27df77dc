"""Prove everything on every kernel in every profile, and write the page that says so. Usage: tools/proof.py PAGE CACHE

Takes forty minutes on two quiet cores, once kernels are fetched and built; needs no root. The page is written anew
after each part, so one that was interrupted says what it has. Exit code 3 when a prediction promised what a kernel
refused.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "btf"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "fleet"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from proof_objects import NAMES, compile_proof
from torture import compiler, torture_objects

from fleet.cli.output import Progress, narrate
from fleet.compatibility.outcome import Agreement
from fleet.lab.foreign import bases
from fleet.lab.kernel_store import Kernel, Origin
from fleet.lab.kernels import fetch
from fleet.lab.machine import Run
from fleet.lab.profiles import PROFILES, Profile
from fleet.lab.proof import Cell, guest_count, prove
from fleet.lab.proof_page import page
from fleet.lab.subject import Subject, subject_of_object, subject_of_program
from probes.catalogue import load_catalogue

KERNELS = ("debian:5.10", "debian:6.1", "debian:6.12", "debian:sid")
# Neither lockdown nor BTF to be hidden is in these.
SMALL_PROFILES = ("plain", "unprivileged", "capable", "cgroup-v1", "cgroup-hybrid", "no-tracefs", "no-debugfs")
# The architecture changes what a kernel is, not what a profile does: those that ask the most of it.
ARM64_PROFILES = ("plain", "no-btf", "lockdown-confidentiality", "unprivileged", "capable", "memlock-64k")
_HIDDEN = "no-btf"  # there minimised types are brought along
_TOLD = (Agreement.FALSE_FITS, Agreement.UNANSWERED, Agreement.TOO_CAUTIOUS)


@dataclass(frozen=True)
class Part:
    """One part of the matrix: every subject on every kernel in every profile."""

    subjects: Sequence[Subject]
    kernels: Sequence[str]
    profiles: Sequence[str]
    torture: bool = False


def parts() -> Iterator[Part]:
    """The whole matrix."""
    programs = [subject_of_program(p, v) for p in load_catalogue().values() for v in ("core", "core-btf")]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        asked = [subject_of_object(n, compile_proof(n, root).read_bytes(), "core") for n in NAMES]
        torture = torture_objects(compiler(root))
    for name in KERNELS:
        yield Part([*programs, *asked], (name,), tuple(PROFILES))
    yield Part([*programs, *asked], ("small:no-bpf", "small:no-btf"), (*SMALL_PROFILES, "memlock-64k", "no-stats"))
    yield Part(programs, ("debian:6.1/arm64", "debian:6.12/arm64"), ARM64_PROFILES)
    for name in KERNELS:
        for variant, profiles in (("core", [p for p in PROFILES if p != _HIDDEN]), ("core-btf", [_HIDDEN])):
            yield Part([subject_of_object(n, d, variant) for n, d in torture.items()], (name,), profiles, torture=True)


def main(target: Path, cache: Path) -> int:
    """Prove and write; return the exit code."""
    whole = list(parts())
    origin = Origin(say=lambda line: narrate(f"kernels: {line}"))
    progress = Progress("guest", sum(guest_count(part.subjects, part.kernels, part.profiles) for part in whole))

    def on_guest(kernel: Kernel, profile: Profile, run: Run) -> None:
        progress.step(f"{kernel.name} {profile.name}: {run.seconds:.0f} s, {run.cpu_s:.1f} s of CPU")

    plain: list[Cell] = []
    torture: list[Cell] = []
    for part in whole:
        on = [fetch(name, cache=cache, origin=origin) for name in part.kernels]
        shapes = [PROFILES[name] for name in part.profiles]
        own = bases(on, cache=cache, origin=origin)
        cells = []
        for cell in prove(part.subjects, on, shapes, bases=own, on_guest=on_guest):
            cells.append(cell)
            if cell.agreement in _TOLD:
                place = f"{cell.subject.title} on {cell.kernel.name} as {cell.profile.name}"
                narrate(f"{cell.agreement}: {place}: {cell.outcome.message or cell.because}")
        order = part.subjects
        cells.sort(key=lambda c: (on.index(c.kernel), order.index(c.subject), shapes.index(c.profile)))
        (torture if part.torture else plain).extend(cells)
        target.write_text(page(plain, "make proof", torture))
    return 3 if any(c.agreement in _TOLD[:2] for c in (*plain, *torture)) else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
