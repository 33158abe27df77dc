"""Prove predictions: boot real kernels in the shape of each profile, try every build, hold it against the verdict.

    prove(subjects, kernels, profiles, parallel=2) → one Cell for each subject × kernel × profile, as guests end

A guest tries all its subjects one after the other. When it dies or is late, the one it died with is tried alone, once,
and the others go on together in another guest.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import lru_cache

from btf.core.minimise import minimise
from btf.fault import Fault, printable
from btf.format.parse import parse_btf
from btf.format.types import Btf
from fleet.compatibility.choose import why
from fleet.compatibility.decide import assess
from fleet.compatibility.host_needs import host_needs
from fleet.compatibility.loaded import load
from fleet.compatibility.outcome import SILENT, Agreement, Outcome, Proof, agreement, boot_policy, read_outcome
from fleet.compatibility.requirements import infer
from fleet.compatibility.sources import CachedTypes, Known
from fleet.compatibility.verdict import Assessment, Verdict
from fleet.compatibility.verifier import explain
from fleet.lab import initramfs, machine, modules
from fleet.lab.kernel_store import Kernel, kernel_btf
from fleet.lab.profiles import Profile
from fleet.lab.subject import Subject, attachments
from inventory.facts import Facts, FactsMalformed, parse_facts

# What the tc programs and the socket fallbacks of a host would have loaded by themselves.
_MODULES = ("sch_ingress", "cls_bpf", "tcp_diag")
# Limits of what hangs, wide enough for a machine that has other work: for one object, and to the end of the facts.
_LOAD_S, _BOOT_S = 120.0, 300.0
_TOGETHER = 64  # objects tried in one guest
_GUEST_MIB = 384


class GuestSilent(Fault):
    """A proof guest did not say what it found."""

    code = "COR-LAB-023"
    remedy = "The message has the last words of its console; with --parallel 1 it has the machine for itself."


@dataclass(frozen=True, slots=True)
class Cell:
    """One subject on one kernel in one profile: predicted, real, and whether they agree."""

    subject: Subject
    kernel: Kernel
    profile: Profile
    agreement: Agreement
    outcome: Outcome
    assessment: Assessment | None = None  # None when there were no facts to predict from
    facts: Facts | None = None
    runner: str = ""  # digest of the runner that tried it

    @property
    def predicted(self) -> Verdict:
        """What we said."""
        return self.assessment.verdict if self.assessment else Verdict.UNKNOWN

    @property
    def because(self) -> str:
        """The reason that best says why it would not simply fit."""
        return why(self.assessment) if self.assessment else "no facts came"

    @property
    def kernel_id(self) -> str:
        """The kernel build, as the fleet's record knows it."""
        return self.facts.kernel_id if self.facts else ""

    @property
    def policy(self) -> str:
        """The boot policy under which this happened."""
        return boot_policy(self.facts) if self.facts else ""


def proof_of(cell: Cell) -> Proof:
    """Return what the record keeps of a cell."""
    outcome = cell.outcome
    found = explain(outcome.log)
    words = (outcome.stage, outcome.errno, found.complaint if found else outcome.message)
    said = ": ".join(word for word in words if word)
    return Proof(
        program=cell.subject.name,
        variant=cell.subject.variant,
        build=cell.subject.build,
        runner=cell.runner,
        kernel_id=cell.kernel_id,
        release=cell.kernel.release,
        policy=cell.policy,
        predicted=cell.predicted,
        real=outcome.real,
        agreement=cell.agreement,
        detail=said or f"{outcome.real.value} in the lab on {cell.kernel.release}",
        document=outcome.document(),
    )


@dataclass(frozen=True, slots=True)
class _Guest:
    kernel: Kernel
    profile: Profile
    subjects: tuple[Subject, ...]
    base: initramfs.Base
    again: bool = False


def prove(
    subjects: Sequence[Subject],
    kernels: Sequence[Kernel],
    profiles: Sequence[Profile],
    *,
    parallel: int = 0,
    bases: Mapping[str, initramfs.Base] | None = None,
    on_guest: Callable[[Kernel, Profile, machine.Run], None] = lambda _kernel, _profile, _run: None,
) -> Iterator[Cell]:
    """Yield the cells of the matrix as guests end; *parallel* guests at a time, 0 = what this machine holds.

    *bases* has what guests of other architectures than this machine's start from, by uname's word (``foreign.base``).
    """
    packs = [tuple(subjects[i : i + _TOGETHER]) for i in range(0, len(subjects), _TOGETHER)]
    own = {os.uname().machine: initramfs.base()} | dict(bases or {})
    missing = {k.arch for k in kernels} - set(own)
    if missing:
        raise initramfs.GuestUnbuildable(f"no guest for {', '.join(sorted(missing))} was given")
    guests = [_Guest(k, p, pack, own[k.arch]) for k in kernels for p in profiles for pack in packs]
    stop = threading.Event()  # whoever stops asking ends the guests that still run
    with ThreadPoolExecutor(parallel or guests_at_once()) as pool:
        running = {pool.submit(_run, guest, stop): guest for guest in guests}
        try:
            while running:
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    guest = running.pop(done)
                    run, cells = done.result()
                    on_guest(guest.kernel, guest.profile, run)
                    again = _again(guest, run, cells)
                    left = {id(subject) for next_ in again for subject in next_.subjects}
                    yield from (c for c in cells if id(c.subject) not in left)
                    running |= {pool.submit(_run, next_, stop): next_ for next_ in again}
        finally:
            stop.set()
            for future in running:
                future.cancel()


