"""What programs are attached to: every way to attach, and what BTF, kconfig and the kernel's symbols say of it."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from decide_cases import Types

from btf.format.parse import parse_btf
from fleet.compatibility.check import KernelBtf
from fleet.compatibility.decide import answer
from fleet.compatibility.sources import Known
from fleet.compatibility.symbols import Symbols, parse_symbols
from fleet.compatibility.verdict import Requirement
from inventory.facts import SCHEMA, Answer, parse_facts

KALLSYMS = """\
0000000000000000 T vfs_read
0000000000000000 t tcp_ack
0000000000000000 t tcp_ack.constprop.0
0000000000000000 t tcp_ack.cold
0000000000000000 t tcp_ack.cold.27
0000000000000000 t update_curr.isra.0
0000000000000000 t split.part.0.isra.0
0000000000000000 D some_data
0000000000000000 t nf_confirm\t[nf_conntrack]
not a line of this kind at all
0000000000000000 t ext4_map\t[ext4]
"""
FUNCTIONS = frozenset({"vfs_read", "tcp_ack", "bpf_lsm_file_open", "bpf_iter_task", "bpf_kfunc_a", "not_one"})


def known(*, symbols: str = "", functions: frozenset[str] = FUNCTIONS, kconfig: dict[str, str] | None = None) -> Known:
    facts = {} if kconfig is None else {"kconfig": {"answer": "yes", "value": {"CONFIG_BPF": "y", **kconfig}}}
    read = parse_symbols(symbols.splitlines()) if symbols else None
    return Known(
        parse_facts(json.dumps({"schema": SCHEMA, "collected_at": 1, "facts": facts}).encode()),
        Types({}, frozenset(), functions, frozenset({"bpf_kfunc_a"})),
        symbols=lambda: read,
    )


NO_MODULES = {"CONFIG_MODULES": "n"}
NO_MODULE_BTF = {"CONFIG_MODULES": "y", "CONFIG_DEBUG_INFO_BTF_MODULES": "n"}
CASES = [
    # subject, way, symbols?, kconfig, answer, words
    ("vfs_read", "kprobe", False, None, "yes", "BTF has the function"),
    ("vfs_read", "kprobe", True, None, "yes", "it is there"),
    ("vfs_gone", "kprobe", False, None, "unknown", "nothing known"),
    ("vfs_gone", "kprobe", False, NO_MODULES, "unknown", "nothing known"),  # it may be static or inlined
    ("vfs_gone", "kprobe", True, None, "unknown", "in a module not loaded"),
    ("vfs_gone", "kprobe", True, NO_MODULES, "no", "which has no modules"),
    ("update_curr", "kprobe", True, None, "no", "only as update_curr.isra.0 (with other arguments)"),
    ("split", "kprobe_multi", True, None, "no", "only as split.part.0.isra.0"),
    ("nf_confirm", "kprobe", True, None, "yes", "in module nf_conntrack"),
    ("vfs_read", "fentry", True, None, "yes", "it is there"),
    ("nf_confirm", "fentry", True, None, "unknown", "nothing known"),  # its signature is in the module's BTF
    ("vfs_gone", "fentry", False, None, "unknown", "nothing known"),
    ("vfs_gone", "fentry", False, NO_MODULES, "no", "has no modules"),
    ("vfs_gone", "fentry", False, NO_MODULE_BTF, "no", "BTF of modules"),
    ("bpf_lsm_file_open", "lsm", True, None, "yes", "LSM hook file_open"),
    ("bpf_lsm_gone", "lsm", False, None, "no", "has LSM hooks, but no gone"),
    ("bpf_iter_task", "iter", False, None, "yes", "iterator task"),
    ("bpf_iter_gone", "iter", False, None, "no", "has iterators, but no gone"),
]  # fmt: skip


@pytest.mark.parametrize(("subject", "way", "symbols", "kconfig", "said", "words"), CASES)
def test_functions(subject, way, symbols, kconfig, said, words) -> None:
    reason = answer(
        Requirement("function", subject, context=way), known(symbols=KALLSYMS if symbols else "", kconfig=kconfig)
    )
    assert (reason.answer.value, words in reason.detail) == (said, True), reason.detail
    if said != "unknown":
        assert reason.source in ("kallsyms", "btf:FUNC")
        assert reason.evidence.value == ("probed" if reason.source == "kallsyms" else "derived")


def test_where_no_hook_of_a_family_is_seen_none_is_said_to_be_absent() -> None:
    plain = known(functions=frozenset({"vfs_read"}))
    for name, way in (("bpf_lsm_file_open", "lsm"), ("bpf_iter_task", "iter")):
        assert answer(Requirement("function", name, context=way), plain).answer is Answer.UNKNOWN


def test_functions_of_modules_whose_btf_is_at_hand() -> None:
    base = parse_btf(Path("/sys/kernel/btf/vmlinux").read_bytes())
    types = struct.pack("<III", 0, 13 << 24, 0) + struct.pack("<III", base.string_end, 12 << 24, len(base))
    strings = b"my_function\0"  # FUNC_PROTO and FUNC of it, on top of the kernel's
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    kernel = KernelBtf(base, "0" * 64, modules={"my_mod": parse_btf(head + types + strings, base=base)})
    assert kernel.functions_of_modules() == {"my_function": "my_mod"}
    with_module = replace(known(), modules=kernel.functions_of_modules)
    for kind, way in (("function", "kprobe"), ("function", "fentry"), ("kfunc", "")):
        reason = answer(Requirement(kind, "my_function", context=way), with_module)
        assert reason.answer is Answer.YES and "module my_mod" in reason.detail and reason.source == "btf:my_mod"
    assert answer(Requirement("function", "my_function", context="kprobe"), known()).answer is Answer.UNKNOWN


@pytest.mark.parametrize(("name", "said"), [("bpf_kfunc_a", "yes"), ("not_one", "no"), ("in_a_module", "unknown")])
def test_kfuncs_by_their_tag(name, said) -> None:
    assert answer(Requirement("kfunc", name), known()).answer.value == said


def test_a_function_without_signature_takes_a_kprobe_and_no_fentry() -> None:
    here = known(symbols=KALLSYMS, functions=frozenset({"tcp_ack"}))
    assert answer(Requirement("function", "vfs_read", context="kprobe"), here).answer is Answer.YES
    reason = answer(Requirement("function", "vfs_read", context="fentry"), here)
    assert reason.answer is Answer.NO and "a kprobe attaches" in reason.detail


def test_symbols_are_read_from_any_list() -> None:
    names = parse_symbols(["tcp_ack\n", "nf_confirm [nf_conntrack]\n", "split.part.0\n"])  # available_filter_functions
    assert names.functions == {"tcp_ack", "nf_confirm"} and names.modules == {"nf_confirm": "nf_conntrack"}
    assert names.copies == {"split": ("split.part.0",)}
    read = parse_symbols(KALLSYMS.splitlines())
    assert "some_data" not in read.functions and "tcp_ack.cold" not in str(read.copies)
    assert parse_symbols(["\0", "", "a b c d", "x" * 10_000_000]) == Symbols(frozenset({"x" * 10_000_000}))


def test_the_running_kernel_names_its_functions() -> None:
    with Path("/proc/kallsyms").open() as file:
        read = parse_symbols(file)
    assert {"vfs_read", "do_sys_open"} & read.functions and len(read.functions) > 10_000
    assert any(".isra." in copy for row in read.copies.values() for copy in row)


def test_what_needs_the_kernels_own_btf_is_named() -> None:
    facts = {"btf.vmlinux": {"answer": "no", "source": "/sys/kernel/btf/vmlinux"}}
    here = Known(
        parse_facts(json.dumps({"schema": SCHEMA, "collected_at": 1, "facts": facts}).encode()), external_btf=True
    )
    reason = answer(Requirement("btf", "vmlinux", context="fentry"), here)
    assert reason.answer is not Answer.YES and "fentry looks there, external BTF does not serve it" in reason.detail


@pytest.mark.parametrize(("kconfig", "said"), [(None, "unknown"), (NO_MODULES, "no")])
def test_struct_ops_by_the_struct_of_their_maps(kconfig, said) -> None:
    here = known(kconfig=kconfig)
    assert answer(Requirement("struct_ops", "gone_ops"), here).answer.value == said
    has = replace(here, btf=Types({}, frozenset({"bpf_struct_ops_tcp_congestion_ops"}), FUNCTIONS))
    assert answer(Requirement("struct_ops", "tcp_congestion_ops"), has).answer is Answer.YES


def test_a_syscalls_tracepoint_by_the_code_that_traces_it() -> None:
    need = Requirement("tracepoint", "syscalls:sys_enter_openat")
    functions = frozenset({"__x64_sys_openat"})
    traced, plain = (Known(btf=Types({}, frozenset(names), functions)) for names in (("syscall_tp_t",), ()))
    assert answer(need, traced).answer is Answer.YES and answer(need, plain).answer is Answer.UNKNOWN
    assert answer(Requirement("tracepoint", "syscalls:sys_enter_gone"), traced).answer is Answer.UNKNOWN


@pytest.mark.parametrize(
    ("kind", "subject", "kconfig", "said"),
    [
        ("raw_tracepoint", "sched_switch", None, "yes"),
        ("raw_tracepoint", "gone", None, "unknown"),  # a module may have it
        ("raw_tracepoint", "gone", NO_MODULES, "no"),
        ("tracepoint", "sched:gone", None, "no"),
        ("tracepoint", "xfs:gone", None, "unknown"),
        ("tracepoint", "xfs:gone", NO_MODULES, "no"),
    ],
)
def test_tracepoints_by_their_typedef(kind, subject, kconfig, said) -> None:
    here = replace(known(kconfig=kconfig), btf=Types({}, frozenset({"btf_trace_sched_switch"}), FUNCTIONS))
    assert answer(Requirement(kind, subject), here).answer.value == said
