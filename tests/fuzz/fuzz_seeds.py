"""Small valid inputs to start from: BTF by our own writer, objects by clang, archives by tarfile."""

from __future__ import annotations

import io
import lzma
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import kernel_images as images
import kernel_modules as modules

from btf.elf import Elf
from btf.format.encode import encode_btf
from btf.format.kinds import (
    Array,
    BtfType,
    Const,
    Datasec,
    DeclTag,
    Enum,
    Enum64,
    Float,
    Func,
    FuncProto,
    Fwd,
    Int,
    Member,
    Ptr,
    Restrict,
    Struct,
    Typedef,
    TypeTag,
    Union,
    Var,
    Volatile,
)
from btf.objects.extension import RelocationKind

SOURCES = Path(__file__).parents[1] / "btf" / "objects"

# One object that has a little of everything, small enough for thousands of runs a second.
SMALL = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#define CORE __attribute__((preserve_access_index))
enum state { RUNNING, DEAD };
struct task { int pid; struct task *parent; char comm[16]; unsigned bits : 3; union { int low; long high; };
              enum state state; int tail[]; } CORE;
struct gone { int x; } CORE;
struct task___old { long pid; } CORE;
extern int LINUX_KERNEL_VERSION __kconfig;
extern void release(struct task *t) __ksym __weak;
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 8); __type(key, int); __type(value, struct { long a; });
} seen SEC(".maps");
const volatile int limit = 3;
static __attribute__((noinline)) int depth(struct task *t) { return BPF_CORE_READ(t, parent, pid); }
SEC("raw_tp/sched_switch") int one(struct task **c) {
    struct task *t = *c; struct gone *g = (void *)t; struct task___old *o = (void *)t; long n = depth(t), *v;
    if (bpf_core_field_exists(g->x)) n += BPF_CORE_READ(g, x);
    n += BPF_CORE_READ(o, pid) + BPF_CORE_READ(t, high) + bpf_core_field_size(t->comm);
    n += BPF_CORE_READ_BITFIELD_PROBED(t, bits) + bpf_core_enum_value(enum state, DEAD);
    n += bpf_core_type_exists(struct gone) + bpf_core_type_size(struct task) + bpf_core_type_exists(struct task);
    int key = limit + LINUX_KERNEL_VERSION; if ((v = bpf_map_lookup_elem(&seen, &key))) *v = n;
    return 0; }
SEC("?fentry/do_exit") int two(unsigned long long *c) { struct task *t = (void *)c[0]; if (release) release(t);
    return 0; }
