"""Facts in, choice out: every JSON file in ``cases/choose`` is one case."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from decide_cases import CASES, decide

FILES = sorted((CASES / "choose").glob("*.json"))


def test_there_are_cases() -> None:
    assert len(FILES) >= 25


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_choice(path: Path) -> None:
    case = json.loads(path.read_text())
    expect = case["expect"]
    choice = decide(case)
    by_variant = {a.variant: a for a in choice.assessments}
    told = "\n".join(
        f"{a.variant} {a.verdict}: {[r.detail for r in a.reasons if r.answer != 'yes']}" for a in by_variant.values()
    )
    assert (choice.variant, choice.verdict) == (expect["variant"], expect["verdict"]), told
    for variant, verdict in expect.get("verdicts", {}).items():
        assert by_variant[variant].verdict == verdict, told
    for variant, codes in expect.get("codes", {}).items():
        assert set(codes) <= {r.code for r in by_variant[variant].reasons}, told
    if "unlocks" in expect:
        assert sorted({u.code for u in choice.unlocks}) == expect["unlocks"], told
    if "lost" in expect:
        assert list(by_variant[choice.variant].lost) == expect["lost"]
    if "evidence" in expect:
        assert by_variant[choice.variant].evidence == expect["evidence"]
    assert expect.get("summary", "") in choice.summary
