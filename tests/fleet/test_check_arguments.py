"""A program that takes an argument its hook does not hand over is refused, unless dead code takes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_requirements import HEAD, compiled

from btf.format.parse import parse_btf
from btf.objects.elf_object import read_object
from fleet.compatibility.check import KernelBtf, check_object, warnings
from fleet.compatibility.verdict import Verdict
from inventory.facts import Answer

KERNEL = """
typedef void (*btf_trace_event)(void *, int, long); btf_trace_event t;
enum bpf_prog_type { BPF_PROG_TYPE_UNSPEC, BPF_PROG_TYPE_RAW_TRACEPOINT = 17, BPF_PROG_TYPE_TRACING = 26 } b;
enum bpf_attach_type { BPF_TRACE_RAW_TP = 23 } c;
"""
TAKES = 'SEC("{section}/event") int p(unsigned long long *ctx) {{ return ctx[{argument}] == 7; }}'
CHOOSES = """
extern int LINUX_KERNEL_VERSION __kconfig;
SEC("tp_btf/sched_switch") int p(unsigned long long *ctx) {
    if (LINUX_KERNEL_VERSION >= (5 << 16 | 18 << 8))
        return ctx[3] == 7;
    return ctx[5] > bpf_ktime_get_ns();
}
"""


def checked(tmp_path, source: str, release: str | None = None):
    obj = read_object(compiled(tmp_path, HEAD + source))
    kernel_btf = read_object(compiled(tmp_path, KERNEL)).btf
    assert kernel_btf is not None
    return check_object("x", obj, KernelBtf(kernel_btf, "0" * 64, release))


def answers(check) -> dict[str, tuple[Answer, str]]:
    rows = [r for p in check.programs for r in p.reasons if r.requirement.kind == "argument"]
    return {r.requirement.subject.rpartition(":")[2]: (r.answer, r.code) for r in rows}


@pytest.mark.parametrize("section", ["tp_btf", "raw_tp"])
def test_an_argument_too_many_refuses(tmp_path, section) -> None:
    last = checked(tmp_path, TAKES.format(section=section, argument=1))
    assert answers(last)["1"][0] is Answer.YES
    past = checked(tmp_path, TAKES.format(section=section, argument=2))
    assert answers(past) == {"2": (Answer.NO, "argument-absent")}
    assert past.verdict is Verdict.REFUSED
    assert warnings(past) == ()  # said once, as a reason


@pytest.mark.parametrize(
    ("release", "answer"),
    [("6.18.44", (Answer.YES, "argument-guarded")), ("5.10.0", (Answer.NO, "argument-absent")), (None, Answer.UNKNOWN)],
)
def test_the_version_chooses_the_argument(tmp_path, release, answer) -> None:
    """On the running kernel, whose sched_switch has four arguments and whose verifier follows a kernel's version."""
    running = parse_btf(Path("/sys/kernel/btf/vmlinux").read_bytes())
    obj = read_object(compiled(tmp_path, HEAD + CHOOSES))
    found = answers(check_object("x", obj, KernelBtf(running, "0" * 64, release)))
    assert found["3"][0] is Answer.YES
    assert found["5"] == answer or found["5"][0] is answer


def test_an_argument_whose_number_nobody_knows_is_none(tmp_path) -> None:
    text = 'SEC("raw_tp/event") int p(unsigned long long *ctx) { return ctx[1 + (bpf_ktime_get_ns() & 1)] == 7; }'
    assert answers(checked(tmp_path, text)) == {}
