"""What a kernel has instead of what is asked for, as the hint behind a poisoned relocation."""

from __future__ import annotations

import pytest

from btf.core.instead import instead
from btf.core.relocate import relocate
from btf.format.parse import parse_btf
from btf.objects.elf_object import read_object

OBJECT = """
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
char LICENSE[] SEC("license") = "GPL";
#define CORE __attribute__((preserve_access_index))
enum kind { KIND_GONE };
struct inner { int level; };
struct task___mine { long state; struct inner in; enum kind k; } CORE;
struct absent { int x; } CORE;
struct pt_regs { unsigned long di; } CORE;
unsigned long long sink;
SEC("raw_tp/event") int prog(void *ctx) { struct task___mine *t = ctx; READ return 0; }
"""
KERNEL = """
enum kind { KIND_GONE_NOW, OTHER } k;
struct task {
	union { int __state; int exit_state; };
	struct { struct { int levels; } in; int *k; };
} task;
struct pt_regs { unsigned long regs[31]; } regs;
"""


@pytest.mark.parametrize(
    ("read", "said"),
    [
        ("sink = BPF_CORE_READ(t, state);", "struct task has: __state, exit_state"),
        ("sink = BPF_CORE_READ(t, in.level);", "task.in has: levels"),
        ("sink = BPF_CORE_READ(t, k);", "struct task has k as int *"),
        ("sink = bpf_core_enum_value(enum kind, KIND_GONE);", "enum kind has: KIND_GONE_NOW"),
        (
            "sink = BPF_CORE_READ((struct absent *)ctx, x);",
            "this BTF has no struct absent: the kernel was built without it, or it is in a module's BTF",
        ),
        (
            "sink = BPF_CORE_READ((struct pt_regs *)ctx, di);",
            "struct pt_regs is another on every architecture: build the object for this kernel's",
        ),
    ],
)
def test_what_is_there_instead(compile_bpf, btf_bytes, read, said) -> None:
    obj = read_object(compile_bpf("near.bpf.c", text=OBJECT.replace("READ", read)).read_bytes())
    target = parse_btf(btf_bytes("near_kernel.c", text=KERNEL))
    (outcome,) = relocate(obj, target)
    near = instead(outcome, target)
    assert near is not None and near.text() == said


def test_nothing_is_said_of_what_is_there(compile_bpf, btf_bytes) -> None:
    read = "if (bpf_core_field_exists(t->state)) sink = 1;"
    obj = read_object(compile_bpf("near.bpf.c", text=OBJECT.replace("READ", read)).read_bytes())
    target = parse_btf(btf_bytes("near_kernel.c", text=KERNEL))
    assert [instead(outcome, target) for outcome in relocate(obj, target)] == [None]
