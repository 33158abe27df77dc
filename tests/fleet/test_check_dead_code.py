"""What a program asks for in dead code only, it does not need: helpers and kernel symbols behind a guard."""

from __future__ import annotations

import pytest
from test_requirements import HEAD, compiled

from btf.objects.elf_object import read_object
from fleet.compatibility.check import KernelBtf, check_object
from fleet.compatibility.symbols import parse_symbols
from fleet.compatibility.verdict import Verdict
from inventory.facts import Answer

KERNEL = """
enum bpf_func_id { BPF_FUNC_unspec, BPF_FUNC_map_lookup_elem, BPF_FUNC_ktime_get_ns = 5 } a;
enum bpf_prog_type { BPF_PROG_TYPE_UNSPEC, BPF_PROG_TYPE_SOCKET_FILTER, BPF_PROG_TYPE_XDP = 6 } b;
struct xdp_buff { int x; } c;
"""
GUARDED = """
SEC("xdp") int p(void *c) {
    if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_ktime_get_boot_ns))
        return bpf_ktime_get_boot_ns() & 1;
    return bpf_ktime_get_ns() & 1;
}
"""
UNGUARDED = 'SEC("xdp") int p(void *c) { return bpf_ktime_get_boot_ns() & 1; }'
BOTH = GUARDED.replace("return bpf_ktime_get_ns() & 1", "return bpf_ktime_get_boot_ns() & 2")


@pytest.mark.parametrize(
    ("source", "answer"), [(GUARDED, Answer.YES), (UNGUARDED, Answer.NO), (BOTH, Answer.NO)],
    ids=["guarded", "not guarded", "guarded once"],
)  # fmt: skip
def test_a_missing_helper_that_only_dead_code_calls_is_not_needed(tmp_path, source, answer) -> None:
    obj = read_object(compiled(tmp_path, HEAD + source))
    kernel_btf = read_object(compiled(tmp_path, KERNEL)).btf
    assert kernel_btf is not None
    kernel = KernelBtf(kernel_btf, "0" * 64)
    checked = check_object("x", obj, kernel)
    (helper,) = (r for p in checked.programs for r in p.reasons if r.requirement.subject == "ktime_get_boot_ns")
    assert helper.answer is answer
    assert (helper.code == "helper-guarded") == (answer is Answer.YES)
    assert (checked.verdict is Verdict.REFUSED) == (answer is Answer.NO)


WEAK = """
struct t { int a, gone; } __attribute__((preserve_access_index));
extern int bpf_never_was(void) __ksym __weak;
SEC("raw_tp/sched_switch") int p(struct t **c) { return bpf_never_was ? c[0]->gone : 0; }
"""


@pytest.mark.parametrize(
    ("rows", "answer"),
    [
        ("0 T f\n0 t g\t[some_module]\n", True),  # a list with modules in it, and it is not there
        ("0 T f\n", False),  # it may be in a module, which this list does not show
        ("0 T bpf_never_was\n0 t g\t[some_module]\n", False),
    ],
)
def test_a_weak_function_that_is_nowhere_guards(tmp_path, rows, answer) -> None:
    obj = read_object(compiled(tmp_path, HEAD + WEAK))
    kernel_btf = read_object(compiled(tmp_path, "struct t { int a; } t; " + KERNEL)).btf
    assert kernel_btf is not None
    listed = parse_symbols(rows.splitlines())
    checked = check_object("x", obj, KernelBtf(kernel_btf, "0" * 64, symbols=lambda: listed))
    (gone,) = (r for r in checked.relocations if r.local == "t.gone")
    assert gone.outcome == "poisoned" and gone.guarded is answer
