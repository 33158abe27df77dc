from __future__ import annotations

import pytest

from btf.objects.elf_object import read_object
from fleet.compatibility.declared import RequirementKindUnknown, RequirementUndeclared, compare_declared
from fleet.compatibility.requirements import infer
from fleet.compatibility.verdict import Requirement
from probes.catalogue import Program, load_catalogue

NEEDS = (
    Requirement("map_type", "hash"),
    Requirement("map_type", "lpm_trie"),
    Requirement("helper", "ktime_get_ns", context="tracepoint"),
)


def test_a_full_declaration_is_silent() -> None:
    assert compare_declared("p", {"map_type": ["lpm_trie", "hash"]}, NEEDS) == ()


def test_needed_but_not_declared_is_a_fault_naming_it() -> None:
    with pytest.raises(RequirementUndeclared, match="lpm_trie"):
        compare_declared("p", {"map_type": ["hash"]}, NEEDS)


def test_declared_but_not_needed_is_a_warning_naming_it() -> None:
    warnings = compare_declared("p", {"map_type": ["hash", "lpm_trie", "ringbuf"]}, NEEDS)
    assert len(warnings) == 1
    assert "ringbuf" in warnings[0]


def test_an_unknown_kind_suggests_the_near_one() -> None:
    with pytest.raises(RequirementKindUnknown, match="map_type"):
        compare_declared("p", {"map_types": ["hash"]}, NEEDS)


def test_kinds_not_declared_are_not_compared() -> None:
    assert compare_declared("p", {}, NEEDS) == ()


@pytest.mark.parametrize("program", load_catalogue().values(), ids=lambda p: p.name)
def test_what_we_ship_declares_what_its_object_needs(program: Program) -> None:
    obj = read_object(program.build("core").files["object"].read_bytes())
    assert compare_declared(program.name, program.manifest.requires, infer(obj)) == ()
