"""A kernel module's BTF: it goes on where its kernel's ends, so it means something on exactly that kernel only."""

from __future__ import annotations

import re
from dataclasses import dataclass

from btf.archive.btf_file import WithoutBtf
from btf.archive.unpack import packing_of, unpack
from btf.elf import Elf, ElfMalformed
from btf.fault import EXIT_USAGE, Fault, printable
from btf.format.kinds import FuncProto, Kind
from btf.format.parse import BtfMalformed, parse_btf
from btf.format.types import Btf

_MAX_MODULE = 128 * 1024 * 1024  # unpacked; with debug information the largest are near it
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ModuleMalformed(Fault):
    """A file that is no kernel module, or one whose BTF stands on no kernel's."""

    code = "COR-BTF-025"
    exit = EXIT_USAGE
    remedy = "Give a .ko, .ko.xz, .ko.zst or .ko.gz, or /sys/kernel/btf/NAME, of a module that came with its kernel."


class ModuleForeign(Fault):
    """A module's BTF that was not made for this kernel."""

    code = "COR-BTF-024"
    exit = EXIT_USAGE
    remedy = "Import the modules of exactly this kernel build, from the same package as its image."


@dataclass(frozen=True, slots=True)
class KernelModule:
    """What a module says of itself. ``release`` is of the kernel that it was built for; BTF is not parsed yet."""

    name: str
    btf: bytes
    release: str | None = None


def is_module(data: bytes) -> bool:
    """Tell whether *data* is a module's ELF file, which is not packed."""
    try:
        return data[:4] == b"\x7fELF" and Elf(data).named(".modinfo") is not None
    except ElfMalformed:
        return False


def read_module(data: bytes, *, name: str) -> KernelModule:
    """Read a module, packed or not, or a module's bare BTF; *name* serves when it says none.

    Raise ModuleMalformed, WithoutBtf, PackedMalformed, UnpacksTooLarge or ElfMalformed.
    """
    if packing_of(data):
        data = bytes(unpack(data, limit=_MAX_MODULE))
    if data[:4] != b"\x7fELF":
        return KernelModule(_checked(name, "the file's name"), data)
    elf = Elf(data)
    said = dict(row.partition(b"=")[::2] for row in elf.bytes_of(elf.named(".modinfo")).split(b"\0"))
    btf = elf.bytes_of(elf.named(".BTF"))
    if not btf:
        raise WithoutBtf(f"module {name} has no BTF")
    if elf.named(".BTF.base") is not None:
        raise ModuleMalformed(f"{name} was built outside its kernel's tree: its BTF brings a base of its own")
    release = said.get(b"vermagic", b"").decode("utf-8", "replace").partition(" ")[0]
    return KernelModule(
        _checked(said.get(b"name", b"").decode("utf-8", "replace") or name, "section .modinfo"),
        btf,
        printable(release) or None,
    )


def _checked(name: str, where: str) -> str:
    """Return *name* as the kernel spells it: it becomes the name of a file."""
    if not _NAME.fullmatch(name):
        raise ModuleMalformed(f"{where}: {name!r} is no name of a module")
    return name.replace("-", "_")


def parse_module(module: KernelModule, base: Btf) -> Btf:
    """Parse the BTF of *module* on top of *base* and make sure that it was made for it.

    On another base its numbers would name other types: strings would start in the middle of one, functions would have
    no prototypes. Raise ModuleForeign when they do, and BtfMalformed for what is no BTF at all.
    """
    try:
        btf = parse_btf(module.btf, base=base)
        if not btf.stands_on_base():
            raise ModuleForeign(f"{module.name}: its names do not start where this kernel's do: it is another kernel's")
        for id_ in range(len(base), len(btf)):
            type_ = btf[id_]
            if type_.kind == Kind.FUNC and not isinstance(btf[getattr(type_, "type", 0)], FuncProto):
                name = printable(type_.name, 80)
                raise ModuleForeign(f"{module.name}: function {name} has no prototype on this kernel: it is another's")
    except BtfMalformed as error:
        raise ModuleForeign(f"{module.name}: does not stand on this kernel's BTF: {error.message}") from None
    return btf
