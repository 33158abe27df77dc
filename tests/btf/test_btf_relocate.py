"""CO-RE relocation: what comes of each rule, of guards, of modules. The judge sits in `test_btf_oracle.py`."""

from __future__ import annotations

import pytest
from rules import HEAD, MATCHES, RULES, as_type_matches

from btf.core.relocate import RelocationOutcome, relocate, relocated
from btf.format.encode import encode_btf
from btf.format.kinds import BtfType, Member, Struct
from btf.format.parse import parse_btf
from btf.format.types import Btf
from btf.objects.elf_object import BpfObject, read_object


def outcomes(obj: BpfObject, target: Btf) -> dict[tuple[str, int], RelocationOutcome]:
    return {(r.program, r.insn): r for r in relocate(obj, target)}


def by_local(obj: BpfObject, target: Btf, program: str) -> dict[tuple[str, str], RelocationOutcome]:
    return {(r.kind, r.local): r for r in relocate(obj, target) if r.program == program}


EXPECTED = [name for name, row in RULES.items() if row[2] is not None]


@pytest.mark.parametrize("case", EXPECTED, ids=lambda name: name.replace(" ", "-"))
def test_rule(compile_bpf, btf_bytes, case) -> None:
    kernel, program, expected = RULES[case]
    slug = case.replace(" ", "_").replace("'", "")
    target = parse_btf(btf_bytes(f"{slug}.kernel.c", text=f"typedef unsigned long long u64; {kernel}"))
    results = relocate(read_object(compile_bpf(f"{slug}.bpf.c", text=HEAD + program).read_bytes()), target)
    assert [f"{r.outcome} {r.value}" if r.outcome == "value" else r.outcome for r in results] == expected


@pytest.mark.parametrize("case", MATCHES, ids=lambda name: name.replace(" ", "-"))
def test_type_matches(compile_bpf, btf_bytes, case) -> None:
    kernel, types, expected = MATCHES[case]
    slug = "matches_" + case.replace(" ", "_").replace("'", "")
    target = parse_btf(btf_bytes(f"{slug}.kernel.c", text=kernel))
    text = HEAD + types + "PROG(v = bpf_core_type_exists(struct t) + __builtin_preserve_type_info(*t, 1))"
    obj = read_object(as_type_matches(compile_bpf(f"{slug}.bpf.c", text=text).read_bytes()))
    found = {(r.kind, r.value) for r in relocate(obj, target) if r.kind == "type_matches"}
    assert found == {("type_matches", expected)}


def test_poison_in_dead_code_is_guarded(compile_bpf, btf_bytes) -> None:
    obj = read_object(compile_bpf("relocations.bpf.c").read_bytes())
    target = parse_btf(btf_bytes("kernel_a.c"))
    assert by_local(obj, target, "fields")["byte_off", "task.absent"].guarded
    alive = by_local(obj, target, "unguarded")["byte_off", "task.absent"]
    assert (alive.outcome, alive.guarded) == ("poisoned", False)


def test_optional_programs_do_not_fail_the_others(compile_bpf, vmlinux) -> None:
    obj = read_object(compile_bpf("tracing.bpf.c").read_bytes())
    results = relocate(obj, vmlinux)
    never = [r for r in results if r.program == "never"]
    assert [(r.outcome, r.found) for r in never] == [("poisoned", False)]
    assert not any(r.fatal for r in results)
    assert {r.program for r in results} == {"fill", "netns_of", "on_exec", "on_exit", "never"}


@pytest.mark.parametrize("kernel", ["kernel_a.c", "kernel_b.c"])
def test_what_others_asked_before_changes_no_answer(compile_bpf, btf_bytes, vmlinux_bytes, kernel) -> None:
    """Answers stay with the kernel's types: whoever asked first, in whatever order, they are those of a fresh look."""
    objects = [
        read_object(compile_bpf(source, cpu=cpu).read_bytes())
        for source in ("relocations.bpf.c", "tracing.bpf.c")
        for cpu in ("v1", "v2", "v3")
    ]
    for raw in (btf_bytes(kernel), vmlinux_bytes):
        alone = [relocated(obj, parse_btf(raw)) for obj in objects]
        shared = parse_btf(raw)
        for turn in (1, -1, 1):
            for obj, (results, patches) in list(zip(objects, alone, strict=True))[::turn]:
                again, changed = relocated(obj, shared)
                assert [r._replace(theirs=None) for r in again] == [r._replace(theirs=None) for r in results]
                assert [r.theirs and r.theirs[1:] for r in again] == [r.theirs and r.theirs[1:] for r in results]
                assert changed == patches


def _module(base: Btf, *own: BtfType) -> Btf:
    return parse_btf(encode_btf(own, base=base), base=base)


def test_modules_are_searched_when_the_kernel_has_no_candidate(compile_bpf, btf_bytes) -> None:
    kernel = parse_btf(btf_bytes("modules.kernel.c", text="struct t { int a, b; } t; typedef unsigned u32; u32 u;"))
    (word,) = kernel.by_name("unsigned int")
    two, three = (
        (Member("x", word, 0), Member("y", word, 32)),
        (*[Member(n, word, 32 * i) for i, n in enumerate("zxy")],),
    )
    text = """
        struct t { int b; } CORE; struct conn { int y; } CORE; struct other { int z; } CORE;
        SEC("raw_tp/x") int prog(u64 *ctx) {
            int v; bpf_core_read(&v, 4, &((struct t *)ctx[0])->b); out[0] = v;
            bpf_core_read(&v, 4, &((struct conn *)ctx[1])->y); out[1] = v;
            return bpf_core_field_exists(((struct other *)ctx[2])->z); }"""
    obj = read_object(compile_bpf("modules.bpf.c", text=HEAD + text).read_bytes())

    def asked(**modules: Btf) -> dict[str, tuple[str, int | None, str]]:
        return {r.local: (r.outcome, r.value, r.module) for r in relocate(obj, kernel, modules=modules)}

    nothing, clash = ("poisoned", None, ""), ("ambiguous", None, "")
    conn = _module(kernel, Struct(0, "conn", 8, two), Struct(0, "t", 8, (Member("b", word, 0),)))
    far = _module(kernel, Struct(0, "conn", 12, three), Struct(0, "other", 4, (Member("z", word, 0),)))
    without = _module(kernel, Struct(0, "conn", 4, two[:1]))
    assert asked() == {"t.b": ("value", 4, ""), "conn.y": nothing, "other.z": ("value", 0, "")}
    # The module's own struct t does not count: the kernel has one.
    assert asked(nf=conn) == {"t.b": ("value", 4, ""), "conn.y": ("value", 4, "nf"), "other.z": ("value", 0, "")}
    assert asked(a=without, nf=conn)["conn.y"] == ("value", 4, "nf")
    assert asked(nf=conn, xt=far) == {"t.b": ("value", 4, ""), "conn.y": clash, "other.z": ("value", 1, "xt")}
    assert asked(a=without)["conn.y"] == nothing == asked()["conn.y"]


def test_an_object_without_relocations_has_no_outcomes(compile_bpf, vmlinux) -> None:
    path = compile_bpf("plain.bpf.c", text='__attribute__((section("xdp"))) int p(void *c) { return 2; }')
    assert relocate(read_object(path.read_bytes()), vmlinux) == ()
