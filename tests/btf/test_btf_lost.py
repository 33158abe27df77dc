"""What a guard leaves out is lost only where nothing is read in its stead."""

from __future__ import annotations

import pytest

from btf.core.relocate import relocate
from btf.drift.lost import lost
from btf.format.parse import parse_btf
from btf.objects.elf_object import read_object

OBJECT = """
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
char LICENSE[] SEC("license") = "GPL";
struct task { long old, gone, other; } __attribute__((preserve_access_index));
struct newer { long x; } __attribute__((preserve_access_index));
const volatile int wanted = 0;
unsigned long long sink;
SEC("raw_tp/event") int prog(void *ctx) { struct task *t = ctx; READ return 0; }
"""
KERNEL = "struct task { long other, old; } task;"

CASES = {
    "nothing instead": ("if (bpf_core_field_exists(t->gone)) sink = BPF_CORE_READ(t, gone);", ["task.gone"]),
    "another field instead": (
        "sink = bpf_core_field_exists(t->gone) ? BPF_CORE_READ(t, gone) : BPF_CORE_READ(t, old);", [],
    ),
    "the older way first": (
        "if (!bpf_core_field_exists(t->gone)) { sink = BPF_CORE_READ(t, old); return 1; }"
        " sink = BPF_CORE_READ(t, gone);",
        [],
    ),
    "only a constant instead": ("sink = bpf_core_field_exists(t->gone) ? BPF_CORE_READ(t, gone) : 7;", ["task.gone"]),
    "read both ways elsewhere": (
        "sink = BPF_CORE_READ(t, old); if (bpf_core_field_exists(t->gone)) sink += BPF_CORE_READ(t, gone);",
        ["task.gone"],
    ),
    "a whole type": (
        "struct newer *n = ctx; if (bpf_core_type_exists(struct newer)) sink = BPF_CORE_READ(n, x);", ["newer.x"],
    ),
    "switched off by its own constant": ("if (wanted) sink = BPF_CORE_READ(t, gone);", []),
    "all there": ("if (bpf_core_field_exists(t->old)) sink = BPF_CORE_READ(t, old);", []),
}  # fmt: skip


@pytest.mark.parametrize(("read", "gone"), CASES.values(), ids=CASES)
def test_what_is_lost(compile_bpf, btf_bytes, read, gone) -> None:
    obj = read_object(compile_bpf("lost.bpf.c", text=OBJECT.replace("READ", read)).read_bytes())
    outcomes = relocate(obj, parse_btf(btf_bytes("lost_kernel.c", text=KERNEL)))
    assert [o.local for o in lost(obj, outcomes)] == gone
