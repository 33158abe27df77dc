"""Prove everything on every kernel in every profile, and write the page that says so. Usage: tools/proof.py PAGE CACHE

Takes a quarter of an hour on two cores; needs no root. Exit code 3 when a prediction promised what a kernel refused.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "fleet")]

from proof_objects import NAMES, compile_proof  # noqa: E402  lies with the tests

from fleet.cli.output import Progress, narrate  # noqa: E402
from fleet.compatibility.outcome import Agreement  # noqa: E402
from fleet.lab.kernel_store import Kernel, Origin  # noqa: E402
from fleet.lab.kernels import fetch  # noqa: E402
from fleet.lab.machine import Run  # noqa: E402
from fleet.lab.profiles import PROFILES, Profile  # noqa: E402
from fleet.lab.proof import guest_count, prove  # noqa: E402
from fleet.lab.proof_page import page  # noqa: E402
from fleet.lab.subject import subject_of_object, subject_of_program  # noqa: E402
from probes.catalogue import load_catalogue  # noqa: E402

KERNELS = ("debian:5.10", "debian:6.1", "debian:6.12", "debian:sid")


_TOLD = (Agreement.FALSE_FITS, Agreement.UNANSWERED, Agreement.TOO_CAUTIOUS)


def main(target: Path, cache: Path) -> int:
    """Prove and write; return the exit code."""
    origin = Origin(say=lambda line: narrate(f"kernels: {line}"))
    kernels = [fetch(name, cache=cache, origin=origin) for name in KERNELS]
    subjects = [subject_of_program(p, v) for p in load_catalogue().values() for v in ("core", "core-btf")]
    with tempfile.TemporaryDirectory() as folder:
        objects = {name: compile_proof(name, Path(folder)).read_bytes() for name in NAMES}
    subjects += [subject_of_object(name, data, "core") for name, data in objects.items()]
    profiles = list(PROFILES.values())
    progress = Progress("guest", guest_count(subjects, kernels, profiles))

    def on_guest(kernel: Kernel, profile: Profile, run: Run) -> None:
        progress.step(f"{kernel.name} {profile.name}: {run.seconds:.0f} s, {run.cpu_s:.1f} s of CPU")

    cells = []
    for cell in prove(subjects, kernels, profiles, on_guest=on_guest):
        cells.append(cell)
        if cell.agreement in _TOLD:
            place = f"{cell.subject.title} on {cell.kernel.name} as {cell.profile.name}"
            narrate(f"{cell.agreement}: {place}: {cell.outcome.message or cell.because}")
    cells.sort(key=lambda c: (kernels.index(c.kernel), subjects.index(c.subject), profiles.index(c.profile)))
    target.write_text(page(cells, "make proof"))
    return 3 if any(c.agreement in _TOLD[:2] for c in cells) else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
