"""What an object needs of the machine: memory where it is charged, perf events, addresses of symbols."""

from __future__ import annotations

import pytest
from decide_cases import Types
from proof_objects import compile_proof

from btf.objects.elf_object import read_object
from fleet.compatibility.decide import answer
from fleet.compatibility.host_needs import host_needs
from fleet.compatibility.sources import Known
from fleet.compatibility.verdict import Requirement
from inventory.facts import Answer, Fact, Facts

CHARGES = Types({}, frozenset(), frozenset({"bpf_map_charge_init"}))
FREE = Types({}, frozenset(), frozenset({"bpf_map_memcg_enter"}))
NEED = Requirement("memlock", str(1 << 20))


def facts(**values: object) -> Facts:
    named = {name.replace("__", "."): value for name, value in values.items()}
    return Facts({name: Fact(name, Answer.YES, value) for name, value in named.items()})


def said(known: Known, need: Requirement = NEED) -> Answer:
    return answer(need, known).answer


def test_an_object_says_what_its_maps_take(tmp_path) -> None:
    needs = {
        name: host_needs(read_object(compile_proof(name, tmp_path).read_bytes())) for name in ("big_map", "raw_tp")
    }
    assert needs["raw_tp"] == ()
    assert [n.kind for n in needs["big_map"]] == ["memlock"]
    assert 100_000 * 16 <= int(needs["big_map"][0].subject) <= 100_000 * 16 + 2 * 4096


def test_our_own_programs_stream_and_one_of_them_in_pairs() -> None:
    from probes.catalogue import load_catalogue

    found = {}
    for name, program in load_catalogue().items():
        needs = host_needs(read_object(program.build("core").files["object"].read_bytes()))
        found[name] = {n.program for n in needs if n.kind == "attach"}
    assert found == {"tcp-flow": {"flow_perf"}, "net-policy": {"net_policy_in", "net_policy_out"}}


SYMBOL = Requirement("module_btf", "function_of_no_kernel", program="p")
NEW, OLD = ({"bpf_func_id": names} for names in (("BPF_FUNC_unspec", "BPF_FUNC_sock_from_file"), ("BPF_FUNC_unspec",)))


def test_a_symbol_that_may_be_absent_is_looked_for_in_modules(tmp_path) -> None:
    assert SYMBOL in host_needs(read_object(compile_proof("weak_kfunc", tmp_path).read_bytes()))


@pytest.mark.parametrize(
    ("caps", "types", "expected"),
    [
        (["bpf", "perfmon", "net_admin"], Types(NEW, frozenset(), frozenset()), Answer.BLOCKED),
        (["bpf"], Types(NEW, frozenset(), frozenset({SYMBOL.subject})), Answer.YES),
        (["bpf"], Types(OLD, frozenset(), frozenset()), Answer.YES),
        (["sys_admin"], Types(NEW, frozenset(), frozenset()), Answer.YES),
    ],
)
def test_looking_there_takes_a_right(caps: list[str], types: Types, expected: Answer) -> None:
    reason = answer(SYMBOL, Known(facts(caps__effective=caps), types))
    assert reason.answer is expected
    assert (reason.unlock is not None and reason.unlock.code == "grant-sys-admin") is (expected is Answer.BLOCKED)


def test_whoever_may_lift_the_limit_is_not_held_by_it() -> None:
    root = facts(caps__effective=["sys_resource"], memlock__hard=65536)
    assert said(Known(root, CHARGES)) is Answer.YES


def test_a_kernel_that_charges_nothing_holds_nobody() -> None:
    poor = facts(caps__effective=["bpf"], memlock__hard=65536)
    assert said(Known(poor, FREE)) is Answer.YES
    assert said(Known(poor, CHARGES)) is Answer.BLOCKED


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("5.10.0-32-cloud-amd64", Answer.BLOCKED),
        ("5.11.0", Answer.YES),
        ("6.12.1", Answer.YES),
        ("4.18.0-147.el8.x86_64", Answer.UNKNOWN),  # backported since nobody knows when
        ("odd", Answer.UNKNOWN),
    ],
)
def test_without_btf_the_version_claims_and_a_backporters_claims_nothing(release: str, expected: Answer) -> None:
    assert said(Known(facts(caps__effective=[], memlock__hard=65536, kernel__release=release))) is expected


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (-1, Answer.YES),
        (64 << 20, Answer.YES),
        (2 << 20, Answer.UNKNOWN),
        (1 << 20, Answer.UNKNOWN),
        (1, Answer.BLOCKED),
    ],
)
def test_near_the_limit_nothing_is_claimed(limit: int, expected: Answer) -> None:
    assert said(Known(facts(caps__effective=[], memlock__hard=limit), CHARGES)) is expected
    assert said(Known(facts(caps__effective=[], memlock__soft=limit), CHARGES)) is expected


def test_a_limit_too_low_names_its_change() -> None:
    known = Known(facts(caps__effective=[], memlock__hard=65536, kernel__release="5.10.0"), CHARGES)
    reason = answer(NEED, known)
    assert reason.unlock is not None
    assert reason.unlock.code == "raise-memlock"


@pytest.mark.parametrize(
    ("restrict", "paranoid", "caps", "expected"),
    [
        (0, 1, [], Answer.YES),
        (0, 3, [], Answer.BLOCKED),
        (0, 3, ["syslog"], Answer.YES),
        (1, 1, [], Answer.BLOCKED),
        (1, 2, ["syslog"], Answer.YES),
        (2, 0, ["syslog"], Answer.BLOCKED),
    ],
)
def test_addresses_are_shown_by_the_kernels_rule(restrict: int, paranoid: int, caps: list, expected: Answer) -> None:
    named = {"sysctl.kernel.kptr_restrict": restrict, "sysctl.kernel.perf_event_paranoid": paranoid}
    rows = {**{n: Fact(n, Answer.YES, v) for n, v in named.items()}, **facts(caps__effective=caps).by_name}
    reason = answer(Requirement("kallsyms", "addresses"), Known(Facts(rows)))
    assert reason.answer is expected
    assert (reason.unlock is not None) == (expected is Answer.BLOCKED)
    assert answer(Requirement("kallsyms", "addresses"), Known()).answer is Answer.UNKNOWN
