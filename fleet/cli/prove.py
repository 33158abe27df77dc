"""``corollout prove``: boot real kernels, try every build there, and hold what happens against what was predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from btf.fault import EXIT_NO, EXIT_WAITS, printable
from fleet.cli.check import NothingToCheck
from fleet.cli.lab import kernels_folder
from fleet.cli.output import Progress, emit, emit_document, narrate, output_option
from fleet.cli.settings import Settings, pass_settings
from fleet.lab.profiles import PROFILES

if TYPE_CHECKING:
    from fleet.lab.kernel_store import Kernel
    from fleet.lab.machine import Run
    from fleet.lab.profiles import Profile
    from fleet.lab.proof import Cell
    from fleet.lab.subject import Subject

DEFAULT_KERNELS = "debian:5.10,6.1,6.12,sid"
DEFAULT_PROFILES = "plain,no-btf"
_PROVABLE = ("core", "core-btf")


@click.command(epilog="Profiles: " + "; ".join(f"{row.name}: {row.summary}" for row in PROFILES.values()) + ".")
@click.argument("names", metavar="[OBJECT|PROGRAM]...", nargs=-1)
@click.option("--kernel", "kernel_names", default=DEFAULT_KERNELS, show_default=True, help="By name or path; a list.")
@click.option("--profile", "profile_names", default=DEFAULT_PROFILES, show_default=True, help="A list, or `all`.")
@click.option("--variant", "variants", default="core,core-btf", show_default=True, help="Which of core, core-btf.")
@click.option("--cache", type=click.Path(path_type=Path), envvar="COROLLOUT_KERNELS", help="Folder of fetched kernels.")
@click.option("--mirror", help="Debian's archive; the one of this machine's apt unless given.")
@click.option(
    "--parallel", type=click.IntRange(0, 64), default=0, help="Guests at a time; 0 = what this machine holds."
)
@click.option("--kept", is_flag=True, help="Show what the record has of earlier proofs; boot nothing.")
@click.option("--check", is_flag=True, help="Say which guests would be booted; boot none, fetch nothing.")
@output_option
@pass_settings
@click.pass_context
def prove(
    context: click.Context,
    settings: Settings,
    names: tuple[str, ...],
    kernel_names: str,
    profile_names: str,
    variants: str,
    cache: Path | None,
    mirror: str | None,
    parallel: int,
    output: str,
    *,
    kept: bool,
    check: bool,
) -> None:
    """Load, attach and exercise each OBJECT or PROGRAM on real kernels under emulation; no root, no host touched.

    Exit code 0: predicted and real agree everywhere; 3: somewhere they do not; 6: somewhere nobody answered.
    """
    if kept:
        _show_kept(settings, names, output)
        return
    if not names:
        raise click.UsageError("name an object or a program, or give --kept")
    from fleet.compatibility.outcome import Agreement
    from fleet.lab import foreign, proof
    from fleet.lab.kernel_store import Origin
    from fleet.lab.kernels import cached, fetch
    from fleet.lab.profiles import profile

    folder = cache or kernels_folder(settings)
    profiles = [profile(n) for n in (PROFILES if profile_names == "all" else _words(profile_names))]
    subjects = _subjects(names, _words(variants), settings)
    wanted = _kernel_names(kernel_names)
    if check:
        for name in wanted:
            state = "there" if cached(name, cache=folder) else "to be fetched"
            narrate(f"{name} ({state}): {', '.join(p.name for p in profiles)}")
        narrate(f"{len(subjects)} builds, {len(subjects) * len(wanted) * len(profiles)} cells")
        return
    origin = Origin(mirror=mirror, say=lambda line: narrate(f"kernels: {line}", quiet=settings.quiet))
    kernels = [fetch(name, cache=folder, origin=origin) for name in wanted]
    bases = foreign.bases(kernels, cache=folder, origin=origin)
    progress = Progress("guest", proof.guest_count(subjects, kernels, profiles), quiet=settings.quiet)

    def on_guest(kernel: Kernel, shape: Profile, run: Run) -> None:
        progress.step(f"{kernel.name} {shape.name}: {run.seconds:.1f} s, {run.peak_kib >> 10} MiB")

    cells = sorted(
        proof.prove(subjects, kernels, profiles, parallel=parallel, bases=bases, on_guest=on_guest),
        key=lambda c: (subjects.index(c.subject), kernels.index(c.kernel), profiles.index(c.profile)),
    )
    if settings.has_record():
        _keep(settings, cells)
    rows = [_row(cell) for cell in cells]
    if output == "json":
        emit_document("prove", {"cells": rows})
    else:
        columns = {n: n for n in ("build", "kernel", "profile", "predicted", "real", "agreement", "why")}
        emit("prove", rows, columns, output, wide={"release": "release", "ran": "runs", "kernel id": "kernel_id"})
        _tell_refusals(cells)
    seen = {cell.agreement for cell in cells}
    if seen & {Agreement.FALSE_FITS, Agreement.REJECTED, Agreement.TOO_CAUTIOUS}:
        context.exit(EXIT_NO)
    if Agreement.UNANSWERED in seen:
        context.exit(EXIT_WAITS)


def _keep(settings: Settings, cells: Sequence[Cell]) -> None:
    """Keep what happened in the record, and a bundle of what contradicts its prediction."""
    from fleet.compatibility.outcome import Agreement
    from fleet.lab.bundle import keep
    from fleet.lab.proof import proof_of

    with settings.record() as record:
        record.record_proofs([proof_of(cell) for cell in cells], actor=settings.actor)
    for cell in cells:
        if cell.agreement in (Agreement.FALSE_FITS, Agreement.REJECTED, Agreement.TOO_CAUTIOUS):
            place = keep(cell, settings.home / "contradictions")
            narrate(f"prove: {cell.subject.title} on {cell.kernel.name}: {cell.agreement}, kept in {place}")


def _show_kept(settings: Settings, names: Sequence[str], output: str) -> None:
    with settings.record() as record:
        proofs = [p for p in record.proofs() if not names or p.program in names or Path(p.program).name in names]
    rows = [{**asdict(p), "real": p.real.value, "predicted": p.predicted.value} for p in proofs]
    columns = {"program": "program", "variant": "variant", "kernel": "release", "predicted": "predicted"}
    columns |= {"real": "real", "agreement": "agreement", "detail": "detail"}
    emit("proofs", rows, columns, output, wide={"build": "build", "kernel id": "kernel_id", "policy": "policy"})


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _kernel_names(text: str) -> list[str]:
    """``debian:5.10,6.1`` names two kernels of Debian; a path is a path."""
    names, distribution = [], ""
    for word in _words(text):
        if ":" in word:
            distribution = word.partition(":")[0] + ":"
        names.append(
            word if ":" in word or "/" in word.partition("/")[0] or Path(word).exists() else distribution + word
        )
    return list(dict.fromkeys(names))


def _subjects(names: Sequence[str], variants: Sequence[str], settings: Settings) -> list[Subject]:
    from btf.objects.elf_object import MAX_OBJECT
    from fleet.lab.subject import subject_of_object, subject_of_program

    unknown = [v for v in variants if v not in _PROVABLE]
    if unknown:
        raise NothingToCheck(f"variant {unknown[0]} cannot be proved in a guest", remedy="Give core, core-btf or both.")
    subjects = []
    for name in names:
        path = Path(name)
        if path.is_file():
            with path.open("rb") as file:
                data = file.read(MAX_OBJECT + 1)
            subjects += [subject_of_object(path.name, data, v) for v in variants]
            continue
        program = settings.catalogue().get(name)
        if program is None:
            raise NothingToCheck(f"{name!r} is neither a file nor a program")
        subjects += [subject_of_program(program, v) for v in variants if v in program.ladder]
    return subjects


def _tell_refusals(cells: Sequence[Cell]) -> None:
    """Say what the verifier complained of, once for each build and complaint, with the kernels that made it."""
    from fleet.compatibility.verifier import explain

    told: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for cell in cells:
        if found := explain(cell.outcome.log):
            place = f"{cell.kernel.name} {cell.profile.name}"
            told.setdefault((cell.subject.title, tuple(found.lines())), []).append(place)
    for (title, lines), places in told.items():
        click.echo("\n".join(["", f"{title} on {', '.join(places)}", *lines]))


def _row(cell: Cell) -> dict[str, Any]:
    from fleet.compatibility.verifier import explain

    outcome = cell.outcome
    found = explain(outcome.log)
    said = ": ".join(word for word in (outcome.stage, outcome.errno, outcome.message) if word)
    return {
        "build": cell.subject.title,
        "digest": cell.subject.build,
        "kernel": cell.kernel.name,
        "release": cell.kernel.release,
        "kernel_id": cell.kernel_id,
        "profile": cell.profile.name,
        "policy": cell.policy,
        "predicted": cell.predicted.value,
        "real": outcome.real.value,
        "agreement": cell.agreement.value,
        "why": printable(found.complaint if found else said or cell.because, 160),
        "because": cell.because,
        "runs": " ".join(f"{name}×{count}" for name, count in (outcome.runs or {}).items()),
        "outcome": outcome.document(),
        "explanation": asdict(found) if found else None,
    }
