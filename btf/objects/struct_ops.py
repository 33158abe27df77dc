"""Sets of functions an object gives the kernel (struct_ops): of which struct, and which program each member is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from btf.format.index import essential_name
from btf.format.kinds import Datasec, Kind, Struct, Var
from btf.format.types import Btf

SECTIONS = (".struct_ops", ".struct_ops.link", "?.struct_ops", "?.struct_ops.link")


@dataclass(frozen=True, slots=True)
class StructOps:
    """One variable of a section for struct_ops, which becomes a map of that type."""

    name: str
    type: str  # the kernel's struct; what follows ___ in the object's own name of it is left out
    programs: tuple[tuple[str, str], ...]  # (member, program), in the struct's order
    link: bool  # attached as a link, which goes with its holder
    optional: bool  # made only when asked for


def struct_ops(btf: Btf, section: str, places: Mapping[str, int], functions: Mapping[int, str]) -> Iterator[StructOps]:
    """Yield the struct_ops of *section*: *places* are name → byte offset, *functions* byte offset → program."""
    for id_ in btf.by_name(section, Kind.DATASEC):
        datasec = btf[id_]
        for variable, _, _ in datasec.variables if isinstance(datasec, Datasec) else ():
            var = btf[variable]
            shape = btf.resolve(var.type) if isinstance(var, Var) else None
            if not isinstance(var, Var) or not isinstance(shape, Struct):
                continue
            start = places.get(var.name, 0)
            members = ((m.name, functions.get(start + m.bit_offset // 8)) for m in shape.members)
            programs = tuple((member, name) for member, name in members if name)
            link, optional = section.endswith(".link"), section.startswith("?")
            yield StructOps(var.name, essential_name(shape.name), programs, link, optional)
