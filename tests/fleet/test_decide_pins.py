"""A pinned variant is assessed in any case, and changes nothing of the choice."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from decide_cases import CASES, decide

from probes.manifest import LADDER

KINDS = sorted(path.stem for path in (CASES / "choose").glob("lab-*.json"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_pinned_variant_is_assessed_and_the_choice_stays(kind: str) -> None:
    case = json.loads((CASES / "choose" / f"{kind}.json").read_text())
    usual = decide(case)
    for variant in LADDER:
        pinned = decide(case, also=variant)
        assert variant in {a.variant for a in pinned.assessments}
        assert pinned.assessments[: len(usual.assessments)] == usual.assessments
        assert dataclasses.replace(pinned, assessments=usual.assessments) == usual
