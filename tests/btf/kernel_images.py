"""Kernel images made by hand around a BTF, packed by the tools that kernels are packed with."""

from __future__ import annotations

import struct
import subprocess

BUILD_ID = bytes(range(20))
RELEASE, VERSION = "6.9.1-test", "#7 SMP Wed Nov 25 10:00:00 UTC 2026"
BANNER = f"Linux version {RELEASE} (a@b) (gcc (GCC) 14, GNU ld (x) 2.42) {VERSION}\n\0".encode()
WEAK_BANNER = f"Linux version {RELEASE} (a@b) (gcc (GCC) 14, GNU ld (x) 2.42) # SMP Wed\n\0".encode()

PACKERS = {
    "gzip": ["gzip", "-n", "-c"],
    "xz": ["xz", "--check=crc32", "--x86", "--lzma2=dict=8MiB", "-c"],
    "zstd": ["zstd", "-q", "-c"],
    "lz4": ["lz4", "-q", "-l", "-c"],
    "bzip2": ["bzip2", "-c"],
    "lzop": ["lzop", "-c"],
    "lzma": ["xz", "--format=lzma", "-c"],
}


def pack(data: bytes, how: str) -> bytes:
    """Pack as the kernel's build does: all but gzip get the size behind."""
    packed = subprocess.run(PACKERS[how], input=data, stdout=subprocess.PIPE, check=True).stdout
    return packed if how == "gzip" else packed + struct.pack("<I", len(data))


def note(owner: bytes, kind: int, content: bytes, *, order: str = "<") -> bytes:
    return struct.pack(f"{order}III", len(owner), len(content), kind) + owner + content + b"\0" * (-len(content) % 4)


def build_id_note(build_id: bytes = BUILD_ID, *, order: str = "<") -> bytes:
    return note(b"GNU\0", 3, build_id, order=order)


def elf(sections: dict[str, bytes], *, machine: int = 62, order: str = "<", wide: bool = True) -> bytes:
    """An ELF file with these sections; those called ``.note…`` are notes."""
    names = b"\0" + b"".join(n.encode() + b"\0" for n in (*sections, ".shstrtab"))
    head, entry = (64, 64) if wide else (52, 40)
    rows, body = [(0, 0, 0, 0)], b""
    for name, data in (*sections.items(), (".shstrtab", names)):
        kind = 7 if name.startswith(".note") else 3 if name == ".shstrtab" else 1
        rows.append((names.index(b"\0" + name.encode() + b"\0") + 1, kind, head + len(body), len(data)))
        body += data + b"\0" * (-len(data) % 8)
    table = head + len(body)
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    word = "Q" if wide else "I"
    fields = (2, machine, 1, 0, 0, table, 0, head, 0, 0, entry, len(rows), len(rows) - 1)
    out = ident + struct.pack(f"{order}HHI{word * 3}IHHHHHH", *fields) + body
    for name, kind, start, size in rows:
        out += struct.pack(f"{order}II{word * 4}II{word * 2}", name, kind, 2, 0, start, size, 0, 0, 1, 0)
    return out


def vmlinux(btf: bytes | None, **options) -> bytes:
    """A kernel as ELF: banner (also the weak one, which says no number), notes as Linux has them, BTF."""
    order = options.get("order", "<")
    found = note(b"Linux\0\0\0", 256, b"salt", order=order) + build_id_note(order=order)
    sections = {".rodata": WEAK_BANNER + BANNER, ".notes": found}
    return elf({**sections, **({".BTF": btf} if btf is not None else {})}, **options)


def bare(btf: bytes | None, *, order: str = "<") -> bytes:
    """A kernel as memory: a vDSO with a build-id of its own lies before the kernel's notes."""
    vdso = elf({".note.gnu.build-id": build_id_note(b"v" * 20, order=order), ".text": b"\x90" * 64}, order=order)
    # What only looks like BTF: the magic number by chance, and a header without anything behind.
    noise = (b"\x9f\xeb\x01\0" if order == "<" else b"\xeb\x9f\x01\0") + b"\x18\0\0\0" * 5
    return (
        bytes(64) + vdso + noise + WEAK_BANNER + BANNER + build_id_note(order=order) + bytes(12) + (btf or b"") + noise
    )


def bzimage(payload: bytes, *, banner: str = f"{RELEASE} (a@b) {VERSION}", protocol: int = 0x20F) -> bytes:
    head = bytearray(2 * 512)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x206, protocol)
    struct.pack_into("<H", head, 0x20E, 0x100)
    struct.pack_into("<H", head, 0x236, 1)
    struct.pack_into("<II", head, 0x248, 100, len(payload))
    head[0x300 : 0x300 + len(banner) + 1] = banner.encode() + b"\0"
    return bytes(head) + b"\xcc" * 100 + payload + b"the rest of the loader"


def zboot(payload: bytes, how: bytes = b"gzip") -> bytes:
    head = b"MZ\0\0zimg" + struct.pack("<II", 128, len(payload)) + bytes(8) + how
    return head.ljust(128, b"\0") + payload + b"the rest of the loader"


def arm64(kernel: bytes, mark: bytes = b"ARM\x64") -> bytes:
    return bytes(56) + mark + kernel[60:]


def zimage(payload: bytes) -> bytes:
    return bytes(0x24) + b"\x18\x28\x6f\x01" + bytes(900) + payload + bytes(100)


def s390x(payload: bytes) -> bytes:
    return bytes(0x10008) + b"S390EP" + b"\xfd7zXZ\0 is a word here" + payload + bytes(100)


def unified(image: bytes) -> bytes:
    """A PE file with a command line and a kernel's image in sections."""
    head = bytearray(b"MZ".ljust(0x80, b"\0") + b"PE\0\0" + bytes(20) + bytes(16))
    struct.pack_into("<I", head, 0x3C, 0x80)
    struct.pack_into("<H", head, 0x86, 2)
    struct.pack_into("<H", head, 0x94, 16)
    padded = image + bytes(-len(image) % 512)
    for name, memory, size, start in ((b".cmdline", 5, 512, 512), (b".linux", len(image), len(padded), 1024)):
        head += name.ljust(8, b"\0") + struct.pack("<IIII", memory, 0, size, start) + bytes(16)
    return bytes(head).ljust(512, b"\0") + b"quiet".ljust(512, b"\0") + padded
