"""libbpf is the judge: every relocation of every object on every kernel's BTF at hand, outcome and value."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path
from random import Random

import pytest
from invent import borrow, invent, invent_modules
from judge import BPFTOOL, INVENTED, REAL, REWRITTEN, TORTURE, compare
from judged import CACHE, KERNELS, own_objects, tools_objects
from libbpf_truth import Truth, ask_libbpf_of, write_btf
from rules import HEAD, MATCHES, RULES
from torture import slug, torture_objects

from btf.archive.module import parse_module, read_module
from btf.core.minimise import minimise
from btf.core.relocate import relocate
from btf.format.encode import encode_btf
from btf.format.kinds import Float, Unknown
from btf.format.parse import parse_btf
from btf.objects.elf_object import read_object
from fleet.lab.kernels import fetch


@pytest.fixture(scope="session")
def real_objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = tools_objects(tmp_path_factory.mktemp("tools")) | own_objects()
    assert len(found) > 50
    return found


@pytest.fixture(scope="session")
def torture(compile_bpf, tmp_path_factory) -> dict[str, Path]:
    """Objects that hit the rules, each in its direction; two of them in every instruction set."""
    folder = tmp_path_factory.mktemp("torture")
    found = {}
    for number, (name, data) in enumerate(torture_objects(compile_bpf).items()):
        found[name] = folder / f"{number}.bpf.o"
        found[name].write_bytes(data)
    return found


TINY = {name: row[0] for name, row in (RULES | MATCHES).items()}


@pytest.mark.parametrize("big", [False, True], ids=["little-endian", "big-endian"])
@pytest.mark.parametrize("first", range(0, len(TINY), 10))
def test_torture_objects_on_the_kernels_of_all_rules(torture, btf_bytes, tmp_path, first, big) -> None:
    for name in list(TINY)[first : first + 10]:
        text = f"typedef unsigned long long u64; {TINY[name]}"
        data = btf_bytes(f"{slug(name)}.kernel.c", text=text, big=big)
        kernel = f"kernel of {name}{' (big-endian)' if big else ''}"
        assert compare(torture, kernel, write_btf(tmp_path / "kernel.btf", data), parse_btf(data), TORTURE) == []


@pytest.mark.parametrize("big", [False, True], ids=["little-endian", "big-endian"])
@pytest.mark.parametrize("source", ["kernel_a.c", "kernel_b.c"])
def test_torture_objects_on_kernels_in_miniature(torture, btf_bytes, tmp_path, source, big) -> None:
    data = btf_bytes(source, big=big)
    kernel = f"{source}{' (big-endian)' if big else ''}"
    assert compare(torture, kernel, write_btf(tmp_path / "kernel.btf", data), parse_btf(data), TORTURE) == []


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda name: name.replace(" ", "-"))
def test_torture_objects_on_real_kernels(torture, tmp_path, kernel) -> None:
    data = KERNELS[kernel]()
    assert compare(torture, kernel, write_btf(tmp_path / "kernel.btf", data), parse_btf(data), TORTURE) == []


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda name: name.replace(" ", "-"))
def test_real_objects_on_real_kernels(real_objects, tmp_path, kernel) -> None:
    data = KERNELS[kernel]()
    assert compare(real_objects, kernel, write_btf(tmp_path / "kernel.btf", data), parse_btf(data), REAL) == []


@pytest.mark.parametrize("kernel", ["running", "kylin 4.19 aarch64", "debian sid amd64", "debian sid s390x"])
def test_minimised_for_real_objects(real_objects, tmp_path, kernel) -> None:
    data = KERNELS[kernel]()
    target, btf = parse_btf(data), write_btf(tmp_path / "kernel.btf", data)
    whole = ask_libbpf_of(list(real_objects.values()), btf, everything=True)
    for (name, path), told in zip(real_objects.items(), whole, strict=True):
        obj = read_object(path.read_bytes())
        if not obj.relocations:
            continue
        ours, theirs = write_btf(tmp_path / "ours.btf", minimise([obj], target)), tmp_path / "theirs.btf"
        subprocess.run(["bpftool", "gen", "min_core_btf", btf, theirs, path], check=True)
        assert _words(ask_libbpf_of([path], ours, everything=True)[0]) == _words(told), name
        assert ours.stat().st_size <= theirs.stat().st_size, name
        BPFTOOL.minimised += 1
        BPFTOOL.ours += ours.stat().st_size
        BPFTOOL.theirs += theirs.stat().st_size


def _words(truth: Truth) -> list[tuple[object, ...]]:
    """Return what libbpf did, without the kernel's type ids, which minimising changes."""
    return [(t.program, t.number, t.kind, t.insn, t.outcome, t.value, t.resized) for t in truth.relocations]


