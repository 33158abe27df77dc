"""The kernel's own list of its functions: ``/proc/kallsyms``, a ``System.map`` or ``available_filter_functions``.

It shows what BTF does not: functions without a signature, and what the compiler made of one. ``f.isra.0`` and
``f.constprop.0`` are ``f`` with other arguments, ``f.part.0`` is the rest of ``f`` behind an early return that was
copied into its callers; ``f.cold`` is only the unlikely code of ``f`` itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_MOST = 2_000_000  # lines
_ROW = re.compile(r"(?:[0-9a-fA-F]+ ([A-Za-z]) )?([\w.$]+)(?:[ \t]+\[([^\]]+)\])?\s*")
_CODE = frozenset("tTwW")
_COPY = re.compile(r"(?:\.(?:isra|constprop|part)\.\d+)+")

WORDS = {
    "isra": "with other arguments",
    "constprop": "for constant arguments",
    "part": "without its beginning",
}


@dataclass(frozen=True, slots=True)
class Symbols:
    """``functions`` of kernel and loaded modules by exact name; ``modules``: those of modules; ``copies`` by name."""

    functions: frozenset[str] = frozenset()
    modules: Mapping[str, str] = field(default_factory=dict)  # function → its module
    copies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def made_of(self, name: str) -> str:
        """Return in words what the compiler made of *name*: ``f.isra.0 (with other arguments)``; empty if nothing."""
        return ", ".join(f"{copy} ({_meaning(copy)})" for copy in self.copies.get(name, ()))


def _meaning(copy: str) -> str:
    found = next((word for word in WORDS if f".{word}." in copy), "")
    return WORDS.get(found, "changed")


def parse_symbols(lines: Iterable[str]) -> Symbols:
    """Return the functions named in *lines* of any of the three files; other lines are passed over."""
    functions: set[str] = set()
    modules: dict[str, str] = {}
    copies: dict[str, list[str]] = {}
    for number, line in enumerate(lines):
        row = _ROW.fullmatch(line)
        if number >= _MOST:
            break
        if row is None or (row[1] and row[1] not in _CODE):
            continue
        name = row[2]
        base, dot, _ = name.partition(".")
        if dot:
            if _COPY.fullmatch(name, len(base)):
                copies.setdefault(base, []).append(name)
            continue
        functions.add(name)
        if row[3]:
            modules[name] = row[3]
    return Symbols(frozenset(functions), modules, {name: tuple(rows) for name, rows in copies.items()})
