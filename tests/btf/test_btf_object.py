"""Reading objects: what clang compiled comes out whole, from both byte orders; broken files are refused."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from btf.core.relocate import relocate
from btf.format.encode import encode_btf
from btf.format.index import BtfMalformed
from btf.format.parse import parse_btf
from btf.objects.elf_object import ObjectMalformed, read_object
from btf.objects.insn import SIZE, decode_insns
from btf.reach.guard import Reach

SOURCE = "tracing.bpf.c"


@pytest.fixture(scope="module")
def obj(compile_bpf):
    return read_object(compile_bpf(SOURCE).read_bytes())


def test_programs_say_what_their_sections_say(obj) -> None:
    seen = {p.name: (p.section, p.program_type, p.attach_type, p.attach_target, p.optional) for p in obj.programs}
    assert seen == {
        "on_exec": ("tracepoint/sched/sched_process_exec", "tracepoint", "", "sched/sched_process_exec", False),
        "on_exit": ("raw_tp/sched_process_exit", "raw_tracepoint", "", "sched_process_exit", False),
        "never": ("?fentry/no_such_function", "tracing", "trace_fentry", "no_such_function", True),
    }
    assert obj.license == "Dual MIT/GPL" and obj.data_sections == () and obj.externs == ()


def test_subprograms_are_followed(obj) -> None:
    on_exec = next(p for p in obj.programs if p.name == "on_exec")
    assert {f.name for f in on_exec.subprograms} == {"fill", "netns_of"}
    assert on_exec.instruction_count == sum(len(f.instructions) for f in on_exec.functions) > len(on_exec.instructions)
    assert obj.helpers(on_exec) == {"get_current_task", "get_current_comm", "probe_read_kernel", "map_update_elem"}
    assert on_exec.function.maps == ("starts",)


def test_maps_are_as_defined(obj) -> None:
    maps = {m.name: m for m in obj.maps}
    events, starts, outer = maps["events"], maps["starts"], maps["outer"]
    assert (events.type, events.max_entries) == ("ringbuf", 1 << 16)
    assert (starts.type, starts.key_size, starts.value_size, starts.max_entries, starts.flags) == (
        "lru_hash", 4, 32, 1024, 2,
    )  # fmt: skip
    assert outer.type == "array_of_maps" and outer.inner is not None
    assert (outer.inner.type, outer.inner.key_size, outer.inner.value_size, outer.inner.max_entries) == (
        "array",
        4,
        8,
        2,
    )


def test_instructions_are_those_of_the_disassembler(compile_bpf, obj) -> None:
    listing = subprocess.run(
        ["llvm-objdump", "-d", "--no-print-imm-hex", compile_bpf(SOURCE)], capture_output=True, text=True, check=True
    ).stdout
    bytes_listed = [bytes.fromhex(m[1]) for m in re.finditer(r"^\s+\d+:\t((?:[0-9a-f]{2} ?)+)\t", listing, re.M)]
    ours = [i for section in dict.fromkeys(f.section for f in obj.functions) for i in _of(obj, section)]
    theirs = [i for code in bytes_listed for i in decode_insns(code)]
    assert sorted(ours) == sorted(theirs) and len(ours) > 100


def _of(obj, section):
    return [i for f in obj.functions if f.section == section for i in f.instructions]


@pytest.mark.parametrize(("cpu", "isa"), [("v1", "v1"), ("v2", "v2"), ("v3", "v3")])
def test_the_instruction_set_is_told_by_its_instructions(compile_bpf, cpu, isa) -> None:
    text = """
        __attribute__((section("xdp"))) int p(unsigned *c) {
            unsigned n = c[0]; if (n < 7) return 1; unsigned long m = c[1]; return m < 99 ? 2 : 3; }
    """
    assert read_object(compile_bpf("isa.bpf.c", cpu=cpu, text=text).read_bytes()).isa == isa


def test_globals_kconfig_and_kernel_symbols_are_seen(compile_bpf) -> None:
    text = """
        #include <linux/bpf.h>
        #include <bpf/bpf_helpers.h>
        struct task_struct;
        extern unsigned long CONFIG_HZ __kconfig __weak;
        extern int LINUX_KERNEL_VERSION __kconfig;
        extern void bpf_task_release(struct task_struct *p) __ksym;
        extern const void bpf_map_fops __ksym;
        extern const int runqueues __ksym __weak;
        int counter; const volatile int limit = 3; int start = 4;
        SEC("tp_btf/sched_switch") int p(void *c) {
            counter += CONFIG_HZ + limit + start + LINUX_KERNEL_VERSION;
            counter += (unsigned long)&bpf_map_fops; if (&runqueues) bpf_task_release(c);
            return 0; }
    """
    obj = read_object(compile_bpf("externs.bpf.c", text=text).read_bytes())
    assert set(obj.data_sections) >= {".data", ".rodata", ".bss"}
    seen = {e.name: (e.origin, e.weak, e.typed, e.function) for e in obj.externs}
    assert seen == {
        "CONFIG_HZ": ("kconfig", True, True, False),
        "LINUX_KERNEL_VERSION": ("kconfig", False, True, False),
        "bpf_task_release": ("ksyms", False, True, True),
        "bpf_map_fops": ("ksyms", False, False, False),
        "runqueues": ("ksyms", True, True, False),
    }
    assert "bpf_task_release" in obj.programs[0].function.externs
    assert "1" not in obj.helpers(obj.programs[0]) and obj.helpers(obj.programs[0]) == frozenset()


def test_struct_ops_say_which_program_each_member_is(compile_bpf) -> None:
    text = """
        #include <linux/bpf.h>
        #include <bpf/bpf_helpers.h>
        struct ops___mine {
            int number; int (*first)(void *); char name[8]; void (*second)(void *); int (*none)(void);
        };
        SEC("struct_ops/first") int one(void *c) { return 1; }
        SEC("struct_ops/second") int two(void *c) { return 2; }
        SEC(".struct_ops") struct ops___mine plain = { .number = 3, .second = (void *)two };
        SEC(".struct_ops.link") struct ops___mine other = { .first = (void *)one, .second = (void *)two };
    """
    seen = {o.name: o for o in read_object(compile_bpf("struct_ops.bpf.c", text=text).read_bytes()).struct_ops}
    assert {name: (o.type, o.link, o.optional) for name, o in seen.items()} == {
        "plain": ("ops", False, False), "other": ("ops", True, False),
    }  # fmt: skip
    assert seen["plain"].programs == (("second", "two"),)
    assert seen["other"].programs == (("first", "one"), ("second", "two"))


def test_what_the_kernel_calls_on_an_exception_belongs_to_the_program(compile_bpf) -> None:
    text = """
        #include <linux/bpf.h>
        #include <bpf/bpf_helpers.h>
        int caught(__u64 cookie) { return cookie != 0; }
        SEC("tc") __attribute__((btf_decl_tag("exception_callback:caught"))) int p(void *c) { return 0; }
        SEC("tc") int q(void *c) { return 0; }
    """
    obj = read_object(compile_bpf("exceptions.bpf.c", text=text).read_bytes())
    assert {p.name: tuple(f.name for f in p.subprograms) for p in obj.programs} == {"p": ("caught",), "q": ()}
    places = {("tc", 0), (".text", 0)}
    reach = Reach(obj, {}, parse_btf(encode_btf([], big_endian=False)))
    assert reach.alive(obj.programs[0], places) == places


def test_constants_and_variables_are_read_with_their_section(compile_bpf) -> None:
    text = """
        #include <linux/bpf.h>
        #include <bpf/bpf_helpers.h>
        const volatile int limit = 7; const volatile char name[4] = "ab"; int counter; int start = 5;
        SEC("xdp") int p(void *c) { return limit + name[1] + counter++ + start++; }
    """
    sections = {s.name: s for s in read_object(compile_bpf("data.bpf.c", text=text).read_bytes()).data}
    rodata = sections[".rodata"]
    values = {v.name: rodata.contents[v.offset : v.offset + v.size] for v in rodata.variables}
    assert values == {"limit": b"\x07\0\0\0", "name": b"ab\0\0"} and rodata.constant
    assert not sections[".data"].constant and sections[".bss"].contents == b"" and sections[".bss"].size >= 4


def test_legacy_maps_are_seen(compile_bpf) -> None:
    text = """
        struct def { unsigned type, key_size, value_size, max_entries, map_flags; };
        struct def first __attribute__((section("maps"), used)) = { 1, 4, 8, 16, 1 };
        struct def second __attribute__((section("maps"), used)) = { 2, 4, 4, 1, 0 };
        __attribute__((section("xdp"))) int p(void *c) { return 2; }
    """
    maps = read_object(compile_bpf("legacy.bpf.c", text=text).read_bytes()).maps
    assert [(m.name, m.type, m.key_size, m.value_size, m.max_entries, m.flags, m.legacy) for m in maps] == [
        ("first", "hash", 4, 8, 16, 1, True), ("second", "array", 4, 4, 1, 0, True),
    ]  # fmt: skip


def test_both_byte_orders_say_the_same(compile_bpf, obj) -> None:
    big = read_object(compile_bpf(SOURCE, big=True).read_bytes())
    assert big.big_endian and not obj.big_endian
    assert [(p.name, p.meaning, p.instruction_count) for p in big.programs] == [
        (p.name, p.meaning, p.instruction_count) for p in obj.programs
    ]
    assert big.maps == obj.maps and big.relocations == obj.relocations
    assert [f.calls for f in big.functions] == [f.calls for f in obj.functions]


def test_source_lines_are_found(obj) -> None:
    lines = [obj.line_at(r.section, r.insn) for r in obj.relocations if r.section == ".text"]
    assert all(line and line.file.endswith(SOURCE) and line.line > 1 for line in lines)
    assert any(line and "nsproxy, net_ns" in line.text for line in lines)


def test_relocations_lie_in_functions(obj) -> None:
    assert len(obj.relocations) > 10
    assert all(obj.function_at(r.section, r.insn) and r.insn % SIZE == 0 for r in obj.relocations)
    assert {f.section for f in obj.function_info} == {f.section for f in obj.functions}


@pytest.mark.parametrize("junk", [b"", b"\x7fELF", b"hello", b"\x7fELF" + bytes(100), b"\x9f\xeb" + bytes(40)])
def test_no_object_is_refused(junk) -> None:
    with pytest.raises(ObjectMalformed):
        read_object(junk)


def test_a_program_for_this_machine_is_no_bpf_object() -> None:
    with pytest.raises(ObjectMalformed, match="not for BPF"):
        read_object(Path("/bin/true").read_bytes())


@pytest.mark.parametrize(
    ("at", "value"),
    [(0x3A, b"\0\0"), (0x3A, b"\x01\0"), (0x3C, b"\xff\xfe"), (0x28, b"\xff" * 7), (0x3E, b"\xf0\xff")],
    ids=["entry size 0", "entry size 1", "count", "place", "names"],
)
def test_a_lying_table_of_sections_does_not_hang(compile_bpf, at, value) -> None:
    data = bytearray(compile_bpf(SOURCE).read_bytes())
    data[at : at + len(value)] = value
    with pytest.raises(ObjectMalformed):
        read_object(bytes(data))


def test_cut_off_anywhere_is_refused_or_whole(compile_bpf) -> None:
    data = compile_bpf(SOURCE).read_bytes()
    for length in range(0, len(data), 97):
        with pytest.raises(ObjectMalformed):
            read_object(data[:length])


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.data())
def test_damaged_objects_are_one_clear_fault(compile_bpf, vmlinux, data) -> None:
    raw = bytearray(compile_bpf(SOURCE).read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        obj = read_object(bytes(raw))
        for program in obj.programs:
            obj.helpers(program)
        relocate(obj, vmlinux)
    except (ObjectMalformed, BtfMalformed) as fault:
        assert str(fault).startswith("COR-BTF-0")
