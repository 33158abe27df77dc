"""The body of ``corollout.check/1`` (``docs/contracts.md``), which other tools rely on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from btf.core.relocate import RelocationOutcome
from btf.drift.drift import Drift
from btf.format.types import Btf
from fleet.compatibility.check import ObjectCheck, ProgramCheck, warnings
from fleet.compatibility.verdict import Reason
from inventory.facts import Answer


def count_relocations(outcomes: Sequence[RelocationOutcome]) -> dict[str, int]:
    """Return how many there are: ``absent`` were asked about and are not there, ``guarded`` are poisoned but dead."""
    values = [o for o in outcomes if o.outcome == "value"]
    poisoned = [o for o in outcomes if o.outcome == "poisoned"]
    return {
        "total": len(outcomes),
        "resolved": sum(o.found for o in values),
        "absent": sum(not o.found for o in values),
        "poisoned": len(poisoned),
        "guarded": sum(o.guarded for o in poisoned),
        "ambiguous": sum(o.outcome == "ambiguous" for o in outcomes),
        "failed": sum(o.outcome == "failed" for o in outcomes),
    }


def document(
    checks: Iterable[ObjectCheck], *, relocations: bool = False, reference: Btf | None = None
) -> dict[str, Any]:
    """Return the body of ``corollout.check/1``; with *relocations*, each one of every program."""
    return {"results": [result(check, relocations=relocations, reference=reference) for check in checks]}


def result(check: ObjectCheck, *, relocations: bool = False, reference: Btf | None = None) -> dict[str, Any]:
    """Return one row of :func:`document`."""
    return {
        "object": check.name,
        "sha256": check.obj.sha256,
        "kernel": {
            "release": check.kernel.release,
            "arch": check.kernel.arch,
            "build_id": check.kernel.build_id,
            "next_boot": check.kernel.next_boot,
            "btf_sha256": check.kernel.sha256,
        },
        "verdict": check.verdict.value,
        "evidence": check.evidence.value,
        "reasons": _reasons(check.reasons),
        "warnings": [_warning(check, drift) for drift in warnings(check, reference=reference)],
        "programs": [_program_document(p, relocations=relocations) for p in check.programs],
    }


def _warning(check: ObjectCheck, drift: Drift) -> dict[str, Any]:
    line = check.obj.line_at(drift.section, drift.insn, naming=drift.named)
    return {
        "code": drift.code,
        "consequence": drift.consequence,
        "what": drift.what,
        "was": drift.was,
        "now": drift.now,
        "detail": drift.text(),
        "function": drift.function,
        "section": drift.section,
        "insn": drift.insn,
        "line": {"file": line.file, "line": line.line, "column": line.column, "text": line.text} if line else None,
    }


def _program_document(check: ProgramCheck, *, relocations: bool) -> dict[str, Any]:
    body: dict[str, Any] = {
        "name": check.program.name,
        "section": check.program.section,
        "optional": check.optional,
        "verdict": check.verdict.value,
        "reasons": _reasons(check.reasons),
        "lost": list(dict.fromkeys(o.local for o in check.lost)),
        "relocations": count_relocations(check.relocations),
    }
    if relocations:
        body["relocations"]["each"] = [_relocation(o) for o in check.relocations]
    return body


def _relocation(outcome: RelocationOutcome) -> Mapping[str, Any]:
    return {
        "function": outcome.program,
        "section": outcome.section,
        "insn": outcome.insn,
        "kind": outcome.kind,
        "local": outcome.local,
        "outcome": outcome.outcome,
        "value": outcome.value,
        "guarded": outcome.guarded,
        "guard": outcome.guard._asdict() if outcome.guard else None,
        "detail": outcome.detail,
    }


def _reasons(reasons: Sequence[Reason]) -> list[dict[str, str]]:
    """Return what is not simply met, the most serious first."""
    serious = {Answer.NO: 0, Answer.BLOCKED: 1, Answer.UNKNOWN: 2}
    shown = sorted((r for r in reasons if r.answer in serious), key=lambda r: serious[r.answer])
    return [
        {
            "code": r.code,
            "answer": r.answer.value,
            "detail": r.detail,
            "evidence": r.evidence.value,
            "source": r.source,
        }
        for r in shown
    ]
