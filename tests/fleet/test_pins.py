"""A pin that is made after the plan holds: the host is skipped when its turn comes, and is not touched."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from scripted_hosts import plan_of
from scripted_rollout import Rollout


@pytest.mark.parametrize(("variant", "left"), [(None, "skipped"), ("bcc", "skipped"), ("core", "healthy")])
def test_a_pin_made_after_the_plan_holds(tmp_path: Path, variant: str | None, left: str) -> None:
    rollout = Rollout(tmp_path, plan_of(["a"], ["b", "c"]))
    rollout.record.pin("b", "tcp-flow", variant=variant, reason="audit", actor="ann")
    assert rollout.go() == "COMPLETED"
    assert rollout.states() == {"a": "healthy", "b": left, "c": "healthy"}
    assert len(rollout.fleet.calls("b", "apply")) == (left == "healthy")
    if left == "skipped":
        assert "since the plan by ann" in (rollout.record.step(rollout.id, "b").detail or "")
    rollout.record.close()
