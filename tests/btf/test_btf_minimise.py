"""Minimised BTF serves its objects exactly as the whole does: by our rules, by libbpf's, beside bpftool's own."""

from __future__ import annotations

import subprocess

import pytest
from libbpf_truth import ask_libbpf, write_btf
from test_btf_relocate import CASES, HEAD, MATCHES, _as_type_matches

from btf.elf_object import read_object
from btf.insn import SIZE
from btf.minimise import minimise
from btf.parse import parse_btf
from btf.relocate import relocate


def _same(obj, target, small) -> None:
    assert [
        (r.program, r.insn, r.kind, r.outcome, r.value, r.guarded) for r in relocate(obj, target)
        if r.kind != "local_type_id"
    ] == [
        (r.program, r.insn, r.kind, r.outcome, r.value, r.guarded) for r in relocate(obj, small)
        if r.kind != "local_type_id"
    ]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda name: name.replace(" ", "-"))
def test_outcomes_stay(compile_bpf, btf_bytes, case) -> None:
    kernel, program, _ = CASES[case]
    slug = case.replace(" ", "_")
    target = parse_btf(btf_bytes(f"{slug}.kernel.c", text=f"typedef unsigned long long u64; {kernel}"))
    obj = read_object(compile_bpf(f"{slug}.bpf.c", text=HEAD + program).read_bytes())
    _same(obj, target, parse_btf(minimise([obj], target)))


@pytest.mark.parametrize("case", MATCHES, ids=lambda name: name.replace(" ", "-"))
def test_matches_stay(compile_bpf, btf_bytes, case) -> None:
    kernel, types, _ = MATCHES[case]
    target = parse_btf(btf_bytes(f"m_{case.replace(' ', '_')}.kernel.c", text=kernel))
    text = HEAD + types + "PROG(v = bpf_core_type_exists(struct t))"
    obj = read_object(_as_type_matches(compile_bpf(f"m_{case.replace(' ', '_')}.bpf.c", text=text).read_bytes()))
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
