"""What is constant once an object is loaded: ``.rodata``, kernel options, and which weak kernel symbols are there.

The loader writes these and freezes them before it loads programs, so the verifier reads them as constants. Nothing is
assumed of a kernel but what its BTF shows and what one is told.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from btf.format.kinds import Array, Enum, Int, Kind
from btf.format.types import Btf
from btf.objects.object import BpfObject, Extern, Reference
from btf.reach.known import NUMBER, OTHER, Bounds, DataAddress, Origin, Present, Told, Value, low_bytes
from btf.reach.verifier import Ability, abilities

_Order = Literal["big", "little"]
VERSION = "LINUX_KERNEL_VERSION"
_OPTION = "kconfig:"
_BOOL = 4  # of an integer's encoding
_TRISTATE = {"n": 0, "y": 1, "m": 2}  # enum libbpf_tristate


@dataclass(frozen=True, slots=True)
class Given:
    """What is known of a load besides the object and the kernel's BTF.

    ``constants``: variables of ``.rodata`` that the loader sets, and values of ``LINUX_…`` externs, by name.
    ``options``: the kernel's configuration, symbol with ``CONFIG_`` → y, m or text; None when unknown.
    ``release``: as of ``uname -r``. ``symbols``: whether the kernel has a symbol, where its BTF does not tell.
    ``able``: what the verifier follows; None: as its BTF shows.
    """

    constants: Mapping[str, int | bytes] = field(default_factory=dict)
    options: Mapping[str, str] | None = None
    release: str = ""
    symbols: Mapping[str, bool] = field(default_factory=dict)
    able: frozenset[Ability] | None = None


def version_bounds(given: Given) -> tuple[int, int] | None:
    """Return the lowest and highest version code that the release may mean, None when it is given or unknown."""
    numbers = re.match(r"(\d{1,3})\.(\d{1,3})\b", given.release)
    if numbers is None or VERSION in given.constants:
        return None
    # The third number is elsewhere on some distributions, and the kernel's own macro ends at 255.
    low = int(numbers[1]) << 16 | int(numbers[2]) << 8
    return low, low | 0xFF


class Memory:
    """What the verifier reads from constant memory of one object on one kernel."""

    def __init__(self, obj: BpfObject, target: Btf, given: Given) -> None:
        self._obj, self._target, self._given = obj, target, given
        self.able = target.remember("abilities", lambda: abilities(target)) if given.able is None else given.able
        self._order: _Order = "big" if obj.big_endian else "little"
        self._externs = {e.name: e for e in obj.externs}
        self._sections = {s.name: s for s in obj.data if s.constant}
        self._contents = {s.name: self._written(s.name) for s in self._sections.values()}

    def _written(self, name: str) -> bytes:
        """Return what a section holds once the loader has set what it is told to set."""
        section = self._sections[name]
        contents = bytearray(section.contents.ljust(section.size, b"\0"))
        for variable in section.variables:
            value = self._given.constants.get(variable.name)
            if value is not None and variable.offset + variable.size <= len(contents):
                raw = value if isinstance(value, bytes) else _number(value, variable.size, self._order)
                contents[variable.offset : variable.offset + variable.size] = raw[: variable.size].ljust(
                    variable.size, b"\0"
                )
        return bytes(contents)

    def address(self, reference: Reference) -> Value:
        """Return what the load of an address gives."""
        if reference.section:
            known = reference.section in self._sections and Ability.FROZEN in self.able
            return DataAddress(reference.section, reference.offset) if known else OTHER
        extern = self._externs.get(reference.name)
        if extern is None:
            return OTHER
        if extern.origin == "kconfig":
            return DataAddress(_OPTION + extern.name, 0) if Ability.FROZEN in self.able else OTHER
        return self._symbol(extern)

    def _symbol(self, extern: Extern) -> Value:
        there = self._given.symbols.get(extern.name)
        if there is None and extern.typed:
            # One that is not in the kernel's own BTF may be in a module's.
            kind = Kind.FUNC if extern.function else Kind.VAR
            there = True if self._target.by_name(extern.name, kind) else None
        if there is False and extern.weak:
            return Told.by(Origin("ksym", extern.name), 0)
        if there and extern.function and Ability.WEAK_FUNCTION in self.able:
            return Present(extern.name)
        return OTHER

    def told(self, reference: Reference) -> Hashable:
        """Return all that a program may learn of what *reference* names."""
        value = self.address(reference)
        if not isinstance(value, DataAddress):
            return value
        if value.place.startswith(_OPTION):
            extern = self._externs[value.place.removeprefix(_OPTION)]
            return value, self._option(extern, 0, 4), self._raw_option(extern)
        return value, self._contents[value.place]

    def read(self, place: str, offset: int, size: int) -> Value:
        """Return what a load of *size* bytes finds."""
        if place.startswith(_OPTION):
            return self._option(self._externs[place.removeprefix(_OPTION)], offset, size)
        contents = self._contents[place]
        if not 0 <= offset <= len(contents) - size:
            return low_bytes(NUMBER, size)
        value = int.from_bytes(contents[offset : offset + size], self._order)
        names = (v.name for v in self._sections[place].variables if v.offset <= offset < v.offset + v.size)
        return Told.by(Origin("rodata", next(names, place)), value)

    def _option(self, extern: Extern, offset: int, size: int) -> Value:
        """Return what is known of a kernel option: all, or for the version of a kernel what its release tells."""
        origin = Origin("kconfig", extern.name)
        bounds = version_bounds(self._given) if extern.name == VERSION else None
        if bounds:
            return low_bytes(NUMBER, size) if offset or size != 4 else Bounds(*bounds)
        raw = self._raw_option(extern)
        if raw is None or not 0 <= offset <= len(raw) - size:
            return low_bytes(NUMBER, size)
        return Told.by(origin, int.from_bytes(raw[offset : offset + size], self._order))

    def _raw_option(self, extern: Extern) -> bytes | None:
        """Return the bytes the loader puts where *extern* is, None when they are not known."""
        assert self._obj.btf is not None
        size = self._obj.btf.size_of(extern.type)
        if not size or size > 4096:
            return None
        told = self._given.constants.get(extern.name)
        if told is not None:
            return told if isinstance(told, bytes) else _number(told, size, self._order)
        if extern.name.startswith("LINUX_") or self._given.options is None:
            return None
        text = self._given.options.get(extern.name, "n")
        if text == "n" and extern.name not in self._given.options:
            return bytes(size)  # a weak one that is not set; without a weak one libbpf refuses the object
        return _encoded(self._obj.btf, extern.type, text, size, self._order)


def _number(value: int, size: int, order: _Order) -> bytes:
    return (value & ((1 << 8 * size) - 1)).to_bytes(size, order)


def _encoded(btf: Btf, type_: int, text: str, size: int, order: _Order) -> bytes | None:
    """Return an option's value as libbpf writes it for a variable of *type_*, None when it would refuse."""
    type_row = btf.resolve(type_)
    if isinstance(type_row, Array):
        return text.strip('"').encode()[: size - 1].ljust(size, b"\0")
    if text in _TRISTATE:
        if isinstance(type_row, Enum):
            return _number(_TRISTATE[text], size, order)
        if isinstance(type_row, Int) and size == 1:
            return _number(int(text == "y") if type_row.encoding & _BOOL else ord(text), 1, order)
        return None
    try:
        return _number(int(text, 0), size, order)
    except ValueError:
        return None
