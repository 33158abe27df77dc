"""Minimised BTF serves its objects exactly as the whole does: by our rules, by libbpf's, beside bpftool's own."""

from __future__ import annotations

import struct
import subprocess
from array import array
from dataclasses import replace

import pytest
from btf_places import SAMPLES
from libbpf_truth import ask_libbpf, write_btf
from rules import HEAD, MATCHES, RULES, as_type_matches

from btf.archive.archive import read_btf_file
from btf.core.minimise import minimise
from btf.core.relocate import relocate
from btf.format.encode import encode_btf
from btf.format.kinds import Array, BtfType, Composite, Const, Datasec, FuncProto, Kind, Reference
from btf.format.parse import parse_btf
from btf.objects.elf_object import read_object
from btf.objects.insn import SIZE


def _same(obj, target, small) -> None:
    assert [
        (r.program, r.insn, r.kind, r.outcome, r.value, r.guarded) for r in relocate(obj, target)
        if r.kind != "local_type_id"
    ] == [
        (r.program, r.insn, r.kind, r.outcome, r.value, r.guarded) for r in relocate(obj, small)
        if r.kind != "local_type_id"
    ]  # fmt: skip


@pytest.mark.parametrize("case", RULES, ids=lambda name: name.replace(" ", "-"))
def test_outcomes_stay(compile_bpf, btf_bytes, case) -> None:
    kernel, program, _ = RULES[case]
    slug = case.replace(" ", "_")
    target = parse_btf(btf_bytes(f"{slug}.kernel.c", text=f"typedef unsigned long long u64; {kernel}"))
    obj = read_object(compile_bpf(f"{slug}.bpf.c", text=HEAD + program).read_bytes())
    _same(obj, target, parse_btf(minimise([obj], target)))


@pytest.mark.parametrize("case", MATCHES, ids=lambda name: name.replace(" ", "-"))
def test_matches_stay(compile_bpf, btf_bytes, case) -> None:
    kernel, types, _ = MATCHES[case]
    target = parse_btf(btf_bytes(f"m_{case.replace(' ', '_')}.kernel.c", text=kernel))
    text = HEAD + types + "PROG(v = bpf_core_type_exists(struct t))"
    obj = read_object(as_type_matches(compile_bpf(f"m_{case.replace(' ', '_')}.bpf.c", text=text).read_bytes()))
    small = parse_btf(minimise([obj], target))
    assert [r.value for r in relocate(obj, small)] == [r.value for r in relocate(obj, target)]


def test_an_open_ended_array_does_not_come_to_be(compile_bpf, btf_bytes) -> None:
    target = parse_btf(btf_bytes("empty_array.kernel.c", text="struct t { int b[0]; int a; } t;"))
    text = HEAD + "struct t { int b[8]; } CORE; PROG(v = bpf_core_field_size(t->b); READ(b[7]))"
    obj = read_object(compile_bpf("empty_array.bpf.c", text=text).read_bytes())
    _same(obj, target, parse_btf(minimise([obj], target)))


def test_type_ids_keep_everything(compile_bpf, btf_bytes) -> None:
    target = parse_btf(btf_bytes("kernel_a.c"))
    obj = read_object(compile_bpf("relocations.bpf.c").read_bytes())
    small = parse_btf(minimise([obj], target))
    assert list(small) == list(target)


@pytest.mark.kernel
def test_as_libbpf_sees_it_and_no_larger_than_bpftools(compile_bpf, vmlinux, tmp_path) -> None:
    path = compile_bpf("tracing.bpf.c")
    obj = read_object(path.read_bytes())
    data = minimise([obj], vmlinux)
    _same(obj, vmlinux, parse_btf(data))

    ours, whole = ask_libbpf(path, write_btf(tmp_path / "min.btf", data)), ask_libbpf(path, None)
    assert ours.relocated and whole.relocated
    relocated = [r for r in relocate(obj, vmlinux) if r.program in ("on_exec", "on_exit")]
    for result in relocated:
        function = obj.function_at(result.section, result.insn)
        at = (result.insn - function.start) // SIZE
        assert ours.instructions[result.program][at] == whole.instructions[result.program][at]
    assert len(relocated) > 3

    theirs = tmp_path / "bpftool.btf"
    subprocess.run(["bpftool", "gen", "min_core_btf", "/sys/kernel/btf/vmlinux", theirs, path], check=True)
    assert len(data) <= theirs.stat().st_size
    _same(obj, vmlinux, parse_btf(theirs.read_bytes()))


def test_several_objects_share_one(compile_bpf, vmlinux) -> None:
    first = read_object(compile_bpf("tracing.bpf.c").read_bytes())
    text = HEAD + "struct sock { int sk_err; } CORE; PROG(v = BPF_CORE_READ((struct sock *)t, sk_err))"
    second = read_object(compile_bpf("second.bpf.c", text=text).read_bytes())
    small = parse_btf(minimise([first, second], vmlinux))
    _same(first, vmlinux, small)
    _same(second, vmlinux, small)
    assert len(small) < 100


