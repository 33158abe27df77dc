"""Kernel images of every kind: the BTF that comes out is the one that went in, and hostile images only refuse."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import struct
import subprocess
import sys

import kernel_images as make
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from btf.archive.kernel_image import ElfMalformed, ImageUnreadable, PackedMalformed, UnpacksTooLarge, read_kernel_image
from btf.archive.unpack import packing_of, unpack
from btf.fault import Fault
from btf.format.parse import BtfMalformed

MEMBERS = "".join(f"  struct list_head *m{i};\n" for i in range(60))
KERNEL = f"""
struct list_head {{ struct list_head *next, *prev; }};
struct task_struct {{ struct list_head tasks;
{MEMBERS}}};
struct task_struct a_task;
"""
OTHER = KERNEL.replace("m59;", "m59_renamed;")


@pytest.fixture(scope="module")
def kernel_btf(btf_bytes) -> bytes:
    return btf_bytes("kernel.c", text=KERNEL)


@pytest.fixture(scope="module")
def big_btf(btf_bytes) -> bytes:
    return btf_bytes("kernel.c", text=KERNEL, big=True)


def told(image) -> tuple:
    return image.release, image.version, image.build_id, image.why


WHOLE = (make.RELEASE, make.VERSION, make.BUILD_ID.hex(), "")


@pytest.mark.parametrize("how", make.PACKERS)
def test_a_bzimage_gives_what_was_packed(how, kernel_btf) -> None:
    image = read_kernel_image(make.bzimage(make.pack(make.vmlinux(kernel_btf), how)))
    assert image.btf == kernel_btf and told(image) == WHOLE
    assert image.layers == ("bzImage", how, "ELF") and image.arch == "x86_64"


@pytest.mark.parametrize("how", make.PACKERS)
def test_packed_memory_gives_its_btf_and_its_own_build_id(how, kernel_btf) -> None:
    for image in (
        read_kernel_image(make.zboot(make.pack(make.arm64(make.bare(kernel_btf)), how))),
        read_kernel_image(make.pack(make.arm64(make.bare(kernel_btf)), how)),
        read_kernel_image(make.arm64(make.bare(kernel_btf))),
    ):
        assert image.btf == kernel_btf and told(image) == WHOLE and image.arch == "aarch64"


@pytest.mark.parametrize("how", ["gzip", "xz", "zstd", "lz4", "bzip2", "lzop"])
def test_big_endian_memory_packed_somewhere_inside(how, big_btf) -> None:
    image = read_kernel_image(make.s390x(make.pack(make.bare(big_btf, order=">"), how)))
    assert image.btf == big_btf and told(image) == WHOLE
    assert image.layers == ("bzImage", how) and image.arch == "s390x"


def test_marks_tell_the_architecture(kernel_btf) -> None:
    riscv = read_kernel_image(make.arm64(make.bare(kernel_btf), b"RSC\x05"))
    assert (riscv.layers, riscv.arch, riscv.btf) == (("Image",), "riscv64", kernel_btf)
    arm = read_kernel_image(make.zimage(make.pack(make.bare(kernel_btf), "lzop")))
    assert (arm.layers, arm.arch, arm.btf) == (("zImage", "lzop"), "armv7l", kernel_btf) and told(arm) == WHOLE


def test_a_unified_image_has_the_kernels_own_inside(kernel_btf) -> None:
    packed = make.pack(make.vmlinux(kernel_btf), "zstd")
    for inside, layers in (
        (make.bzimage(packed), ("unified", "bzImage", "zstd", "ELF")),
        (make.zboot(make.pack(make.arm64(make.bare(kernel_btf)), "gzip")), ("unified", "zboot", "gzip", "Image")),
        (make.arm64(make.bare(kernel_btf)), ("unified", "Image")),
    ):
        image = read_kernel_image(make.unified(inside))
        assert image.layers == layers and image.btf == kernel_btf and told(image) == WHOLE
    with pytest.raises(ImageUnreadable, match="byte 1024: cut off"):
        read_kernel_image(make.unified(make.bzimage(packed))[:-600])


def test_a_kernel_with_its_debug_information_is_not_copied(kernel_btf, tmp_path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(make.vmlinux(kernel_btf))
    with path.open("r+b") as file:
        file.truncate(900 << 20)  # a hole takes no room
    script = (
        "import resource, sys; from pathlib import Path; from btf.archive.btf_file import read_image_file\n"
        "image = read_image_file(Path(sys.argv[1]))\n"
        "print(image.release, len(image.btf), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    release, size, peak = done.stdout.split()
    assert (release, int(size)) == (make.RELEASE, len(kernel_btf)) and int(peak) < 500


@pytest.mark.parametrize(
    ("machine", "order", "wide", "arch"),
    [(62, "<", True, "x86_64"), (3, "<", False, "i686"), (22, ">", True, "s390x"), (21, "<", True, "ppc64le"),
     (243, "<", True, "riscv64"), (9999, "<", True, None)],
)  # fmt: skip
def test_vmlinux_of_any_machine(machine, order, wide, arch, kernel_btf, big_btf) -> None:
    btf = kernel_btf if order == "<" else big_btf
    image = read_kernel_image(make.vmlinux(btf, machine=machine, order=order, wide=wide))
    assert image.btf == btf and told(image) == WHOLE and image.arch == arch and image.layers == ("ELF",)


def test_a_kernel_without_btf_says_so_and_is_still_named(kernel_btf) -> None:
    for made, words in ((make.vmlinux(None), "no .BTF section"), (make.arm64(make.bare(None)), "built without")):
        image = read_kernel_image(made)
        assert image.btf is None and words in image.why
        assert (image.release, image.build_id) == (make.RELEASE, make.BUILD_ID.hex())


def test_two_btf_of_kernels_are_none_and_a_programs_btf_is_not_one(kernel_btf, btf_bytes) -> None:
    other = btf_bytes("other.c", text=OTHER)
    image = read_kernel_image(make.arm64(make.bare(kernel_btf + bytes(3) + other)))
    assert image.btf is None and "2 different BTF" in image.why
    # The same twice is one, and what an embedded BPF object brings along is not the kernel's.
    program = btf_bytes("program.c", text=KERNEL.replace(MEMBERS, ""))
    for beside in (kernel_btf, program):
        assert read_kernel_image(make.arm64(make.bare(beside + b"\1" + kernel_btf))).btf == kernel_btf


def test_two_build_ids_in_memory_are_none(kernel_btf) -> None:
    image = read_kernel_image(make.arm64(make.bare(kernel_btf) + make.build_id_note(b"x" * 20)))
    assert image.btf == kernel_btf and image.build_id is None


def test_two_releases_are_none_unless_the_header_says_one(kernel_btf) -> None:
    another = make.BANNER.replace(make.RELEASE.encode(), b"6.9.2-other")
    assert read_kernel_image(make.arm64(make.bare(kernel_btf) + another)).release is None
    payload = make.pack(make.elf({".rodata": make.BANNER + another, ".BTF": kernel_btf}), "gzip")
    assert read_kernel_image(make.bzimage(payload)).release == make.RELEASE
    assert read_kernel_image(make.bzimage(payload, banner="")).release is None


def test_a_carried_kconfig_comes_out(kernel_btf) -> None:
    text = "# Linux/x86\nCONFIG_BPF_SYSCALL=y\n# CONFIG_BPF_LSM is not set\n"
    kernel = make.bare(kernel_btf) + b"IKCFG_ST" + gzip.compress(text.encode()) + b"IKCFG_ED"
    assert read_kernel_image(make.arm64(kernel)).config == text
    assert read_kernel_image(make.arm64(make.bare(kernel_btf))).config is None


@pytest.mark.parametrize(
    ("data", "fault", "words"),
    [
        (b"", ImageUnreadable, "not a kernel image"),
        (b"#!/bin/sh\n" * 1000, ImageUnreadable, "not a kernel image"),
        (make.bzimage(b"\0" * 100), ImageUnreadable, "byte 1124: the payload is packed in no way"),
        (make.bzimage(gzip.compress(b"x" * 99))[:1130], ImageUnreadable, "byte 1124: cut off"),
        (make.bzimage(gzip.compress(b"x" * 99), protocol=0x207), ImageUnreadable, "byte 518"),
        (make.zboot(b"not packed"), ImageUnreadable, "byte 128"),
        (b"\x7fELF" + bytes(70), ElfMalformed, "byte 4"),
        (make.elf({".text": b"a program"}), ImageUnreadable, "no kernel"),
        (make.vmlinux(None)[:-70], ElfMalformed, "table of sections ends at byte"),
    ],
)
def test_what_is_no_image_is_refused_with_its_place(data, fault, words) -> None:
    with pytest.raises(fault, match=words):
        read_kernel_image(data)


def test_broken_btf_in_a_section_is_refused(kernel_btf) -> None:
    with pytest.raises(BtfMalformed):
        read_kernel_image(make.vmlinux(kernel_btf[:-9]))
    # In memory a broken one is no match, and the answer says why.
    broken = bytearray(kernel_btf)
    broken[struct.unpack_from("<I", broken, 4)[0] + 4 + 3] = 0x7F
    image = read_kernel_image(make.arm64(make.bare(bytes(broken))))
    assert image.btf is None and "what looks like it at byte" in image.why


def test_a_section_that_is_none_may_claim_anything(kernel_btf) -> None:
    whole = bytearray(make.vmlinux(kernel_btf))
    table, row = struct.unpack_from("<Q", whole, 40)[0], "<IIQQQQ"
    struct.pack_into(row, whole, table, 0, 0, 2, 0, 1 << 63, 1 << 63)
    image = read_kernel_image(bytes(whole))
    assert image.btf == kernel_btf and told(image) == WHOLE


@pytest.mark.parametrize("how", make.PACKERS)
def test_a_stream_unpacks_whole_or_refuses(how) -> None:
    data = random.Random(how).randbytes(300_000) + bytes(300_000)
    packed = make.pack(data, how)
    assert packing_of(packed) == how and unpack(packed) == data
    assert unpack(packed + b"whatever follows" * 9) == data
    for length in (len(packed) // 2, len(packed) - 12, 20, 12):
        with pytest.raises(PackedMalformed, match="byte 77: not whole"):
            unpack(packed[:length], at=77)
    with pytest.raises(UnpacksTooLarge, match="more than 400000"):
        unpack(packed, limit=400_000)


def test_several_lz4_blocks_and_frames_are_one_stream() -> None:
    data = random.Random(1).randbytes(1 << 20) * 20  # two whole blocks of 8 MB and one of 4 MB
    assert unpack(make.pack(data, "lz4")) == data
    packed = make.pack(data, "lz4")[:-4]
    assert unpack(packed + packed) == data + data


def test_a_changed_lzop_block_is_found_by_its_check_sum() -> None:
    packed = bytearray(make.pack(random.Random(2).randbytes(1000), "lzop"))
    packed[500] ^= 1
    with pytest.raises(PackedMalformed, match="check sum"):
        unpack(packed)


BOMB = """
import resource, subprocess, sys
from btf.fault import Fault
from btf.archive.kernel_image import read_kernel_image
sys.path.insert(0, sys.argv[1])
import kernel_images as make
for how in make.PACKERS:
    zeros = subprocess.Popen(["head", "-c", "260M", "/dev/zero"], stdout=subprocess.PIPE)
    packed = subprocess.run([*make.PACKERS[how], "-1"], stdin=zeros.stdout, stdout=subprocess.PIPE).stdout
    try:
        read_kernel_image(make.bzimage(packed))
    except Fault as fault:
        print(how, fault.code)
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_bombs_end_at_the_limit_within_memory() -> None:
    here = str(make.__file__).rpartition("/")[0]
    done = subprocess.run([sys.executable, "-c", BOMB, here], capture_output=True, text=True, check=True)
    *refused, peak = done.stdout.splitlines()
    assert refused == [f"{how} COR-BTF-032" for how in make.PACKERS]
    assert int(peak.split()[1]) < 500


SMALL = {how: make.pack(make.vmlinux(None) + bytes(2000), how) for how in make.PACKERS}
IMAGES = [make.unified(make.bzimage(SMALL["zstd"])),
          make.bzimage(SMALL["gzip"]), make.zboot(SMALL["xz"]), make.arm64(make.bare(None)), make.vmlinux(None),
          make.s390x(SMALL["lz4"]), *SMALL.values()]  # fmt: skip


@settings(max_examples=1500, deadline=None)
@given(st.sampled_from(IMAGES), st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), max_size=6),
       st.floats(0, 1))  # fmt: skip
@example(make.bzimage(lzma.compress(b"x")), [], 1.0)
@example(make.zboot(bz2.compress(b"")), [], 1.0)
def test_mutated_images_are_read_or_refused(image, changes, keep) -> None:
    data = bytearray(image)
    for place, new in changes:
        at = int(place * (len(data) - 1))
        data[at : at + len(new)] = new
    try:
        found = read_kernel_image(bytes(data[: int(len(data) * max(keep, 0.05))]))
    except Fault as fault:
        assert fault.code.startswith("COR-BTF-") and fault.message
    else:
        assert found.btf is None and found.why
