"""The maps an object defines, in BTF (section ``.maps``) or as rows of numbers (legacy section ``maps``)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from btf.format.index import BtfMalformed
from btf.format.kinds import Array, Composite, Datasec, Enum, Kind, Ptr, Struct, Var
from btf.format.types import Btf
from btf.objects.uapi import MAP_FLAGS, MAP_TYPES, name_of


@dataclass(frozen=True, slots=True)
class BpfMap:
    """One map. ``type`` is the kernel's name in lower case; sizes in bytes; ``max_entries`` 0: the loader's choice."""

    name: str
    type: str
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    pinned: bool = False  # the loader pins it by name
    inner: BpfMap | None = None  # what a map of maps holds
    legacy: bool = False  # defined in section ``maps``, which libbpf 1.0 and later refuse
    numa_node: int = 0
    extra: int = 0  # what ``map_extra`` means depends on the type
    holds_programs: bool = False  # its definition lists the programs in it

    @property
    def flag_names(self) -> tuple[str, ...]:
        """The kernel's names of its flags; a number for a bit no name is known of."""
        return tuple(name_of(bit, MAP_FLAGS) for bit in range(32) if self.flags >> bit & 1)


_LEGACY = struct.Struct("5I")  # type, key_size, value_size, max_entries, map_flags

_MAX_MEMBERS = 64  # of a definition; libbpf knows a dozen names and refuses others
# Members whose number is the length of an array pointed to, as the macro __uint writes them.
_NUMBERS = ("type", "key_size", "value_size", "max_entries", "map_flags", "pinning", "numa_node", "map_extra")


def btf_maps(btf: Btf) -> list[BpfMap]:
    """Return the maps of every ``.maps`` section of *btf* in order of their definition."""
    found = []
    for id_ in btf.by_name(".maps", Kind.DATASEC):
        section = btf[id_]
        assert isinstance(section, Datasec)
        for variable, _, _ in section.variables:
            var = btf[variable]
            definition = btf.resolve(var.type) if isinstance(var, Var) else None
            if isinstance(definition, Struct):
                found.append(_defined(btf, var.name, definition))
    return found


def _defined(btf: Btf, name: str, definition: Composite, *, nested: bool = False) -> BpfMap:
    if len(definition.members) > _MAX_MEMBERS:
        raise BtfMalformed(f"map {name}: its definition, type {definition.id}, has {len(definition.members)} members")
    numbers = dict.fromkeys(_NUMBERS, 0)
    inner, holds_programs = None, False
    for member in definition.members:
        if member.name in numbers:
            numbers[member.name] = _number(btf, member.type)
        elif member.name in ("key", "value"):
            pointer = btf.resolve(member.type)
            if isinstance(pointer, Ptr):
                numbers[f"{member.name}_size"] = btf.size_of(pointer.type) or 0
        elif member.name == "values" and not nested:
            inner = _inner(btf, f"{name}.inner", member.type)
            holds_programs = inner is None
    return BpfMap(
        name,
        name_of(numbers["type"], MAP_TYPES),
        numbers["key_size"],
        numbers["value_size"],
        numbers["max_entries"],
        numbers["map_flags"],
        pinned=numbers["pinning"] == 1,
        inner=inner,
        numa_node=numbers["numa_node"],
        extra=numbers["map_extra"],
        holds_programs=holds_programs,
    )


def _number(btf: Btf, type_: int) -> int:
    """Return the number a member's type carries: an array's length behind a pointer, or an enum's only value."""
    carrier = btf.resolve(type_)
    if isinstance(carrier, Ptr):
        array = btf.resolve(carrier.type)
        return array.length if isinstance(array, Array) else 0
    return carrier.values[0][1] if isinstance(carrier, Enum) and carrier.values else 0


def _inner(btf: Btf, name: str, type_: int) -> BpfMap | None:
    """Return the map definition that ``__array(values, …)`` points to; None when it lists programs."""
    array = btf.resolve(type_)
    pointer = btf.resolve(array.type) if isinstance(array, Array) else None
    definition = btf.resolve(pointer.type) if isinstance(pointer, Ptr) else None
    return _defined(btf, name, definition, nested=True) if isinstance(definition, Struct) else None


def legacy_maps(section: bytes, symbols: Mapping[str, int], *, big_endian: bool) -> list[BpfMap]:
    """Return the maps of a legacy ``maps`` section; *symbols* are name → byte offset. Rows cut short are left out."""
    row = struct.Struct(f"{'>' if big_endian else '<'}{_LEGACY.format}")
    found = []
    for name, at in sorted(symbols.items(), key=lambda item: item[1]):
        if at + row.size <= len(section):
            number, key, value, entries, flags = row.unpack_from(section, at)
            found.append(BpfMap(name, name_of(number, MAP_TYPES), key, value, entries, flags, legacy=True))
    return found
