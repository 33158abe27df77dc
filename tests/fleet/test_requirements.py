"""What an object needs is read off the object: every fixture says in C what must come out."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from btf.format.encode import encode_btf
from btf.format.parse import parse_btf
from btf.objects.elf_object import read_object
from fleet.compatibility.features import FEATURES
from fleet.compatibility.object_needs import ask_loader, ask_stack
from fleet.compatibility.requirements import infer
from fleet.compatibility.signs import RUNNER_LIBBPF
from fleet.compatibility.sources import Known
from fleet.compatibility.verdict import Requirement
from inventory.facts import Answer

HEAD = """
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
typedef __u32 u32; typedef __u64 u64;
char LICENSE[] SEC("license") = "GPL";
"""
TASK = "struct task_struct { int pid; } __attribute__((preserve_access_index));\n"

# name: (C, processor, needs that must be among those inferred, needs that must not): (kind, subject, program)
CASES: dict[str, tuple[str, str, set[tuple[str, str, str]], set[str]]] = {
    "tracepoint": (
        TASK + 'SEC("tp/sched/sched_process_exec") int p(void *c) '
        "{ struct task_struct *t = (void *)bpf_get_current_task(); return BPF_CORE_READ(t, pid); }",
        "v2",
        {
            ("btf", "kernel", ""),
            ("program_type", "tracepoint", "p"),
            ("attach", "tracepoint", "p"),
            ("tracepoint", "sched:sched_process_exec", "p"),
            ("helper", "get_current_task", "p"),
            ("helper", "probe_read_kernel|probe_read", "p"),
        },
        {"isa", "feature", "map_type", "instructions"},
    ),
    "plain xdp": (
        'SEC("xdp") int p(void *c) { return XDP_PASS; }',
        "v1",
        {("program_type", "xdp", "p"), ("attach", "xdp", "p")},
        {"btf", "isa", "feature", "helper", "map_type"},
    ),
    "fentry": (
        'SEC("fentry/nf_conntrack:nf_confirm") int p(u64 *c) { return c[0] != 0; }',
        "v2",
        {
            ("program_type", "tracing", "p"), ("attach", "fentry", "p"), ("function", "nf_confirm", "p"),
            ("btf", "vmlinux", "p"),
        },
        {"tracepoint"},
    ),
    "lsm": (
        'SEC("lsm/file_open") int p(u64 *c) { return 0; }',
        "v2",
        {("attach", "lsm", "p"), ("function", "bpf_lsm_file_open", "p"), ("btf", "vmlinux", "p")},
        set(),
    ),
    "iterator": (
        'SEC("iter/task_file") int p(u64 *c) { return 0; }',
        "v2",
        {("attach", "iter", "p"), ("function", "bpf_iter_task_file", "p"), ("btf", "vmlinux", "p")},
        set(),
    ),
    "struct_ops": (
        "struct tcp_congestion_ops___mine { int (*ssthresh)(void *sk); };"
        'SEC("struct_ops/ssthresh") int p(u64 *c) { return 2; }'
        'SEC(".struct_ops.link") struct tcp_congestion_ops___mine ops = { .ssthresh = (void *)p };',
        "v2",
        {("struct_ops", "tcp_congestion_ops", ""), ("program_type", "struct_ops", "p")},
        set(),
    ),
    "kprobe inside a function": (
        'SEC("kprobe/tcp_v4_connect+0x8") int p(void *c) { return 0; }',
        "v2",
        {("attach", "kprobe", "p"), ("function", "tcp_v4_connect", "p")},
        {"btf"},
    ),
    "kprobes by pattern": (
        'SEC("kprobe.multi/tcp_*") int p(void *c) { return 0; }', "v2", {("attach", "kprobe_multi", "p")}, {"function"},
    ),
    "newer instructions": (
        'SEC("tc") int p(struct __sk_buff *s) { u32 a = s->len, b = s->mark; return a < b ? 0 : 2; }',
        "v3",
        {("isa", "v3", ""), ("attach", "tc", "p")},
        {"btf"},
    ),
    "maps, by the program that names them": (
        'struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } ring SEC(".maps");'
        'struct { __uint(type, BPF_MAP_TYPE_LPM_TRIE); __uint(max_entries, 1); __uint(key_size, 8);'
        ' __uint(value_size, 4); __uint(map_flags, 1); } spare SEC(".maps");'
        'SEC("?raw_tp/sys_enter") int p(u64 *c) { bpf_ringbuf_output(&ring, c, 8, 0); return 0; }'
        'SEC("raw_tp/sys_exit") int q(u64 *c) { return 0; }',
        "v2",
        {
            ("map_type", "ringbuf", "p"), ("map_type", "lpm_trie", ""), ("helper", "ringbuf_output", "p"),
            ("raw_tracepoint", "sys_exit", "q"),
        },
        {"feature"},
    ),
    "globals and kconfig": (
        "extern int CONFIG_HZ __kconfig; extern int LINUX_KERNEL_VERSION __kconfig; int seen;"
        'SEC("xdp") int p(void *c) { seen += CONFIG_HZ + LINUX_KERNEL_VERSION; return 2; }',
        "v2",
        {("feature", "global_data", ""), ("kconfig", "CONFIG_HZ", "")},
        set(),
    ),
    "a loop": (
        'SEC("xdp") int p(u32 *c) { u32 n = 0;\n#pragma clang loop unroll(disable)\n'
        "for (int i = 0; i < 50; i++) { n += c[0]; asm volatile(\"\" ::: \"memory\"); } return n; }",
        "v2",
        {("feature", "bounded_loops", "p")},
        set(),
    ),
    "atomic operations": (
        'SEC("xdp") int p(u32 *c) { return __sync_fetch_and_add(&c[0], 1) == 7; }',
        "v3",
        {("feature", "atomics", "p")},
        set(),
    ),
    "adding atomically, as from the start": (
        'SEC("xdp") int p(u32 *c) { __sync_fetch_and_add(&c[0], 1); return 0; }',
        "v2",
        set(),
        {("feature", "atomics", "p")},
    ),
    "frames in pieces": ('SEC("xdp.frags") int p(void *c) { return 2; }', "v2", {("feature", "xdp_frags", "p")}, set()),
    "a sleepable program": (
        'SEC("lsm.s/file_open") int p(void *c) { return 0; }',
        "v2",
        {("sleepable", "bpf_lsm_file_open", "p")},
        set(),
    ),
    "a subprogram": (
        "__attribute__((noinline)) int sub(int a) { return a * 3; }"
        'SEC("xdp") int p(u32 *c) { return sub(c[0]); }',
        "v2",
        {("feature", "bpf2bpf", "p")},
        set(),
    ),
    "kernel functions": (
        "struct cgroup; extern void bpf_cgroup_release(struct cgroup *) __ksym;"
        "extern const void some_table __ksym __weak; u64 at;"
        'SEC("tp_btf/cgroup_mkdir") int p(u64 *c) '
        "{ bpf_cgroup_release((void *)c[0]); at = (u64)&some_table; return 0; }",
        "v2",
        {("kfunc", "bpf_cgroup_release", "p"), ("ksym", "some_table", "p"), ("raw_tracepoint", "cgroup_mkdir", "p")},
        set(),
    ),
    "what the loader must know": (
        'SEC("tcx/ingress") int p(struct __sk_buff *s) { return 0; } SEC("xdp") int q(void *c) { return 2; }',
        "v2",
        {("loader", "1.3", "p")},
        {"stack"},
    ),
    "links of struct_ops": (
        'struct ops { int (*init)(void *); }; SEC("struct_ops/init") int init(u64 *c) { return 0; }'
        'SEC(".struct_ops.link") struct ops mine = { .init = (void *)init };',
        "v2",
        {("loader", "1.2", ""), ("program_type", "struct_ops", "init")},
        set(),
    ),
    "maps of the old kind": (
        'struct def { u32 type, key_size, value_size, max_entries, map_flags; };'
        'struct def old SEC("maps") = { 2, 4, 4, 1, 1 << 10 };'
        'SEC("xdp") int p(void *c) { u32 k = 0; return bpf_map_lookup_elem(&old, &k) ? 2 : 1; }',
        "v2",
        {("loader", "<1.0", ""), ("map_type", "array", "p"), ("map_flag", "mmapable", "p")},
        set(),
    ),
    "flags of a map and of the map in it": (
        'struct { __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS); __uint(max_entries, 2); __uint(key_size, 4);'
        ' __array(values, struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, u32);'
        ' __type(value, u64); __uint(map_flags, BPF_F_INNER_MAP | BPF_F_MMAPABLE); }); } outer SEC(".maps");'
        'SEC("xdp") int p(void *c) { u32 k = 0; return bpf_map_lookup_elem(&outer, &k) ? 2 : 1; }',
        "v2",
        {("map_type", "array_of_maps", "p"), ("map_flag", "inner_map", "p"), ("map_flag", "mmapable", "p")},
        {"loader"},
    ),
    "more stack than there is": (
        'static __attribute__((noinline)) int sub(void *c)'
        ' { char b[304]; bpf_skb_load_bytes(c, 0, b, 304); return b[3]; }'
        'SEC("tc") int p(void *c) { char b[304]; bpf_skb_load_bytes(c, 0, b, 304); return sub(c) + b[9]; }',
        "v2",
        {("stack", "608", "p")},
        set(),
    ),
    "more instructions than old kernels take": (
        'SEC("xdp") int p(volatile u32 *c) { ' + "c[1] = c[0];" * 2100 + " return 2; }",
        "v2",
        {("instructions", "4202", "p")},
        set(),
    ),
}  # fmt: skip


def compiled(directory: Path, text: str, cpu: str = "v2") -> bytes:
    """Compile C and return the object."""
    source, out = directory / "x.bpf.c", directory / "x.bpf.o"
    source.write_text(text)
    command = ["clang", "-target", "bpf", f"-mcpu={cpu}", "-O2", "-g", "-I/usr/include/x86_64-linux-gnu"]
    subprocess.run([*command, "-c", str(source), "-o", str(out)], check=True, capture_output=True)
    return out.read_bytes()


def _infer(tmp_path: Path, text: str, cpu: str):
    return infer(read_object(compiled(tmp_path, HEAD + text, cpu)))


@pytest.mark.parametrize("case", CASES, ids=lambda name: name.replace(" ", "-"))
def test_needs_are_read_off_the_object(tmp_path, case) -> None:
    text, cpu, present, absent = CASES[case]
    needs = _infer(tmp_path, text, cpu)
    seen = {(n.kind, n.subject, n.program) for n in needs}
    assert present <= seen, sorted(seen)
    assert not absent & {n.kind for n in needs}, sorted(seen)
    assert len(needs) == len(set(needs)) and {n.origin for n in needs} == {"object"}
    assert {n.kind for n in needs} <= set(FEATURES) | {"ksym"}


def test_optional_programs_have_optional_needs(tmp_path) -> None:
    needs = _infer(tmp_path, CASES["maps, by the program that names them"][0], "v2")
    assert {n.optional for n in needs if n.program == "p"} == {True}
    assert {n.optional for n in needs if n.program != "p"} == {False}


def test_weak_symbols_are_optional(tmp_path) -> None:
    needs = _infer(tmp_path, CASES["kernel functions"][0], "v2")
    assert {n.subject: n.optional for n in needs if n.kind in ("ksym", "kfunc")} == {
        "bpf_cgroup_release": False,
        "some_table": True,
    }


def test_helpers_carry_their_program_type(tmp_path) -> None:
    needs = _infer(tmp_path, CASES["tracepoint"][0], "v2")
    assert {n.context for n in needs if n.kind == "helper"} == {"tracepoint"}


def test_the_runner_has_the_libbpf_it_is_taken_to_have() -> None:
    runner = Path(__file__).parents[2] / "probes" / "runner" / "bpfrun"
    said = json.loads(subprocess.run([runner, "version"], capture_output=True, text=True, check=True).stdout)
    assert tuple(map(int, said["libbpf"].split(".")[:2])) == RUNNER_LIBBPF


@pytest.mark.parametrize(("subject", "answer"), [("1.1", "yes"), ("1.3", "no"), ("<1.0", "no"), ("<2.0", "yes")])
def test_the_loader_is_asked_by_version(subject, answer) -> None:
    assert ask_loader(Requirement("loader", subject), Known()).answer == answer


EMPTY = parse_btf(encode_btf([], big_endian=False))


def test_a_stack_is_too_deep_or_may_be() -> None:
    deep, edge = Requirement("stack", "544", context="544"), Requirement("stack", "512", context="544")
    assert ask_stack(deep, Known()).answer is Answer.UNKNOWN
    assert ask_stack(deep, Known(btf=EMPTY)).answer is Answer.NO
    assert ask_stack(edge, Known()).answer is Answer.UNKNOWN
