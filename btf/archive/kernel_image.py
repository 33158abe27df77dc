"""Bytes of a kernel image in, its BTF and its name out: what a kernel that is installed but not booted would show.

An image is peeled layer by layer (a boot format, a packing, an ELF file or bare memory) until the kernel itself lies
open. What is found there is exact: the BTF is proven by parsing all of it, and where two could be meant, none is.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from btf.archive.bare_kernel import banners, btf_in, build_id_in, config_in, names_in, packed_inside
from btf.archive.unpack import PackedMalformed, UnpacksTooLarge, packing_of, unpack
from btf.elf import EM_BPF, SHT_NOBITS, SHT_NULL, Buffer, Elf, ElfMalformed
from btf.fault import EXIT_USAGE, Fault
from btf.format.architecture import architecture
from btf.format.parse import BtfMalformed, parse_btf

_MAX_LAYERS = 5
_UNIFIED = "unified"
_MAX_PE_SECTIONS = 96
# e_machine → the kernel's own word; both byte orders of one are told apart where distributions have both.
_MACHINES = {3: "i686", 22: "s390x", 40: "armv7l", 62: "x86_64", 183: "aarch64", 243: "riscv64", 258: "loongarch64"}
# (format, byte, mark, architecture) of images that say no more than what they are
_MARKS = (
    ("Image", 56, b"ARM\x64", "aarch64"),  # Documentation/arch/arm64/booting.rst
    ("Image", 56, b"RSC\x05", "riscv64"),  # Documentation/arch/riscv/boot-image-header.rst
    ("zImage", 0x24, b"\x18\x28\x6f\x01", "armv7l"),  # arch/arm/boot/compressed/head.S
    ("bzImage", 0x10008, b"S390EP", "s390x"),  # arch/s390/boot/head.S
)
_PPC64 = 21
_SHT_NOTE, _SHF_ALLOC, _GNU_BUILD_ID = 7, 2, 3


class ImageUnreadable(Fault):
    """A file that is no kernel image, or one that cannot be peeled."""

    code = "COR-BTF-030"
    exit = EXIT_USAGE
    remedy = "Give a kernel as /boot has it: vmlinuz, vmlinux, Image, Image.gz or an EFI zboot image."


@dataclass(frozen=True, slots=True)
class KernelImage:
    """What an image says of its kernel. ``btf`` is None when it has none, and ``why`` then says so in words.

    ``layers`` are the formats it was peeled from, outermost first; ``version`` is what ``uname -v`` will say;
    ``config`` is the text of its kconfig when it carries one.
    """

    layers: tuple[str, ...]
    release: str | None = None
    version: str | None = None
    arch: str | None = None
    build_id: str | None = None
    btf: bytes | None = None
    why: str = ""
    config: str | None = field(default=None, repr=False)

    @property
    def kernel_id(self) -> str | None:
        """The id that the facts of a host will have that boots it: GNU build-id, else the BTF's digest; or None."""
        arch = self.arch or "unknown"
        if self.build_id:
            return f"{self.build_id}/{arch}"
        return f"btf-{hashlib.sha256(self.btf).hexdigest()[:40]}/{arch}" if self.btf else None


@dataclass(frozen=True, slots=True)
class _Layer:
    """A format that was recognised: where the next layer lies, and what the format's header says."""

    name: str
    start: int = 0
    size: int = 0
    arch: str | None = None
    banner: str = ""


def read_kernel_image(data: Buffer) -> KernelImage:
    """Read a kernel image of any kind.

    Raise ImageUnreadable for what is none, PackedMalformed or UnpacksTooLarge for what does not unpack, ElfMalformed.
    """
    layers: list[str] = []
    arch, banner = None, ""
    for _ in range(_MAX_LAYERS):
        layer = next((found for recognise in _FORMATS if (found := recognise(data))), None)
        if layer is None:
            break
        layers.append(layer.name)
        arch, banner = arch or layer.arch, banner or layer.banner
        if not layer.size:
            break
        if layer.start + layer.size > len(data):
            raise ImageUnreadable(
                f"byte {layer.start}: cut off, the payload ends at {layer.start + layer.size}, the file at {len(data)}"
            )
        payload = memoryview(data)[layer.start : layer.start + layer.size]
        packing = packing_of(payload)
        if packing is None and bytes(payload[:4]) != b"\x7fELF" and layer.name != _UNIFIED:
            raise ImageUnreadable(f"byte {layer.start}: the payload is packed in no way we know")
        data = unpack(payload, at=layer.start) if packing else bytes(payload)
        if packing and packing != layer.name:
            layers.append(packing)
    if bytes(data[:4]) == b"\x7fELF":
        return _from_elf(data, layers, arch, banner)
    return _from_memory(data, layers, arch, banner)


def _bzimage(data: Buffer) -> _Layer | None:
    """Since boot protocol 2.08 the header says where the payload is (Documentation/arch/x86/boot.rst)."""
    if len(data) < 0x260 or data[0x202:0x206] != b"HdrS":
        return None
    version, text = struct.unpack_from("<H", data, 0x206)[0], struct.unpack_from("<H", data, 0x20E)[0]
    if version < 0x208:
        raise ImageUnreadable(f"byte 518: boot protocol 0x{version:x} does not say where the kernel is")
    offset, size = struct.unpack_from("<II", data, 0x248)
    wide = version >= 0x20C and struct.unpack_from("<H", data, 0x236)[0] & 1
    banner = bytes(data[0x200 + text : 0x200 + text + 512]).split(b"\0")[0].decode("ascii", "replace") if text else ""
    start = ((data[0x1F1] or 4) + 1) * 512 + offset
    return _Layer("bzImage", start, size or 1, "x86_64" if wide else None, banner)