char _license[] SEC("license") = "GPL";
"""


def all_kinds() -> list[BtfType]:
    """One type of every kind, referring to each other."""
    return [
        Int(1, "int", 4, 1, 0, 32),
        Ptr(2, "", 4),
        Array(3, "", 1, 1, 16),
        Struct(
            4, "task", 64, (Member("pid", 1, 0), Member("comm", 3, 32), Member("parent", 2, 192), Member("", 5, 256))
        ),
        Union(5, "", 8, (Member("low", 1, 0), Member("state", 6, 0), Member("high", 16, 0))),
        Enum(6, "state", 4, False, (("RUNNING", 0), ("DEAD", 1))),
        Fwd(7, "later", False),
        Typedef(8, "pid_t", 9),
        Volatile(9, "", 10),
        Const(10, "", 1),
        Restrict(11, "", 2),
        Func(12, "do_exit", 13, 1),
        FuncProto(13, "", 1, (("task", 2), ("", 8), ("", 0))),
        Var(14, "jiffies", 16, 1),
        Datasec(15, ".data", 8, ((14, 0, 8),)),
        Int(16, "long", 8, 1, 0, 64),
        Float(17, "double", 8),
        DeclTag(18, "tag", 4, 1),
        TypeTag(19, "user", 1),
        Enum64(20, "wide", 8, True, (("A", -1), ("B", 1 << 40))),
        Struct(21, "task___old", 8, (Member("pid", 16, 0),)),
        Struct(22, "bits", 4, (Member("a", 1, 0, 3), Member("b", 1, 3, 5)), True),
        Struct(23, "pt_regs", 16, (Member("r15", 16, 0), Member("cs", 16, 64))),
    ]  # fmt: skip


def with_layout(data: bytes) -> bytes:
    """Return *data* (little-endian, 24-byte header) with a 32-byte header and a layout section."""
    rows = b"".join(struct.pack("<BBH", 4, 8, 0) for _ in range(26))
    body = data[24:]
    header = struct.pack("<HBBI", 0xEB9F, 1, 0, 32) + data[8:24] + struct.pack("<II", len(body), len(rows))
    return header + body + rows


@cache
def compiled(source: str, *, target: str = "bpf", debug: bool = True) -> bytes:
    """Return what clang makes of *source* (a file of ``tests/btf/objects``, or text), without debug information."""
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "seed.bpf.c", Path(folder) / "seed.o"
        path.write_text(source if "\n" in source else (SOURCES / source).read_text())
        command = ["clang", "-target", target, "-mcpu=v2", "-O2", "-I/usr/include/x86_64-linux-gnu", f"-I{SOURCES}"]
        subprocess.run([*command, *["-g"] * debug, "-w", "-c", path, "-o", out], check=True, capture_output=True)
        subprocess.run(["llvm-strip", "-g", out], check=True, capture_output=True)
        return out.read_bytes()


def section(data: bytes, name: str) -> bytes:
    elf = Elf(data)
    return elf.bytes_of(elf.named(name))


def with_section(data: bytes, name: str, content: bytes) -> bytes:
    """Return the little-endian 64-bit ELF file *data* with other bytes in the section called *name*, at its end."""
    elf = Elf(data)
    found = elf.named(name)
    if found is None:
        return data
    changed = bytearray(data)
    (table,) = struct.unpack_from("<Q", data, 0x28)
    struct.pack_into("<QQ", changed, table + 64 * found.number + 24, len(data), len(content))
    return bytes(changed) + content


@cache
def small_object() -> bytes:
    """The object of SMALL; one question whether a type exists asks whether it matches, which old compilers cannot."""
    data = compiled(SMALL)
    rows = bytearray(section(data, ".BTF.ext"))
    header, start, length = (struct.unpack_from("<I", rows, at)[0] for at in (4, 24, 28))
    at, end, last = header + start + 4, header + start + length, 0
    while at < end:
        _, count = struct.unpack_from("<II", rows, at)
        kinds = range(at + 8 + 12, at + 8 + 16 * count, 16)
        last = max((k for k in kinds if rows[k] == RelocationKind.TYPE_EXISTS), default=last)
        at += 8 + 16 * count
    rows[last] = RelocationKind.TYPE_MATCHES
    return with_section(data, ".BTF.ext", bytes(rows))


def btf_seeds() -> Sequence[bytes]:
    whole = encode_btf(all_kinds())
    return (
        whole,
        encode_btf(all_kinds(), big_endian=True),
        with_layout(whole),
        section(small_object(), ".BTF"),
        section(compiled("kernel_a.c"), ".BTF"),
        section(compiled("kernel_b.c", target="bpfeb"), ".BTF"),
    )


def object_seeds() -> Sequence[bytes]:
    return small_object(), compiled(SMALL, target="bpfeb"), compiled("tracing.bpf.c"), compiled("relocations.bpf.c")


def split_seeds() -> Sequence[bytes]:
    """BTF of modules on :func:`all_kinds`: their types and strings count on from those."""
    base = all_kinds()
    whole = encode_btf(
        [*base, Typedef(24, "mod_t", 4), Struct(25, "mod", 8, (Member("t", 24, 0), Member("pid", 1, 64)))]
    )
    bare = encode_btf(base)
    types, strings = (struct.unpack_from("<I", bare, at)[0] for at in (12, 20))
    all_types, all_strings = (struct.unpack_from("<I", whole, at)[0] for at in (12, 20))
    own_types = whole[24 + types : 24 + all_types]
    own_strings = whole[24 + all_types + strings : 24 + all_types + all_strings]
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(own_types), len(own_types), len(own_strings))
    return (header + own_types + own_strings,)


def tar_of(members: dict[str, bytes], mode: str = "w:xz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]  # a mode as text
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def file_seeds() -> Sequence[bytes]:
    whole = encode_btf(all_kinds())
    return whole, compiled("kernel_a.c"), tar_of({"5.4.0-1.btf": whole}), tar_of({"README": b"x", "a/5.4.btf": whole})


def _kernels_btf(*, big_endian: bool = False) -> bytes:
    """A BTF that passes for a kernel's: it has list_head, and a task_struct of many members."""
    many = tuple(Member(f"m{n}", 1, 32 * n) for n in range(51))
    types = [Int(1, "int", 4, 1, 0, 32), Struct(2, "list_head", 16, ()), Struct(3, "task_struct", 204, many)]
    return encode_btf(types, big_endian=big_endian)


def image_seeds() -> Sequence[bytes]:
    whole, bare = images.vmlinux(_kernels_btf()), images.bare(_kernels_btf())
    return (
        whole,
        bare,
        images.arm64(images.bare(_kernels_btf())),
        images.bzimage(images.pack(whole, "gzip")),
        images.zboot(images.pack(images.arm64(bare), "zstd"), b"zstd"),
        images.s390x(images.pack(images.bare(_kernels_btf(big_endian=True), order=">"), "xz")),
        images.vmlinux(None),
        images.unified(images.bzimage(images.pack(whole, "gzip"))),
        images.zimage(images.pack(bare, "gzip")),
    )


def module_seeds() -> Sequence[bytes]:
    """Modules of the kernel with every kind, packed and not."""
    (split,) = split_seeds()
    whole = modules.module(split)
    return whole, lzma.compress(whole, preset=0), split


def packed_seeds() -> Sequence[bytes]:
    return [images.pack(b"a kernel, " * 100 + bytes(range(256)) * 4, how) for how in images.PACKERS]
