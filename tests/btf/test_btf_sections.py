"""What a section's name says, judged by libbpf: every row of ours that it knows, and names it refuses."""

from __future__ import annotations

import ctypes

import pytest

from btf.objects.sections import SECTIONS, section_meaning
from btf.objects.uapi import ATTACH_TYPES, HELPERS, MAP_TYPES, PROGRAM_TYPES

# Rows newer than the libbpf at hand (1.1.2); those that it knows must not be listed here.
NEWER = {
    "kprobe.session+", "uprobe.multi+", "uprobe.multi.s+", "uretprobe.multi+", "uretprobe.multi.s+", "uprobe.session+",
    "uprobe.session.s+", "usdt.s+", "tc/ingress", "tc/egress", "tcx/ingress", "tcx/egress", "netkit/primary",
    "netkit/peer", "sk_skb/verdict", "struct_ops.s+", "netfilter", "cgroup/connect_unix", "cgroup/sendmsg_unix",
    "cgroup/recvmsg_unix", "cgroup/getpeername_unix", "cgroup/getsockname_unix", "fsession+", "fsession.s+",
}  # fmt: skip


def _libbpf(name: str) -> tuple[str, str] | None:
    lib = ctypes.CDLL("libbpf.so.1")
    silent = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: 0)
    lib.libbpf_set_print(silent)
    program, attach = ctypes.c_int(), ctypes.c_int()
    if lib.libbpf_prog_type_by_name(name.encode(), ctypes.byref(program), ctypes.byref(attach)) != 0:
        return None
    return PROGRAM_TYPES[program.value], ATTACH_TYPES[attach.value]


@pytest.mark.parametrize("row", SECTIONS, ids=lambda row: row.name)
def test_row_as_libbpf_has_it(row) -> None:
    name = row.name[:-1] + "/some_target" if row.name.endswith("+") else row.name
    theirs = _libbpf(name)
    assert (theirs is None) == (row.name in NEWER) == (row.since > (1, 1))
    if theirs is not None:
        program, attach = theirs
        assert program == row.program_type
        assert attach == (row.attach_type or ATTACH_TYPES[0])
    assert row.program_type in PROGRAM_TYPES and (not row.attach_type or row.attach_type in ATTACH_TYPES)


@pytest.mark.parametrize("name", ["xdp/eth0", "tracepointy", "kprobes/x", "", "?", "classifier/x", "socket1"])
def test_other_names_say_nothing_to_either(name) -> None:
    assert section_meaning(name).program_type == "unspec"
    assert _libbpf(name) is None


def test_optional_and_target() -> None:
    meaning = section_meaning("?kprobe/tcp_v4_connect+8")
    assert (meaning.optional, meaning.kind, meaning.target) == (True, "kprobe", "tcp_v4_connect+8")
    assert section_meaning("tracepoint").target == ""


@pytest.mark.parametrize(
    ("enum", "prefix", "names"),
    [
        ("bpf_prog_type", "BPF_PROG_TYPE_", PROGRAM_TYPES),
        ("bpf_map_type", "BPF_MAP_TYPE_", MAP_TYPES),
        ("bpf_attach_type", "BPF_", ATTACH_TYPES),
        ("bpf_func_id", "BPF_FUNC_", HELPERS),
    ],
)
def test_names_are_the_kernels(vmlinux, enum, prefix, names) -> None:
    kernel = {n.removeprefix(prefix).lower(): v for n, v in vmlinux.enum_values(enum).items() if "MAX" not in n}
    known = {name: number for number, name in enumerate(names) if number <= max(kernel.values())}
    assert kernel.items() >= known.items() and len(known) > 30
