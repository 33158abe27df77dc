"""What a program asks for in dead code only, it does not need: helpers and kernel symbols behind a guard."""

from __future__ import annotations

import pytest
from test_requirements import HEAD, compiled

from btf.elf_object import read_object
from fleet.compatibility.check import KernelBtf, check_object
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
