"""Every error code with its meaning, from the classes that raise them: what ``corollout explain CODE`` knows."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import btf
import fleet
import inventory
import probes
from btf.fault import Fault
from probes.agent.faults import Refusal

Error = TypeVar("Error", bound=Exception)

_ROOMS = (btf, inventory, probes, fleet)
# Modules that are programs, not rooms: importing them starts or needs something.
_NOT_IMPORTED = ("fleet.console", "fleet.lab.silent", "probes.programs", "fleet.record.migrations")


@dataclass(frozen=True, slots=True)
class Meaning:
    """One code."""

    code: str
    meaning: str
    remedy: str
    exit: int
    where: str


def _descendants(kind: type[Error]) -> Iterator[type[Error]]:
    for child in kind.__subclasses__():
        yield child
        yield from _descendants(child)


def all_codes() -> dict[str, Meaning]:
    """Return every code by name; a code shared by parent and child class is the parent's."""
    for room in _ROOMS:
        for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
            if not module.name.startswith(_NOT_IMPORTED) and not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    found: dict[str, Meaning] = {}
    kinds: list[type[Fault] | type[Refusal]] = [Fault, *_descendants(Fault), Refusal, *_descendants(Refusal)]
    for kind in kinds:
        first_line = (kind.__doc__ or "").strip().split("\n\n", maxsplit=1)[0]
        row = Meaning(kind.code, " ".join(first_line.split()), kind.remedy, kind.exit, kind.__module__)
        found.setdefault(row.code, row)
    return dict(sorted(found.items()))
