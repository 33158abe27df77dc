"""The files that hold a kernel's BTF: raw, inside an ELF file, inside a BTF archive's ``.btf.tar.xz``, or an image.

Nothing is ever unpacked onto the disk, so no name inside an archive can lead anywhere.
"""

from __future__ import annotations

import hashlib
import mmap
import re
from pathlib import Path
from urllib.parse import unquote

from btf.archive.kernel_image import KernelImage, read_kernel_image
from btf.archive.unpack import MAX_UNPACKED, PackedMalformed, UnpacksTooLarge, unpack
from btf.elf import Buffer, Elf, ElfMalformed
from btf.fault import EXIT_USAGE, Fault
from btf.format.parse import MAX_BTF

_BLOCK = 512
_MAX_MEMBERS = 256
_REGULAR = (b"0", b"\0")
_TAR_MAGIC = b"ustar"
MAX_FILE = 256 * 1024 * 1024  # bytes; a vmlinux without debug information has 30 to 100 MB
_MAX_TAR = MAX_BTF + (1 << 20)


class BtfUnreadable(Fault):
    """A file that should hold BTF cannot be read."""

    code = "COR-BTF-023"
    exit = EXIT_USAGE
    remedy = "Give raw BTF, an ELF file with a .BTF section, or an archive's .btf.tar.xz."


class WithoutBtf(Fault):
    """A kernel or a module that is whole and has no BTF: an answer, not a mistake."""

    code = "COR-BTF-029"
    exit = EXIT_USAGE
    remedy = "Bring BTF of exactly this build from elsewhere, or a build of it that has some."


def read_btf_file(path: Path, *, limit: int = MAX_FILE) -> bytes:
    """Return the BTF in *path*: raw, the ``.BTF`` section of an ELF file, or a BTF archive's ``.btf.tar.xz``.

    Raise BtfUnreadable, also for more than *limit* bytes, packed or unpacked. What comes back is not parsed yet.
    """
    data = read_bounded(path, limit=limit)
    if data[:6] == b"\xfd7zXZ\0":
        return _from_tar(path, data, min(limit, _MAX_TAR))
    if data[:4] == b"\x7fELF":
        return _from_elf(path, data)
    return data


def read_bounded(path: Path, *, limit: int = MAX_FILE) -> bytes:
    """Return the bytes of *path*; raise BtfUnreadable for more than *limit* or for what cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise BtfUnreadable(f"{path}: {error.strerror}") from None
    if len(data) > limit:
        raise BtfUnreadable(f"{path}: larger than {limit} bytes")
    return data


def file_digest(path: Path) -> str:
    """Return the SHA-256 of the bytes of *path*; raise BtfUnreadable."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BtfUnreadable(f"{path}: {error.strerror}") from None


def read_image_file(path: Path) -> KernelImage:
    """Read the kernel image *path*; raise what :func:`read_kernel_image` raises, or BtfUnreadable."""
    try:
        with path.open("rb") as file:
            data: Buffer = file.read(MAX_UNPACKED + 1)
            if len(data) > MAX_UNPACKED:  # a vmlinux with debug information: only its few sections are looked at
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise BtfUnreadable(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    return read_kernel_image(data)


def _from_tar(path: Path, data: bytes, limit: int) -> bytes:
    """Return the only ``.btf`` of a packed tar. Links, devices and whatever else a tar may hold are passed over."""
    try:
        tar = unpack(data, limit=limit)
    except (PackedMalformed, UnpacksTooLarge) as error:
        raise BtfUnreadable(f"{path}: not a whole .tar.xz: {error.message}") from None
    found = None
    at, members = 0, 0
    while at + _BLOCK <= len(tar) and any(tar[at : at + _BLOCK]):
        head = bytes(tar[at : at + _BLOCK])
        size, start = _tar_size(head), at + _BLOCK
        members += 1
        if size is None or head[257:262] != _TAR_MAGIC or start + size > len(tar) or members > _MAX_MEMBERS:
            raise BtfUnreadable(f"{path}: not a whole .tar.xz: no usable member at byte {at} of the tar")
        if head[156:157] in _REGULAR and head[:100].rstrip(b"\0").endswith(b".btf"):
            if found is not None:
                raise BtfUnreadable(f"{path}: two .btf inside; which one is meant cannot be told")
            found = start, size
        at = start + (size + _BLOCK - 1) // _BLOCK * _BLOCK
    if found is None:
        raise BtfUnreadable(f"{path}: no .btf inside")
    return bytes(tar[found[0] : sum(found)])


def _tar_size(head: bytes) -> int | None:
    """Return the size of a member, or None when its header does not add up."""
    try:
        total = int(head[148:156].rstrip(b"\0 ") or b"0", 8)
        size = int(head[124:136].rstrip(b"\0 ") or b"0", 8)
    except ValueError:
        return None
    return size if size >= 0 and sum(head[:148]) + 8 * 32 + sum(head[156:]) == total else None


def _from_elf(path: Path, data: bytes) -> bytes:
    try:
        elf = Elf(data)
    except ElfMalformed as error:
        raise BtfUnreadable(f"{path}: a broken ELF file: {error.message}") from None
    found = elf.bytes_of(elf.named(".BTF"))
    if not found:
        raise BtfUnreadable(f"{path}: no whole .BTF section; the kernel's debug build has one")
    return found


def release_of_file(path: Path) -> str | None:
    """Return the kernel release that a BTF archive's file name says, or None: ``5.4.0-92-generic.btf.tar.xz``."""
    name = path.name
    for suffix in (".btf.tar.xz", ".btf"):
        if name.endswith(suffix) and re.match(r"\d+\.\d+", name):
            return unquote(name.removesuffix(suffix))
    return None
