"""Scan and decide: hosts → facts, BTF once per kernel build, and for every host and program a choice, into the record.

It drives the rooms below and decides nothing itself; what is decided and why is ``compatibility``'s.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from btf.archive.archive import OWN, Archive, KernelName
from btf.archive.near_misses import near_misses
from btf.fault import Fault
from btf.format.types import Btf
from btf.objects.elf_object import read_object
from fleet.compatibility.choose import Kernels, Material, choose_all
from fleet.compatibility.declared import compare_declared
from fleet.compatibility.host_needs import host_needs
from fleet.compatibility.loaded import load
from fleet.compatibility.requirements import infer
from fleet.compatibility.verdict import Choice
from fleet.record import Record
from inventory.collect import ScanOutcome, fetch_btf
from inventory.collect import scan as collect
from inventory.connect import Connection
from inventory.facts import Answer, Facts
from inventory.host import Host
from probes.catalogue import ArtefactMissing, Program

MAX_BTF = 64 * 1024 * 1024  # bytes, uncompressed; the largest seen is 27 MB
WINDOW = 500

Connect = Callable[[Host], Connection]


class BtfDiffers(Fault):
    """A host's BTF is not the one its facts named."""

    code = "COR-INV-030"
    remedy = "Scan the host again; if it repeats, look at who changes /sys/kernel/btf there."


@dataclass(frozen=True, slots=True)
class Harvested:
    """BTF of one kernel build, fetched from one host for the whole fleet, or why not."""

    kernel_id: str
    host: str
    sha256: str | None
    fault: Fault | None = None


def scan(
    record: Record,
    hosts: Sequence[Host],
    *,
    connect: Connect,
    parallel: int,
    deadline_s: float,
    on_outcome: Callable[[ScanOutcome], None] = lambda _outcome: None,
) -> list[ScanOutcome]:
    """Ask every host for its facts and keep what each said, as it is said; one host's silence holds no other."""
    outcomes = []
    for outcome in collect(hosts, connect=connect, parallel=parallel, deadline_s=deadline_s):
        record.record_scan(outcome)
        outcomes.append(outcome)
        on_outcome(outcome)
    return outcomes


def harvest(
    record: Record, archive: Archive, outcomes: Iterable[ScanOutcome], *, connect: Connect
) -> Iterator[Harvested]:
    """Fetch the BTF of every kernel build that the archive lacks, once, from the first host that shows it.

    What a person vouched for and a host's own BTF contradicts is fetched, too, and replaced. The record hears of all.
    """
    willing: dict[str, list[tuple[Host, Facts]]] = {}
    for outcome in outcomes:
        if outcome.facts is not None:
            shown = outcome.facts.answer("btf.vmlinux") is Answer.YES
            willing.setdefault(outcome.facts.kernel_id, []).extend([(outcome.host, outcome.facts)] if shown else [])
    for kernel_id, candidates in willing.items():
        entry = archive.entry(kernel_id)
        if entry is not None and (entry.how in OWN or all(_shown(f) == entry.sha256 for _, f in candidates)):
            record.record_kernel_btf(kernel_id, entry.sha256)
            continue
        for host, facts in candidates:
            result = _fetch(archive, host, facts, connect)
            yield result
            if result.sha256 is not None:
                record.record_kernel_btf(kernel_id, result.sha256)
                break


def _shown(facts: Facts) -> str:
    """The digest of the BTF that a host shows."""
    return str(facts.value("btf.vmlinux", {})["sha256"])


def _fetch(archive: Archive, host: Host, facts: Facts, connect: Connect) -> Harvested:
    kernel_id = facts.kernel_id
    try:
        with connect(host) as connection:
            data = fetch_btf(connection, MAX_BTF)
        if hashlib.sha256(data).hexdigest() != _shown(facts):
            raise BtfDiffers(f"{host.name}: the BTF it sent is not the one its facts name")
        source = f"host {host.name}"
        sha256 = archive.put(data, kernel_id=kernel_id, source=source, how="host", name=_name_of(facts))
        return Harvested(kernel_id, host.name, sha256)
    except (Fault, OSError, zlib.error) as error:
        fault = error if isinstance(error, Fault) else BtfDiffers(f"{host.name}: {error}")
        return Harvested(kernel_id, host.name, None, fault)


def _name_of(facts: Facts) -> KernelName:
    """What a host's kernel calls itself."""
    release, version, arch = (str(facts.value(f"kernel.{n}", "")) for n in ("release", "version", "arch"))
    distribution = " ".join(str(facts.value(n, "")) for n in ("os.id", "os.version_id")).strip()
    return KernelName(release, version, arch, distribution)


def materials(program: Program) -> dict[str, Material]:
    """Return what is known of each of the program's builds before any host is looked at."""
    found = {}
    for variant in program.ladder:
        try:
            build = program.build(variant)
        except ArtefactMissing as fault:
            found[variant] = Material(missing=fault.message)
            continue
        if "object" not in build.files:
            found[variant] = Material(build=build.digest)
            continue
        parsed = read_object(build.files["object"].read_bytes())
        requirements = infer(parsed)
        compare_declared(program.name, program.manifest.requires, requirements)
        found[variant] = Material(
            build=build.digest, requirements=(*requirements, *host_needs(parsed)), load=partial(load, parsed)
        )
    return found


def decide(
    record: Record, archive: Archive, programs: Iterable[Program], *, hosts: Sequence[str] | None = None
) -> list[Choice]:
    """Choose for every host with facts and every program, and keep the choices; returns them by program, then host.

    With *hosts*, only for these.
    """

    def btf_of(kernel_id: str) -> Btf | None:
        sha256 = archive.for_kernel(kernel_id)
        return None if sha256 is None else archive.btf(sha256)

    entries = archive.list()

    def near_of(facts: Facts) -> str:
        return next(iter(near_misses(entries, _name_of(facts))), "")

    kernels = Kernels(btf_of, near_of)
    quarantine, learned = record.quarantined(), record.learned()
    decided = []
    for program in programs:
        builds = materials(program)
        pins = {p.host: p.variant for p in record.pins(program.name) if p.variant is not None}
        for window in _windows(record, hosts):
            choices = list(
                choose_all(window, program, builds, kernels, learned=learned, quarantine=quarantine, pins=pins)
            )
            record.record_choices(choices)
            decided += choices
    return decided


def _windows(record: Record, hosts: Sequence[str] | None) -> Iterator[list[tuple[str, Facts]]]:
    """Hosts with facts, some hundred at a time: a facts document is large, a fleet is long."""
    names = record.host_names() if hosts is None else hosts
    for start in range(0, len(names), WINDOW):
        window = []
        for name in names[start : start + WINDOW]:
            facts = record.facts(name)
            if facts is not None:
                window.append((name, facts))
        yield window
