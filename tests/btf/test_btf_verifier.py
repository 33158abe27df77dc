"""Never call live code dead: programs at random, each with poison in it, against the running kernel's verifier."""

from __future__ import annotations

from random import Random

import pytest
from judged import KERNELS
from raw_programs import poisoned_calls, poisoned_program, refusal

from btf.core.patch import POISON
from btf.format.parse import parse_btf
from btf.objects.insn import EXIT, Insn
from btf.objects.object import BpfFunction, BpfObject, BpfProgram, Call
from btf.objects.sections import section_meaning
from btf.reach.known import U32, Bounds, narrowed
from btf.reach.memory import Given, Memory
from btf.reach.reach import Walk
from btf.reach.verifier import EVERY, SIGNS, Ability, abilities


def _alive(insns, poison, able, target, calls=(), begin=None) -> bool:
    """Whether both passes find the poison alive; a function that is called begins at instruction *begin*."""
    own = [Call(8 * at, ("socket", 8 * begin)) for at in calls]
    called = [BpfFunction("q", "socket", 8 * begin, tuple(insns[begin:]))] if calls else []
    program = BpfProgram(
        BpfFunction("p", "socket", 0, tuple(insns[:begin]), calls=tuple(own)), section_meaning("socket"), tuple(called)
    )
    obj = BpfObject(
        sha256="", big_endian=False, license="GPL", functions=program.functions, programs=(program,), maps=(),
        data=(), externs=(), btf=None, function_info=(), lines=(), relocations=(),
        by_start={(f.section, f.start): f for f in program.functions},
    )  # fmt: skip
    memory = Memory(obj, target, Given(able=able))
    walks = (Walk(obj, program, {}, memory, apart=apart) for apart in (False, True))
    return all(("socket", 8 * poison) in walk.alive for walk in walks)


@pytest.mark.kernel
def test_poison_the_kernel_reaches_is_never_called_dead(vmlinux) -> None:
    able, random = abilities(vmlinux), Random(20)
    seen = dict.fromkeys([(alive, reached) for alive in (False, True) for reached in (False, True)], 0)
    for _ in range(4000):
        insns, poison = poisoned_program(random)
        words = refusal(insns)
        assert words is None or "195896080" in words, words
        seen[_alive(insns, poison, able, vmlinux), words is not None] += 1
    # What we call alive, the kernel may know to be dead: it follows bounds further than we do. Seldom.
    assert seen[False, True] == 0
    assert seen[True, True] > 800 and seen[False, False] > 800 and seen[True, False] < 200, seen


@pytest.mark.kernel
def test_poison_behind_a_call_is_never_called_dead_either(vmlinux) -> None:
    able, random = abilities(vmlinux), Random(21)
    seen = dict.fromkeys([(alive, reached) for alive in (False, True) for reached in (False, True)], 0)
    for _ in range(3000):
        insns, calls, begin = poisoned_calls(random)
        words = refusal(insns)
        if words is None or "195896080" in words:  # some jump past their end, or return an address
            seen[_alive(insns, insns.index(POISON), able, vmlinux, calls, begin), words is not None] += 1
    assert seen[False, True] == 0
    assert seen[True, True] > 500 and seen[False, False] > 300 and seen[True, False] < 100, seen


def test_an_older_verifier_looks_at_no_less(vmlinux) -> None:
    random = Random(4)
    for _ in range(1000):
        insns, poison = poisoned_program(random)
        chosen = frozenset(a for a in Ability if random.random() < 0.5)
        assert _alive(insns, poison, chosen, vmlinux) or not _alive(insns, poison, EVERY, vmlinux)


def test_a_test_of_bits_may_forget_the_lower_bound() -> None:
    # Heard from the verifier of v6.18: 0xffff … 0xffffffff, once its bit 16 is known to be 0, is 0 … 0xfffeffff.
    taken, passed = narrowed(Insn(0x46, 0, 0, 11, 65536), Bounds(0xFFFF, U32), 65536, EVERY)
    assert taken == passed == Bounds(0, U32)


def test_every_ability_has_its_sign(vmlinux) -> None:
    assert set(SIGNS) == EVERY
    assert abilities(vmlinux) <= EVERY


@pytest.mark.kernel
def test_this_kernel_is_told_by_its_btf(vmlinux) -> None:
    assert abilities(vmlinux) == EVERY, "the running kernel is newer than all of them"


IN_5_10 = {Ability.COMPARE, Ability.SPILL, Ability.COMPARE_REGISTERS, Ability.FROZEN, Ability.XOR}


@pytest.mark.parametrize(
    ("kernel", "able"),
    [
        ("bclinux 4.19 x86_64", set()),  # with helpers of 5.5
        ("kylin 4.19 aarch64", {Ability.COMPARE, Ability.SPILL, Ability.COMPARE_REGISTERS}),  # with helpers of 5.9
        ("debian 5.10 amd64", IN_5_10),
        ("debian 6.1 amd64", IN_5_10 | {Ability.SHORT_SPILL}),
        ("debian 6.12 amd64", EVERY - {Ability.WEAK_FUNCTION, Ability.NEGATE}),
        ("debian sid amd64", EVERY),
    ],
)
def test_other_kernels_are_told_by_their_btf(kernel, able) -> None:
    assert abilities(parse_btf(KERNELS[kernel]())) == able


@pytest.mark.kernel
def test_a_slot_that_is_overwritten_in_part_is_forgotten(vmlinux) -> None:
    insns = [
        Insn(0xB7, 0, 0, 0, 7),
        Insn(0x6B, 10, 0, -8, 0),  # *(u16 *)(r10 - 8) = r0
        Insn(0x73, 10, 0, -4, 0),  # *(u8 *)(r10 - 4) = r0
        Insn(0x69, 4, 10, -8, 0),
        Insn(0x15, 4, 0, 1, 7),
        POISON,
        Insn(0xB7, 0, 0, 0, 0),
        Insn(EXIT, 0, 0, 0, 0),
    ]
    assert "195896080" in (refusal(insns) or "")
    assert _alive(insns, 5, abilities(vmlinux), vmlinux)
