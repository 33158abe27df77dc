"""What is called dead code is dead to the kernel: it loads programs with poison there, and refuses poison elsewhere."""

from __future__ import annotations

import re

import pytest
from judged import tools_objects
from libbpf_truth import ask_libbpf, write_btf
from reach_cases import CASES, KERNEL, LOCAL, READ
from rules import HEAD

from btf.core.relocate import relocate
from btf.format.parse import parse_btf
from btf.objects.elf_object import read_object
from btf.objects.flow import has_loop
from btf.objects.insn import EXIT, JA, LD_IMM64, Insn
from btf.reach.memory import Given
from btf.reach.verifier import EVERY, Ability, abilities


@pytest.mark.kernel
@pytest.mark.parametrize("cpu", ["v1", "v2", "v3"])
@pytest.mark.parametrize("case", CASES, ids=lambda name: name.replace(" ", "-"))
def test_the_kernel_agrees(compile_bpf, btf_bytes, vmlinux, tmp_path, case, cpu) -> None:
    asked = CASES[case]
    slug = re.sub(r"\W", "_", case)
    raw = btf_bytes("reach_kernel.c", text=KERNEL)
    path = compile_bpf(f"{slug}.bpf.c", cpu=cpu, text=HEAD + LOCAL + asked.before + f"PROG({asked.body})")
    # The types are made up, the verifier is the running one.
    given = Given(able=abilities(vmlinux), **asked.given)
    results = relocate(read_object(path.read_bytes()), parse_btf(raw), given)
    assert any(r.outcome == "poisoned" for r in results)
    guarded = all(r.guarded for r in results if r.outcome == "poisoned")
    truth = ask_libbpf(path, write_btf(tmp_path / "kernel.btf", raw), asked.kconfig)
    assert (truth.loaded is None) == asked.loads, truth.log[-30:]
    assert guarded == (asked.loads and not asked.cautious)
    if guarded:
        assert all(r.guard for r in results if r.outcome == "poisoned")


@pytest.mark.kernel
def test_real_objects_load_here_as_foretold(compile_bpf, vmlinux) -> None:
    path = compile_bpf("tracing.bpf.c")
    results = relocate(read_object(path.read_bytes()), vmlinux)
    assert all(r.guarded for r in results if r.outcome == "poisoned" and r.program != "never")
    assert ask_libbpf(path, None).loaded is None


@pytest.mark.kernel
def test_the_tools_of_libbpf_load_here_as_foretold(vmlinux, tmp_path) -> None:
    """What is refused for its poison has poison alive, what loads has none; lockdown and lost hooks hinder the rest."""
    judged = {"loads": 0, "poison": 0, "hindered": 0}
    for name, path in tools_objects(tmp_path).items():
        alive = [o for o in relocate(read_object(path.read_bytes()), vmlinux) if o.reached_by]
        truth = ask_libbpf(path, None)
        poison = any("failed to resolve CO-RE relocation" in line for line in truth.log)
        word = "loads" if truth.loaded is None else "poison" if poison else "hindered"
        judged[word] += 1
        if word != "hindered":
            assert bool(alive) == poison, (name, alive)
    assert judged["loads"] > 20 and judged["poison"] >= 1, judged


def test_a_loop_is_a_way_back() -> None:
    stay, leave = Insn(0xB7, 0, 0, 0, 0), Insn(EXIT, 0, 0, 0, 0)
    wide = [Insn(LD_IMM64, 1, 0, 0, 1), Insn(0, 0, 0, 0, 0)]
    maybe_back = Insn(0x15, 1, 0, -3, 0)
    assert not has_loop([stay, leave])
    assert has_loop([stay, stay, maybe_back, leave])
    assert has_loop([*wide, stay, Insn(JA, 0, 0, -4, 0)])
    # Jumping back is no loop when nothing leads on to the jump again.
    assert not has_loop([Insn(JA, 0, 0, 2, 0), stay, leave, Insn(JA, 0, 0, -3, 0)])
    assert not has_loop([Insn(JA, 0, 0, 100, 0), leave])


def _all_guarded(compile_bpf, btf_bytes, name: str, given: Given, *, big: bool = False) -> bool:
    asked = CASES[name]
    text = HEAD + LOCAL + asked.before + f"PROG({asked.body})"
    slug = re.sub(r"\W", "_", name)
    path = compile_bpf(f"{slug}_told.bpf.c", text=text, big=big)
    target = parse_btf(btf_bytes("reach_kernel.c", text=KERNEL, big=big))
    results = relocate(read_object(path.read_bytes()), target, given)
    return all(r.guarded for r in results if r.outcome == "poisoned")


