"""Prepare a plan: gather what ``rollout.plan`` needs from record, archive and catalogue; make the BTF it sends along.

``core-btf`` gets the smallest BTF with which the object relocates as with the whole one, made once per kernel build.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from btf.archive.archive import Archive
from btf.core.minimise import minimise
from btf.fault import EXIT_USAGE, Fault
from btf.objects.elf_object import read_object
from fleet.compatibility.verdict import Choice
from fleet.policy import compile_policy, parse_policies
from fleet.record import Record
from fleet.rollout.execute.artefacts import Artefacts
from fleet.rollout.plan import Plan, make_plan
from fleet.rollout.settings import WaveSettings
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
    """What a person asked of a plan beyond program and hosts."""

    settings: WaveSettings = field(default_factory=WaveSettings)
    policies: tuple[bytes, ...] = ()
    audit: bool = False
    controllers: tuple[str, ...] = ()
    scope: str | None = None
    limits: Mapping[str, float] = field(default_factory=dict)  # of the budget, instead of the manifest's


def prepare(
    record: Record, archive: Archive, artefacts: Artefacts, program: Program, names: Sequence[str], wishes: Wishes
) -> Plan:
    """Return the plan of *program* for the hosts *names*; all that its specs name is kept in *artefacts*."""
    known = record.definitions()
    hosts = [known[n] for n in names]
    wanted = set(names)
    choices = [c for c in record.choices(program.name) if c.host in wanted]
    builds = {v: program.build(v) for v in {c.variant for c in choices if c.variant}}
    for build in builds.values():
        for path in build.files.values():
            artefacts.put(path.read_bytes())
    facts = {c.host: f for c in choices if (f := record.facts(c.host)) is not None}
    return make_plan(
        program,
        choices,
        hosts,
        wishes.settings,
        builds,
        config=_config(program, list(known.values()), wishes),
        now=time.time(),
        id=f"{program.name[:20]}-{uuid.uuid4().hex[:8]}",
        facts=facts,
        btf=_btf_files(archive, artefacts, builds, choices),
        away={v.name: f"{v.reach_code}: {v.reach_detail}" for v in record.hosts_named(names) if v.reach_code},
        scopes={n: {"kind": wishes.scope} for n in names} if wishes.scope else None,
        budget=msgspec.structs.replace(program.manifest.budget, **wishes.limits),
    )


def _config(program: Program, hosts: Sequence[Any], wishes: Wishes) -> dict[str, dict[str, Any]]:
    """The program's own configuration by host: compiled policies for what enforces them, nothing for others."""
    if program.manifest.kind != "networking":
        if wishes.policies:
            raise PolicyUnwanted(f"{program.name} enforces no policies")
        return {}
    if not wishes.policies:
        raise PolicyMissing(f"{program.name} needs a policy")
    documents = [document for data in wishes.policies for document in parse_policies(data)]
    return compile_policy(documents, hosts, audit=wishes.audit, controllers=wishes.controllers)


def _btf_files(
    archive: Archive, artefacts: Artefacts, builds: dict[str, Build], choices: Sequence[Choice]
) -> dict[str, str]:
    """Return, by kernel id, the digest of the minimised BTF for each kernel build that gets ``core-btf``."""
    if "core-btf" not in builds:
        return {}
    objects = [read_object(builds["core-btf"].files["object"].read_bytes())]
    made = {}
    for kernel_id in sorted({c.kernel_id for c in choices if c.variant == "core-btf"}):
        sha256 = archive.for_kernel(kernel_id)
        if sha256 is not None:
            made[kernel_id] = artefacts.put(minimise(objects, archive.btf(sha256)))
    return made