def _unified(data: Buffer) -> _Layer | None:
    """A unified kernel image: a PE file with the kernel's own image in the section ``.linux`` (systemd-stub(7))."""
    if len(data) < 0x40 or data[:2] != b"MZ":
        return None
    (pe,) = struct.unpack_from("<I", data, 0x3C)
    head = bytes(data[pe : pe + 24])
    if len(head) < 24 or head[:4] != b"PE\0\0":
        return None
    count, optional = struct.unpack_from("<H", head, 6)[0], struct.unpack_from("<H", head, 20)[0]
    table = pe + 24 + optional
    for at in range(table, table + 40 * min(count, _MAX_PE_SECTIONS), 40):
        row = bytes(data[at : at + 40])
        if len(row) == 40 and row[:8] == b".linux\0\0":
            memory, _, size, start = struct.unpack_from("<IIII", row, 8)
            return _Layer(_UNIFIED, start, min(memory, size) or 1)
    return None


def _zboot(data: Buffer) -> _Layer | None:
    """EFI zboot: ``zimg``, then where the payload is (drivers/firmware/efi/libstub/zboot-header.S, since v6.1)."""
    if len(data) < 0x40 or data[:2] != b"MZ" or data[4:8] != b"zimg":
        return None
    start, size = struct.unpack_from("<II", data, 8)
    return _Layer("zboot", start, size or 1)


def _packed(data: Buffer) -> _Layer | None:
    name = packing_of(bytes(data[:16]))
    return _Layer(name, 0, len(data)) if name else None


def _marked(data: Buffer) -> _Layer | None:
    """Bare memory, or a loader with the kernel packed somewhere inside, behind a mark of its architecture."""
    found = (_Layer(name, arch=arch) for name, at, mark, arch in _MARKS if data[at : at + len(mark)] == mark)
    return next(found, None)


def _elf(data: Buffer) -> _Layer | None:
    return _Layer("ELF") if data[:4] == b"\x7fELF" else None


_FORMATS: tuple[Callable[[Buffer], _Layer | None], ...] = (
    _elf, _zboot, _unified, _bzimage, _marked, _packed,
)  # fmt: skip


def _from_elf(data: Buffer, layers: list[str], arch: str | None, banner: str) -> KernelImage:
    elf = Elf(data)
    if elf.machine == EM_BPF:
        raise ImageUnreadable("a BPF object, which is no kernel")
    btf, why = elf.bytes_of(elf.named(".BTF")) or None, ""
    if btf is None:
        why = "no .BTF section: this kernel was built without BTF, or it was stripped of it"
    else:
        parse_btf(btf)
    # Debug information lies behind what is loaded, and may be ten times as long.
    held = (s for s in elf.sections if s.flags & _SHF_ALLOC and s.type not in (SHT_NULL, SHT_NOBITS))
    end = max((s.offset + s.size for s in held), default=0)
    release, version = names_in(data, banner, end)
    if btf is None and not release and not next(banners(data, end), None):
        raise ImageUnreadable("byte 0: an ELF file that is no kernel: no `Linux version`, no BTF")
    return KernelImage(
        tuple(layers), release, version, _arch(elf) or arch, _build_id(elf), btf, why, config_in(data, end)
    )


def _from_memory(data: Buffer, layers: list[str], arch: str | None, banner: str) -> KernelImage:
    release, version = names_in(data, banner)
    found, why = btf_in(data)
    if found is None and release is None:
        inner = packed_inside(data)
        if inner is None:
            raise ImageUnreadable("byte 0: not a kernel image: no boot header, no `Linux version`, no BTF")
        return _from_memory(inner[1], [*layers, inner[0]], arch, banner)
    btf = parse_btf(found) if found is not None else None
    arch = arch or (architecture(btf) if btf else None)
    return KernelImage(tuple(layers), release, version, arch, build_id_in(data), found, why, config_in(data))


def _arch(elf: Elf) -> str | None:
    return ("ppc64" if elf.big_endian else "ppc64le") if elf.machine == _PPC64 else _MACHINES.get(elf.machine)


def _build_id(elf: Elf) -> str | None:
    """Return what /sys/kernel/notes will say."""
    sections = (s for s in elf.sections if s.type == _SHT_NOTE or s.name == ".notes")
    found = (gnu_build_id(elf.bytes_of(section), big_endian=elf.big_endian) for section in sections)
    return next((build_id for build_id in found if build_id), None)


def gnu_build_id(notes: bytes, *, big_endian: bool) -> str | None:
    """Return the content of the first note of owner GNU and type 3 in hex, or None."""
    for owner, kind, content in _notes(notes, big_endian=big_endian):
        if owner == b"GNU\0" and kind == _GNU_BUILD_ID and 4 <= len(content) <= 64:
            return content.hex()
    return None


def _notes(data: bytes, *, big_endian: bool) -> Iterator[tuple[bytes, int, bytes]]:
    """Yield (owner, type, content) of each note in *data*, as far as they are whole."""
    at = 0
    while at + 12 <= len(data):
        owner, size, kind = struct.unpack_from(">III" if big_endian else "<III", data, at)
        start = at + 12 + (owner + 3 & ~3)
        if start + size > len(data):
            return
        yield data[at + 12 : at + 12 + owner], kind, data[start : start + size]
        at = start + size + 3 & ~3


__all__ = ["BtfMalformed", "Buffer", "ElfMalformed", "ImageUnreadable", "KernelImage", "PackedMalformed",
           "UnpacksTooLarge", "gnu_build_id", "read_kernel_image"]  # fmt: skip