@pytest.mark.parametrize(
    ("case", "constants", "guarded"),
    [
        ("a constant that is off", {}, True),
        ("a constant that is off", {"use": 1}, False),
        ("a constant that is on", {"use": 0}, True),
        ("a wide constant", {"wide": -1}, False),
        ("a wide constant that is small", {"wide": b"\0\0\0\0\1\0\0\0"}, True),
        ("a byte of a table", {"table": b"\0\1"}, False),
        ("this kernel", {"LINUX_KERNEL_VERSION": 0x040000}, True),
    ],
)
def test_what_a_loader_sets_counts(compile_bpf, btf_bytes, case, constants, guarded) -> None:
    assert _all_guarded(compile_bpf, btf_bytes, case, Given(constants=constants, able=EVERY)) == guarded


@pytest.mark.parametrize(
    "case",
    [
        "a guard",
        "no guard",
        "a wide constant",
        "a wide constant that is small",
        "a byte of a table",
        "a negative constant",
        "a member of a constant",
        "a word on the stack",
        "a long on the stack that allows it",
        "an option's number",
    ],
)
def test_the_other_byte_order_says_the_same(compile_bpf, btf_bytes, case) -> None:
    asked = CASES[case]
    assert _all_guarded(compile_bpf, btf_bytes, case, Given(able=EVERY, **asked.given), big=True) == asked.loads


@pytest.mark.parametrize(
    ("case", "needed"),
    [
        ("a guard on a size", Ability.COMPARE),
        ("a constant that is off", Ability.FROZEN),
        ("an inverted flag", Ability.XOR),
        ("a long on the stack", Ability.SPILL),
        ("a negated flag", Ability.NEGATE),
        ("a global function that only dead code calls", Ability.LAZY_GLOBALS),
        ("without a kernel function that is there", Ability.WEAK_FUNCTION),
        ("a guard", None),
    ],
)
def test_what_a_verifier_does_not_follow_guards_nothing(compile_bpf, btf_bytes, case, needed) -> None:
    able = EVERY - {needed}
    assert _all_guarded(compile_bpf, btf_bytes, case, Given(able=EVERY, **CASES[case].given))
    assert _all_guarded(compile_bpf, btf_bytes, case, Given(able=able, **CASES[case].given)) == (needed is None)


GUARDS = """
SEC("raw_tp/sched_switch") int prog(u64 *ctx)
{
    struct t *t = (void *)ctx[0];
    int v = 3;

    if (bpf_core_field_exists(t->gone)) // field
        bpf_core_read(&v, 4, &t->gone);
    if (!bpf_core_type_exists(struct none)) // type
        return v;
    return bpf_core_read(&v, 4, &t->gone);
}
"""


def test_the_guard_is_named_with_its_line_and_what_it_asked(compile_bpf, btf_bytes) -> None:
    path = compile_bpf("reach_guards.bpf.c", text=HEAD + LOCAL + GUARDS)
    obj = read_object(path.read_bytes())
    results = relocate(obj, parse_btf(btf_bytes("reach_kernel.c", text=KERNEL)))
    guards = [r.guard for r in results if r.outcome == "poisoned"]
    assert [(g.kind, g.local) for g in guards] == [("field_exists", "t.gone"), ("type_exists", "struct none")]
    lines = [obj.line_at(g.section, g.insn) for g in guards]
    assert [line.text.partition("// ")[2] for line in lines] == ["field", "type"]


@pytest.mark.parametrize("able", [EVERY - {Ability.COMPARE_RANGES}, EVERY], ids=["of Linux 6.1", "a newer one"])
@pytest.mark.parametrize(
    ("asked", "release", "guarded"),
    [
        (">= 0x060100", "5.10.0-32", True),
        (">= 0x060100", "6.1.0-50", False),
        ("< 0x060100", "6.1.0-50", True),  # whatever the last number
        (">= 0x06010a", "6.1.0-50", False),  # Debian has it elsewhere
        ("== 0x06010a", "6.1.0-50", False),
        ("== 0x060200", "6.1.0-50", True),
        ("< 0x060100", "", False),
    ],
)
def test_every_version_that_a_release_may_mean(compile_bpf, btf_bytes, able, asked, release, guarded) -> None:
    """A load has the version as a constant, which every verifier follows; a release says it but for the last number."""
    before = "extern int LINUX_KERNEL_VERSION __kconfig;\n"
    text = HEAD + LOCAL + before + f"PROG(if (LINUX_KERNEL_VERSION {asked}) {READ})"
    path = compile_bpf(re.sub(r"\W", "_", asked) + ".bpf.c", text=text)
    target = parse_btf(btf_bytes("reach_kernel.c", text=KERNEL))
    results = relocate(read_object(path.read_bytes()), target, Given(release=release, able=able))
    assert [r.guarded for r in results if r.outcome == "poisoned"] == [guarded]
