"""Reproduction bundles: all it takes to see a kernel contradict its prediction again. None is overwritten."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fleet.lab.proof import Cell


def keep(cell: Cell, folder: Path) -> Path:
    """Write one cell's object, facts, log and both sides of the contradiction below *folder*; return where."""
    stem = f"{cell.subject.name}-{cell.subject.variant}-{cell.kernel.release}-{cell.profile.name}".replace("/", "_")
    number = 1
    while True:
        place = folder / (stem if number == 1 else f"{stem}-{number}")
        try:
            place.mkdir(parents=True)
            break
        except FileExistsError:
            number += 1
    (place / "object.bpf.o").write_bytes(cell.subject.data)
    (place / "log.txt").write_text(cell.outcome.log + "\n")
    if cell.facts:
        (place / "facts.json").write_text(json.dumps(cell.facts.document(), indent=1) + "\n")
    (place / "contradiction.json").write_text(json.dumps(_both_sides(cell), indent=2) + "\n")
    return place


def _both_sides(cell: Cell) -> dict[str, Any]:
    kernel = {k: v for k, v in asdict(cell.kernel).items() if isinstance(v, str)}
    reasons = cell.assessment.reasons if cell.assessment else ()
    return {
        "kernel": kernel,
        "kernel_id": cell.kernel_id,
        "profile": cell.profile.document(),
        "policy": cell.policy,
        "predicted": cell.predicted.value,
        "agreement": cell.agreement.value,
        "real": cell.outcome.document(),
        "reasons": [
            {"code": r.code, "answer": r.answer.value, "detail": r.detail, "source": r.source} for r in reasons
        ],
        "again": f"corollout prove object.bpf.o --kernel {cell.kernel.name} --profile {cell.profile.name}",
    }