@pytest.mark.parametrize("first", range(0, 500, 50))
def test_invented_objects_on_invented_kernels(tmp_path, first) -> None:
    for seed in range(first, first + 50):
        object_, kernel = invent(Random(seed))
        path, btf, target = tmp_path / "invented.o", write_btf(tmp_path / "kernel.btf", kernel), parse_btf(kernel)
        path.write_bytes(object_)
        assert compare({f"seed {seed}": path}, f"kernel {seed}", btf, target, INVENTED) == []

        whole = ask_libbpf_of([path], btf)[0]
        small = write_btf(tmp_path / "small.btf", minimise([read_object(object_)], target))
        if whole.relocated:
            cut = ask_libbpf_of([path], small)[0]
            assert _words(whole) == _words(cut), f"minimised, seed {seed}"


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_invented_objects_on_invented_modules(tmp_path, first) -> None:
    for seed in range(first, first + 50):
        object_, kernel, modules = invent_modules(Random(seed))
        path, btf, target = tmp_path / "invented.o", write_btf(tmp_path / "kernel.btf", kernel), parse_btf(kernel)
        path.write_bytes(object_)
        at_hand = {
            write_btf(tmp_path / f"{number}.btf", data): parse_btf(data, base=target)
            for number, data in enumerate(modules)
        }
        assert compare({f"{seed} on modules": path}, f"{seed} of modules", btf, target, INVENTED, at_hand) == []


OF_MODULES = """
struct nf_conn { unsigned long status; int timeout; } CORE;
struct ovl_inode { unsigned long flags; int gone; } CORE;
struct xfs_inode { u64 i_ino; struct xfs_mount *i_mount; } CORE;
struct list_head { void *next; } CORE;
PROG(struct nf_conn *c = (void *)t; struct ovl_inode *o = (void *)t; struct xfs_inode *x = (void *)t;
     out[0] = bpf_core_field_exists(c->status); bpf_core_read(&v, 4, &c->timeout); out[1] = v;
     out[2] = bpf_core_field_exists(o->gone); bpf_core_read(&v, 4, &o->flags); out[3] = v;
     out[4] = bpf_core_type_size(struct xfs_inode); out[5] = bpf_core_type_id_kernel(struct nf_conn);
     bpf_core_read(&v, 4, &((struct list_head *)t)->next); out[6] = v;
     bpf_core_read(&v, 4, &x->i_mount))
"""


def test_modules_of_a_real_kernel(compile_bpf, tmp_path) -> None:
    folder = fetch("debian:6.12", cache=CACHE).modules
    assert folder
    data = KERNELS["debian 6.12 amd64"]()
    btf, target = write_btf(tmp_path / "kernel.btf", data), parse_btf(data)
    modules = {}
    for name in ("nf_conntrack", "overlay", "xfs"):
        module = read_module(next(folder.rglob(f"{name}.ko*")).read_bytes(), name=name)
        modules[write_btf(tmp_path / f"{name}.btf", module.btf)] = parse_module(module, target)
    path = compile_bpf("of_modules.bpf.c", text=HEAD + OF_MODULES)
    assert compare({"of modules": path}, "debian 6.12 amd64 with modules", btf, target, TORTURE, modules) == []
    found = relocate(read_object(path.read_bytes()), target, modules={p.stem: m for p, m in modules.items()})
    assert {r.module for r in found} == {"", "overlay", "xfs"}


def test_kinds_that_the_judge_does_not_know(compile_bpf, btf_bytes, tmp_path) -> None:
    """A kernel newer than this libbpf: its layout section lets us pass over what libbpf refuses."""
    types = list(parse_btf(btf_bytes("kernel_a.c")))[1:]
    old = encode_btf([*types, Float(0, "", 0)], layout=True)
    _, _, _, _, _, type_len, string_off, string_len, layout_off, layout_len = struct.unpack_from("<HBBI6I", old)
    new = bytearray(old[32:])
    new[type_len - 8 : type_len - 4] = struct.pack("<I", 20 << 24)
    new += struct.pack("<BBH", 0, 0, 0)
    sections = (0, type_len, string_off, string_len, layout_off, layout_len + 4)
    data = struct.pack("<HBBI6I", 0xEB9F, 1, 0, 32, *sections) + bytes(new)
    target, btf = parse_btf(data), write_btf(tmp_path / "kernel.btf", data)
    assert isinstance(target[len(target) - 1], Unknown)
    path = compile_bpf("relocations.bpf.c")
    assert compare({"relocations.bpf.c v2": path}, "a kind of 2027", btf, target, TORTURE) == []
    assert "a kind of 2027" in REWRITTEN


@pytest.mark.parametrize(
    ("theirs", "kernel"),
    [
        ("kylin 4.19 aarch64", "debian 6.12 arm64"),
        ("bclinux 4.19 x86_64", "debian sid amd64"),
        ("debian 6.1 amd64", "debian 5.10 amd64"),
        ("debian 6.12 amd64", "debian sid s390x"),
        ("debian sid amd64", "centos 4.18 aarch64"),
    ],
)
def test_types_of_one_kernel_on_another(tmp_path, theirs, kernel) -> None:
    data = KERNELS[kernel]()
    target, btf = parse_btf(data), write_btf(tmp_path / "kernel.btf", data)
    path = tmp_path / "borrowed.o"
    path.write_bytes(borrow(Random(theirs), parse_btf(KERNELS[theirs]()), target, 500))
    assert compare({f"types of {theirs}": path}, kernel, btf, target, TORTURE) == []
