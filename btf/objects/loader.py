"""What a version of libbpf must know to load an object: what the object uses, with the first release that knows it.

The facts are from libbpf's release notes as far as they say. Sections carry theirs in :mod:`btf.objects.sections`;
everything else is a row here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from btf.format.kinds import DeclTag, Kind
from btf.objects.extension import RelocationKind
from btf.objects.object import BpfObject

Version = tuple[int, int]


class LoaderNeed(NamedTuple):
    """One thing that the loader must know. ``until`` is the first version that no longer does, where one does not.

    ``program`` needs it, or when that is empty the whole object.
    """

    what: str
    since: Version
    until: Version | None = None
    program: str = ""


class LoaderRow(NamedTuple):
    """A thing an object may use, whether it does, and the versions that know it."""

    what: str
    used: Callable[[BpfObject], bool]
    since: Version
    until: Version | None = None


def _relocates(kind: RelocationKind) -> Callable[[BpfObject], bool]:
    return lambda obj: any(row.kind == kind for row in obj.relocations)


def _has_kind(*kinds: Kind) -> Callable[[BpfObject], bool]:
    return lambda obj: obj.btf is not None and any(obj.btf.ids_of(kind) for kind in kinds)


def _has_section(*names: str) -> Callable[[BpfObject], bool]:
    return lambda obj: any(name in obj.section_names for name in names)


def _tagged(prefix: str) -> Callable[[BpfObject], bool]:
    def used(obj: BpfObject) -> bool:
        tags = (obj.btf[id_] for id_ in obj.btf.ids_of(Kind.DECL_TAG)) if obj.btf else ()
        return any(isinstance(tag, DeclTag) and tag.name.startswith(prefix) for tag in tags)

    return used


LOADER_FEATURES: tuple[LoaderRow, ...] = (
    LoaderRow("maps defined without BTF", lambda obj: any(m.legacy for m in obj.maps), (0, 0), until=(1, 0)),
    LoaderRow("BTF of floating-point numbers", _has_kind(Kind.FLOAT), (0, 4)),
    LoaderRow("BTF tags of declarations", _has_kind(Kind.DECL_TAG), (0, 6)),
    LoaderRow("BTF tags of types", _has_kind(Kind.TYPE_TAG), (0, 6)),
    LoaderRow("BTF enums of 64 bits", _has_kind(Kind.ENUM64), (1, 0)),
    LoaderRow("relocations by type_matches", _relocates(RelocationKind.TYPE_MATCHES), (1, 0)),
    LoaderRow("struct_ops that are links", _has_section(".struct_ops.link"), (1, 2)),
    LoaderRow("an exception callback", _tagged("exception_callback:"), (1, 3)),
    LoaderRow("struct_ops that may be left out", _has_section("?.struct_ops", "?.struct_ops.link"), (1, 4)),
    LoaderRow("an arena", lambda obj: any(m.type == "arena" for m in obj.maps), (1, 4)),
)


def loader_needs(obj: BpfObject) -> Iterator[LoaderNeed]:
    """Yield what *obj* asks of its loader: of the whole object, then section by section of its programs."""
    for row in LOADER_FEATURES:
        if row.used(obj):
            yield LoaderNeed(row.what, row.since, row.until)
    for program in obj.programs:
        if program.meaning.kind:
            yield LoaderNeed(f"section {program.meaning.kind}", program.meaning.since, None, program.name)
