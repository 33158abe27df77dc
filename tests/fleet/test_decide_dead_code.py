"""Decisions for hosts spare dead code as ``check`` does, and know the host's release when they look for it."""

from __future__ import annotations

from typing import Any

import pytest
from decide_cases import facts, program
from test_check_dead_code import BOTH, GUARDED, KERNEL, UNGUARDED
from test_requirements import HEAD, compiled

from btf.objects.elf_object import read_object
from fleet.compatibility.choose import Kernels, Material, choose
from fleet.compatibility.loaded import load
from fleet.compatibility.requirements import infer
from fleet.compatibility.verdict import Assessment, Evidence, Reason, Verdict
from inventory.facts import Answer

BY_VERSION = """
extern int LINUX_KERNEL_VERSION __kconfig;
SEC("xdp") int p(void *c) {
    return LINUX_KERNEL_VERSION >= 0x050f00 ? bpf_ktime_get_boot_ns() & 1 : bpf_ktime_get_ns() & 1;
}
"""
# The signs of a verifier of 5.10: it reads constant memory, and follows the constant to the comparison.
ABLE = f"""{KERNEL}
struct bpf_func_info_aux {{ short linkage; }} d; struct bpf_reg_state {{ int precise; }} e;
struct bpf_prog_aux {{ int dst_trampoline; }} f;
"""
DENIED = {"answer": "blocked", "errno": "EPERM"}


def decided(tmp_path: Any, source: str, release: str = "6.1.0") -> Assessment:
    """Return what a host gets whose kernel has no ``ktime_get_boot_ns``, or denies it."""
    obj = read_object(compiled(tmp_path, HEAD + source))
    btf = read_object(compiled(tmp_path, ABLE)).btf
    seen = facts(
        {
            "kernel.release": {"answer": "yes", "value": release},
            "bpf.prog.xdp": {"answer": "yes"},
            "bpf.feature.global_data": {"answer": "yes"},
            "bpf.helper.xdp.ktime_get_ns": {"answer": "yes"},
            "bpf.helper.xdp.ktime_get_boot_ns": DENIED,
        }
    )
    material = Material("sha256:x", infer(obj), lambda types, told: load(obj, types, told))
    choice = choose("web-1", program(), seen, {"core": material}, Kernels(lambda _id: btf))
    return choice.assessments[0]


def boot_ns(found: Assessment) -> Reason:
    return next(r for r in found.reasons if r.requirement.subject == "ktime_get_boot_ns")


@pytest.mark.parametrize(
    ("source", "answer"), [(GUARDED, Answer.YES), (UNGUARDED, Answer.BLOCKED), (BOTH, Answer.BLOCKED)],
    ids=["guarded", "not guarded", "guarded once"],
)  # fmt: skip
def test_a_denied_helper_that_only_dead_code_calls_is_not_needed(tmp_path, source, answer) -> None:
    found = decided(tmp_path, source)
    reason = boot_ns(found)
    assert reason.answer is answer
    if answer is Answer.YES:
        assert (reason.code, reason.evidence, reason.unlock) == ("helper-guarded", Evidence.DERIVED, None)
    assert (found.verdict is Verdict.BLOCKED) == (answer is Answer.BLOCKED)


@pytest.mark.parametrize(("release", "answer"), [("5.10.0-32-amd64", Answer.YES), ("6.1.0", Answer.BLOCKED)])
def test_a_guard_that_asks_for_the_version_counts_on_a_host(tmp_path, release, answer) -> None:
    assert boot_ns(decided(tmp_path, BY_VERSION, release)).answer is answer


def test_hosts_of_one_build_cost_one_look(tmp_path) -> None:
    btf = read_object(compiled(tmp_path, KERNEL)).btf
    obj = read_object(compiled(tmp_path, HEAD + GUARDED))
    looks: list[str] = []

    def counted(types: Any, release: str) -> Any:
        looks.append(release)
        return load(obj, types, release)

    material, kernels = Material("sha256:x", infer(obj), counted), Kernels(lambda _id: btf)
    for number in range(3):
        choose(f"web-{number}", program(), facts(), {"core": material}, kernels)
    assert len(looks) == 1


# A program that the object itself calls optional, and its twin that is not: what it reads is nowhere.
MISSING = """
struct missing { int a; } __attribute__((preserve_access_index));
SEC("xdp") int p(void *c) { return bpf_ktime_get_ns() & 1; }
SEC("%s") int other(struct missing *m) { return m->a; }
"""


@pytest.mark.parametrize(("section", "verdict"), [("?xdp", Verdict.DEGRADED), ("xdp", Verdict.REFUSED)])
def test_a_program_the_object_calls_optional_may_miss_a_field(tmp_path, section, verdict) -> None:
    found = decided(tmp_path, MISSING % section)
    assert found.verdict is verdict
    lost = next(r for r in found.reasons if r.requirement.kind == "relocation" and r.requirement.program == "other")
    assert lost.requirement.optional == (verdict is Verdict.DEGRADED)
