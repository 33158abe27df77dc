"""What is proved: an object with what its program's manifest says of it, or an object alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from btf.objects.elf_object import read_object
from btf.objects.object import BpfObject
from probes.catalogue import Program
from probes.manifest import Manifest, Record, Variant

_TC_PLACES = ("lo:ingress", "lo:egress")


@dataclass(frozen=True, slots=True)
class Subject:
    """One build to be proved: an object, with what its program's manifest says of it."""

    name: str
    variant: str  # core, or core-btf: the same object with BTF brought along
    data: bytes
    build: str  # the digest decisions know it by
    program: Program
    parsed: BpfObject = field(repr=False)

    @property
    def title(self) -> str:
        """Name and variant in one word."""
        return self.name if self.variant == "core" else f"{self.name} ({self.variant})"


def subject_of_program(program: Program, variant: str) -> Subject:
    """A program's build. Raises ArtefactMissing, or what reading the object raises."""
    build = program.build(variant)
    data = build.files["object"].read_bytes()
    return Subject(program.name, variant, data, build.digest, program, read_object(data))


def subject_of_object(name: str, data: bytes, variant: str) -> Subject:
    """An object without a manifest; its build is known by its own digest."""
    parsed = read_object(data)
    rows = {"core": Variant(file=Path(name).name)}
    bare = Manifest(name=name, version="0", kind="tracing", summary="", variants=rows, record=Record(struct=""))
    return Subject(name, variant, data, f"sha256:{parsed.sha256}", Program(Path(name).parent, bare), parsed)


def attachments(parsed: BpfObject) -> list[str]:
    """Where the tc programs go: a section names no interface. Of more than two, the rest is loaded only."""
    names = [p.name for p in parsed.programs if p.program_type == "sched_cls" and not p.optional]
    return [f"{name}=tc:{place}" for name, place in zip(names, _TC_PLACES, strict=False)]