def guest_count(subjects: Sequence[Subject], kernels: Sequence[object], profiles: Sequence[object]) -> int:
    """How many guests :func:`prove` boots when none dies."""
    return len(kernels) * len(profiles) * -(-len(subjects) // _TOGETHER)


def _again(guest: _Guest, run: machine.Run, cells: Sequence[Cell]) -> list[_Guest]:
    """The guests to try what this one left unanswered: the one it died with alone, the others together; once each."""
    silent = [c.subject for c in cells if c.agreement is Agreement.UNANSWERED]
    if not silent or guest.again:
        return []
    begun = run.report.count(b'"event": "begin"')
    if not begun:  # it died before the first: that is none of theirs
        return [replace(guest, subjects=tuple(silent), again=True)]
    died_with = guest.subjects[begun - 1] if run.ended != "off" else None
    alone = [s for s in silent if died_with is None or s is died_with]
    others = tuple(s for s in silent if died_with is not None and s is not died_with)
    packs = [((s,), True) for s in alone] + ([(others, False)] if others else [])
    return [replace(guest, subjects=pack, again=last) for pack, last in packs]


def guests_at_once() -> int:
    """How many guests this machine holds: one for each core, and no more than half of the free memory."""
    with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123  a kernel file read line by line
        free_kib = next((int(line.split()[1]) for line in file if line.startswith("MemAvailable:")), 0)
    return max(1, min(len(os.sched_getaffinity(0)), free_kib // (2 * (_GUEST_MIB + 128) * 1024)))


def _run(guest: _Guest, stop: threading.Event) -> tuple[machine.Run, list[Cell]]:
    """Boot one guest, read its report, and hold every subject against it."""
    btf = types_of(guest.kernel)
    run = machine.boot(
        guest.kernel,
        [guest.base.archive, _job(guest, btf)],
        parameters=guest.profile.parameters,
        memory_mib=_GUEST_MIB,
        deadline_s=_BOOT_S + 2 * _LOAD_S * len(guest.subjects) ** 0.5,
        stop=stop,
    )
    facts, outcomes = read_report(run.report)
    cells = []
    for number, subject in enumerate(guest.subjects):
        outcome = outcomes.get(number, SILENT)
        if outcome is SILENT and run.ended != "off":
            outcome = Outcome(SILENT.real, message=_last_words(run))
        assessment = predict(subject, facts, btf) if facts else None
        agreed = agreement(assessment.verdict if assessment else Verdict.UNKNOWN, outcome)
        cells.append(Cell(subject, guest.kernel, guest.profile, agreed, outcome, assessment, facts, guest.base.runner))
    return run, cells


def predict(subject: Subject, facts: Facts, btf: Btf | None) -> Assessment:
    """Return what the fleet would decide of this build on a host with these facts."""
    known = Known(facts, CachedTypes(btf) if btf else None, external_btf=subject.variant == "core-btf")
    loaded = load(subject.parsed, btf, str(facts.value("kernel.release", ""))) if btf else None
    needs = (*infer(subject.parsed), *host_needs(subject.parsed))
    return assess(subject.program, subject.variant, needs, known, loaded, build=subject.build)


def read_report(report: bytes) -> tuple[Facts | None, dict[int, Outcome]]:
    """Read a guest's lines: its facts, and the outcome of each task by number. Other lines are passed over."""
    facts, outcomes = None, {}
    for line in report.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if not isinstance(event, dict):
            continue
        if event.get("event") == "facts" and event.get("document"):
            try:
                facts = parse_facts(json.dumps(event["document"]).encode())
            except FactsMalformed:
                facts = None
        elif event.get("event") == "task" and isinstance(event.get("task"), int):
            outcomes[event["task"]] = read_outcome(event)
    return facts, outcomes


@lru_cache(maxsize=8)
def types_of(kernel: Kernel) -> Btf | None:
    """Return the types of a kernel, from its image; None when it has none."""
    data = kernel_btf(kernel)
    return parse_btf(data) if data else None


def _job(guest: _Guest, btf: Btf | None) -> bytes:
    """The archive with what this guest is to do."""
    wanted = modules.load_order(guest.kernel.modules, _MODULES)
    entries = {f"job/{name}.ko": initramfs.plain_file(data) for name, data in wanted}
    tasks = []
    for number, subject in enumerate(guest.subjects):
        entries[f"job/{number}.o"] = initramfs.plain_file(subject.data)
        brought = subject.variant == "core-btf" and btf is not None
        if brought and btf is not None:
            entries[f"job/{number}.btf"] = initramfs.plain_file(minimise([subject.parsed], btf))
        row = subject.program.variant(subject.variant)
        tasks.append(
            {
                "id": number,
                "object": f"/job/{number}.o",
                "btf": f"/job/{number}.btf" if brought else None,
                "optional": list(row.optional_programs) if row else [],
                "record": subject.program.manifest.record.struct,
                "set": [],
                "attach": attachments(subject.parsed),
                "stats": "kernel.bpf_stats_enabled" not in guest.profile.sysctls,
                "deadline_s": _LOAD_S,
            }
        )
    if guest.kernel.config:  # as a distribution's host has it
        entries[f"boot/config-{guest.kernel.release}"] = initramfs.plain_file(guest.kernel.config.read_bytes())
    job = {
        "profile": guest.profile.document(),
        "modules": [f"/job/{name}.ko" for name, _ in wanted],
        "facts": True,
        "tasks": tasks,
    }
    entries["job/job.json"] = initramfs.plain_file(json.dumps(job).encode())
    return initramfs.cpio(entries)


def _last_words(run: machine.Run) -> str:
    lines = [line for line in run.console.splitlines() if line.strip()]
    said = next(
        (line for line in lines if "panic" in line or "BUG" in line or "Oops" in line), lines[-1] if lines else ""
    )
    return printable(f"{'out of time' if run.ended == 'deadline' else 'the guest died'}: {said}")
