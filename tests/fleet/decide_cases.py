"""Reads the decision cases: a healthy host in ``choose_base.json``, and what each case changes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from fleet.compatibility.choose import Kernels, Material, choose
from fleet.compatibility.decide import Learned
from fleet.compatibility.loaded import Loaded
from fleet.compatibility.verdict import Choice, Evidence, Requirement
from inventory.facts import SCHEMA, Facts, parse_facts
from probes.catalogue import Program
from probes.manifest import Manifest

CASES = Path(__file__).parent / "cases"
BASE: dict[str, Any] = json.loads((CASES / "choose_base.json").read_text())


@dataclass(frozen=True)
class Types:
    """A kernel's BTF as far as decisions ask it, written by hand."""

    enums: Mapping[str, Any]
    names: frozenset[str]
    funcs: frozenset[str]
    kfuncs: frozenset[str] = frozenset()

    def by_name(self, name: str, /) -> list[int]:
        return [1] if name in self.names else []

    def enum_values(self, enum_name: str, /) -> dict[str, int]:
        return {name: n for n, name in enumerate(self.enums.get(enum_name, ()))}

    def functions(self) -> frozenset[str]:
        return self.funcs

    def tagged(self, _tag: str, /) -> frozenset[str]:
        return self.kfuncs


@dataclass(frozen=True)
class Relocated:
    program: str
    local: str
    outcome: str
    guarded: bool | None = None
    detail: str = ""


def types(body: Mapping[str, Any]) -> Types:
    return Types(body.get("enums", {}), frozenset(body.get("names", ())), frozenset(body.get("functions", ())))


def program(**changes: Any) -> Program:
    return Program(Path("/nowhere"), msgspec.convert({**BASE["program"], **changes}, Manifest))


def facts(changes: Mapping[str, Any] | None = None, only: Mapping[str, Any] | None = None) -> Facts:
    body = dict(BASE["facts"]) if only is None else dict(only)
    body.update(changes or {})
    body = {n: f for n, f in body.items() if f is not None}
    return parse_facts(json.dumps({"schema": SCHEMA, "collected_at": 1, "facts": body}).encode())


def materials(case: Mapping[str, Any]) -> dict[str, Material]:
    needs = tuple(Requirement(**r) for r in case.get("requirements", BASE["requirements"])["core"])
    outcomes = case.get("outcomes", BASE["outcomes"])
    resolve = None if outcomes is None else lambda _btf, _release: Loaded([Relocated(**o) for o in outcomes])
    found = {
        "core": Material("sha256:core", needs, resolve),
        "core-btf": Material("sha256:core-btf", needs, resolve),
        "bcc": Material("sha256:bcc"),
        "fallback": Material("sha256:fallback"),
    }
    return {n: Material(missing=f"{n} is not built") if n in case.get("missing", ()) else m for n, m in found.items()}


def decide(case: Mapping[str, Any], host: str = "web-1", *, also: str | None = None) -> Choice:
    body = case.get("btf", BASE["btf"])
    return choose(
        host,
        program(**case.get("program", {})),
        facts(case.get("changes"), case.get("facts_only")),
        materials(case),
        Kernels(lambda _id: None if body is None else types(body)),
        learned=[Learned(b, k, Evidence(e)) for b, k, e in case.get("learned", ())],
        quarantine={(b, k) for b, k in case.get("quarantine", ())},
        also=also,
    )