def _copies(types: list[BtfType], count: int) -> list[BtfType]:
    """Every type *count* times, each copy with unique names of its own, as kernels with kABI macros have them."""

    def moved(type_: BtfType, by: int) -> BtfType:
        def to(id_: int) -> int:
            return id_ + by if id_ else 0

        match type_:
            case Composite():
                named = (m._replace(name=f"__UNIQUE_ID_hide{by}") if m.name == "sk_tail" else m for m in type_.members)
                return replace(type_, members=tuple(m._replace(type=to(m.type)) for m in named))
            case Array():
                return replace(type_, type=to(type_.type), index_type=to(type_.index_type))
            case FuncProto():
                parameters = tuple((name, to(id_)) for name, id_ in type_.parameters)
                return replace(type_, type=to(type_.type), parameters=parameters)
            case Datasec():
                return replace(type_, variables=tuple((to(id_), o, s) for id_, o, s in type_.variables))
            case Reference():
                return replace(type_, type=to(type_.type))
            case _:
                return type_

    return [moved(type_, number * len(types)) for number in range(count) for type_ in types]


KERNEL = """
    typedef unsigned long long u64; typedef unsigned u32;
    struct mm { u64 pad, start; }; enum kind { NONE, SOME, MORE };
    struct common { u32 saddr, daddr; union { struct { u32 port; }; u64 both; }; };
    struct sk { long state; struct common common; u32 list[4]; struct { int x, y; } in; long sk_tail; } sk;
    struct t { int pid; struct mm *mm; struct t *parent; enum kind kind; struct sk sk; const char *name; } t;
    u32 in(struct mm *mm) { return mm->pad; }"""
PROGRAM = """
    struct mm { u64 start; } CORE; enum kind { SOME = 7 };
    struct common { u32 daddr, port; } CORE;
    struct sk { u32 list[8]; struct common common; struct { int y; } in; } CORE;
    struct t { struct mm *mm; struct t *parent; struct sk sk; int gone; } CORE;
    SEC("raw_tp/x") int prog(u64 *ctx) {
        struct t *t = (void *)ctx[0]; struct sk *s = (void *)ctx[1]; struct common *c = (void *)ctx[2];
        out[0] = BPF_CORE_READ(t, mm, start) + BPF_CORE_READ(t, sk.common.daddr) + BPF_CORE_READ(s, list[3]);
        out[1] = BPF_CORE_READ(c, port) + BPF_CORE_READ(s, in.y) + bpf_core_type_size(struct common);
        return bpf_core_enum_value_exists(enum kind, SOME) + bpf_core_field_exists(t->gone); }"""


def test_copies_of_every_type_give_no_more_than_one_of_each(compile_bpf, btf_bytes) -> None:
    clean = parse_btf(btf_bytes("clean.kernel.c", text=KERNEL))
    types = _copies(clean[1:], 5)
    (first,) = clean.by_name("t", Kind.STRUCT)
    types[first - 1] = replace(types[first - 1], name="another")  # so that not all is found in the first copy
    copies = parse_btf(encode_btf(types))
    assert len(copies.by_name("t", Kind.STRUCT)) == 4
    obj = read_object(compile_bpf("copies.bpf.c", text=HEAD + PROGRAM).read_bytes())
    small = minimise([obj], copies)
    assert len(small) == len(minimise([obj], clean))
    _same(obj, copies, parse_btf(small))


def test_a_kernel_that_was_never_deduplicated_gives_no_more_than_bpftool_takes(compile_bpf, tmp_path) -> None:
    raw = write_btf(tmp_path / "kernel.btf", read_btf_file(next(SAMPLES.rglob("*el8_1*.btf.tar.xz"))))
    path, theirs = compile_bpf("tracing.bpf.c"), tmp_path / "theirs.btf"
    obj, kernel = read_object(path.read_bytes()), parse_btf(raw.read_bytes())
    small = minimise([obj], kernel)
    subprocess.run(["bpftool", "gen", "min_core_btf", raw, theirs, path], check=True)
    assert len(small) <= theirs.stat().st_size
    _same(obj, kernel, parse_btf(small))


def test_type_ids_stay_where_they_are_beside_a_kind_that_is_not_known(compile_bpf) -> None:
    words = [0, 25 << 24, 0, 1, 4 << 24, 8]  # a record of a kind to come, then struct t
    body, text = array("I", words).tobytes(), b"\0t\0\0"
    layout = bytes(4 * 26)
    sections = (0, len(body), len(body), len(text), len(body) + len(text), len(layout))
    target = parse_btf(struct.pack("<HBBI6I", 0xEB9F, 1, 0, 32, *sections) + body + text + layout)
    program = "struct t { int a; } CORE; PROG(v = bpf_core_type_id_kernel(struct t))"
    obj = read_object(compile_bpf("id.bpf.c", text=HEAD + program).read_bytes())
    assert [r.value for r in relocate(obj, target)] == [2]
    small = parse_btf(minimise([obj], target))
    assert [r.value for r in relocate(obj, small)] == [2] and small[1] == Const(1, "", 0)
