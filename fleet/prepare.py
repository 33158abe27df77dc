"""Prepare a plan: gather what ``rollout.freeze`` needs from record, archive and catalogue; make the BTF it sends along.

``core-btf`` gets the smallest BTF with which the object relocates as with the whole one, made once per kernel build.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from btf.archive.archive import Archive
from btf.core.minimise import minimise
from btf.fault import EXIT_USAGE, Fault
from btf.objects.elf_object import read_object
from fleet.policy import compile_policy, parse_policies
from fleet.record import Record
from fleet.rollout.execute.artefacts import Artefacts
from fleet.rollout.planning.freeze import Candidate, Pinned, Running, freeze
from fleet.rollout.planning.plan import Plan, read_plan
from fleet.rollout.planning.settings import WaveSettings
from fleet.selection import matching
from inventory.host import Host
from probes.catalogue import Build, Program


class PolicyMissing(Fault):
    """A networking program without anything to enforce."""

    code = "COR-POL-010"
    exit = EXIT_USAGE
    remedy = "Give NetworkPolicy YAML with --policy FILE."


class PolicyUnwanted(Fault):
    """Policies for a program that takes none."""

    code = "COR-POL-011"
    exit = EXIT_USAGE
    remedy = "Leave --policy away, or plan a networking program."


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a person asked of a plan beyond program and settings; kept in it, so that the same can be planned anew."""

    where: str = ""  # a selector; empty: every host
    policies: tuple[bytes, ...] = ()
    audit: bool = False
    controllers: tuple[str, ...] = ()
    scope: str | None = None
    limits: Mapping[str, float] = field(default_factory=dict)  # of the budget, instead of the manifest's


def wishes_of(plan: Plan) -> Wishes:
    """Return what was asked for when *plan* was made."""
    return msgspec.convert(dict(plan.wishes), Wishes)


def prepare(
    record: Record, archive: Archive, artefacts: Artefacts, program: Program, settings: WaveSettings, wishes: Wishes,
    *, host: str | None = None, only: Collection[str] | None = None, again: bool = False,
) -> Plan:  # fmt: skip
    """Return the plan of *program* for the hosts that were wished, or for *host* alone, or of them for those in *only*.

    All that its specs name is kept in *artefacts*. *again*: what the record says they run is not what they run.
    """
    selectors = (*settings.selectors, *([wishes.where] if wishes.where else []))
    chosen = matching(record, list(dict.fromkeys(selectors)))
    candidates: Iterable[Candidate] = (Candidate(*row) for row in record.candidates(program.name, host=host))
    candidates = [c for c in candidates if c.host in chosen[wishes.where]] if wishes.where else list(candidates)
    candidates = [c for c in candidates if only is None or c.host in only]
    pins = _pins(record, program.name)
    wanted = {(c.variant, c.kernel_id) for c in candidates if c.variant}
    wanted |= {(p.variant, c.kernel_id) for c in candidates if (p := pins.get(c.host)) and p.variant}
    builds = {v: program.build(v) for v in sorted({v for v, _ in wanted})}
    for build in builds.values():
        for path in build.files.values():
            artefacts.put(path.read_bytes())
    return freeze(
        program,
        candidates,
        settings,
        builds,
        config=_config(program, record, wishes),
        now=record.now(),
        id=f"{program.name[:20]}-{uuid.uuid4().hex[:8]}",
        releases=record.releases(),
        btf=_btf_files(archive, artefacts, builds, sorted({k for v, k in wanted if v == "core-btf"})),
        scopes={c.host: {"kind": wishes.scope} for c in candidates} if wishes.scope else None,
        chosen=chosen,
        pins=pins,
        running={} if again else _running(record, program.name, builds),
        wishes=msgspec.to_builtins(wishes),
        budget=msgspec.structs.replace(program.manifest.budget, **wishes.limits),
    )


def _pins(record: Record, program: str) -> dict[str, Pinned]:
    """What persons hold hosts to, with what was decided for the variant they named."""
    found = {}
    for pin in record.pins(program):
        verdict = ""
        if pin.variant is not None:
            decided = [a for c in record.choices(program, host=pin.host) for a in c.assessments]
            verdict = next((a.verdict.value for a in decided if a.variant == pin.variant), "")
        found[pin.host] = Pinned(pin.variant, f"{pin.reason or 'no reason given'} ({pin.actor})", verdict)
    return found


def _running(record: Record, program: str, builds: Mapping[str, Build]) -> dict[str, Running]:
    """What every host runs; of those that may run just what is planned now, also the plan by which they do."""
    digests = {(b.variant, b.digest) for b in builds.values()}
    plans: dict[str, Plan | None] = {}
    found = {}
    for host, variant, build, plan_id in record.running(program):
        alike = (variant, build) in digests
        if alike and plan_id not in plans:
            plans[plan_id] = read_plan(record.plan_text(plan_id)) if plan_id else None
        found[host] = Running(variant, build, plans[plan_id] if alike else None)
    return found


def _config(program: Program, record: Record, wishes: Wishes) -> dict[str, dict[str, Any]]:
    """The program's own configuration by host: compiled policies for what enforces them, nothing for others."""
    if program.manifest.kind != "networking":
        if wishes.policies:
            raise PolicyUnwanted(f"{program.name} enforces no policies")
        return {}
    if not wishes.policies:
        raise PolicyMissing(f"{program.name} needs a policy")
    return policy_tables(list(record.definitions().values()), wishes)


def policy_tables(hosts: Sequence[Host], wishes: Wishes) -> dict[str, dict[str, Any]]:
    """Return the table of each of *hosts* that the wished policies compile to."""
    documents = [document for data in wishes.policies for document in parse_policies(data)]
    return compile_policy(documents, hosts, audit=wishes.audit, controllers=wishes.controllers)


def _btf_files(
    archive: Archive, artefacts: Artefacts, builds: Mapping[str, Build], kernels: Sequence[str]
) -> dict[str, str]:
    """Return, by kernel id, the digest of the minimised BTF for each kernel build that gets ``core-btf``."""
    if "core-btf" not in builds:
        return {}
    objects = [read_object(builds["core-btf"].files["object"].read_bytes())]
    made = {}
    for kernel_id in kernels:
        sha256 = archive.for_kernel(kernel_id)
        if sha256 is not None:
            made[kernel_id] = artefacts.put(minimise(objects, archive.btf(sha256)))
    return made


def require_artefacts(plan: Plan, artefacts: Artefacts) -> list[str]:
    """Return the digests of the files that the plan's specs name; raise ArtefactLost when one is lost or changed."""
    named = {digest for shared in plan.shared.values() for digest in shared["files"].values()}
    named |= {k["btf"] for k in plan.kernels.values() if k.get("btf")}
    for digest in sorted(named):
        artefacts.get(digest)
    return sorted(named)
