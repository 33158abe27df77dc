"""Hosts that come while a rollout is under way join its last wave, or wait for the next plan and are left alone."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from scripted_hosts import KERNEL, KERNEL_ID, plan_of
from scripted_rollout import Rollout

from fleet.compatibility.verdict import Choice, Verdict
from fleet.rollout.hosts.join import RolloutSpecs
from fleet.rollout.planning.plan import load_plan
from fleet.rollout.planning.waves import Skipped
from inventory.host import Host


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Rollout]]:
    made = []

    def begin(*, where: str = "", skipped: tuple[Skipped, ...] = (), **settings: Any) -> Rollout:
        made_up = plan_of(["a"], ["b"], ["c"], **settings)
        shared = {"core": {**made_up.shared["core"], "scope": {"kind": "host"}, "config": {}}}
        plan = dataclasses.replace(
            made_up, wishes={"where": where}, skipped=skipped, shared=shared, own={},
            kernels={KERNEL_ID: {"build_id": KERNEL["build_id"], "release": KERNEL["release"]}},
        )  # fmt: skip
        made.append(Rollout(tmp_path, plan))
        return made[-1]

    yield begin
    for rollout in made:
        rollout.record.close()


def arrive(
    rollout: Rollout, name: str, *, kernel: str = KERNEL_ID, variant: str = "core", verdict: Verdict = Verdict.FITS,
    **fields: Any,
) -> None:  # fmt: skip
    """A host is imported and decided."""
    rollout.record.import_hosts([Host(name, connection="local", **fields)], "later")
    rollout.record.record_choice(Choice(name, "tcp-flow", kernel, "f" * 64, variant, verdict, "later"))


def go(rollout: Rollout) -> str:
    """Drive it with specs as the engine hands them out."""
    plan = load_plan(rollout.record.plan(rollout.view.plan_id).document)
    rollout.specs = RolloutSpecs(rollout.record, rollout.id, plan)
    return rollout.go()


def joined(rollout: Rollout) -> dict[str, int]:
    return {s.host: s.wave for s in rollout.record.steps(rollout.id) if s.host not in "abc"}


def test_a_host_that_comes_later_joins_the_last_wave_alone(start: Callable[..., Rollout]) -> None:
    rollout = start()
    rollout.fleet.after = lambda host, verb: arrive(rollout, "new-1") if (host, verb) == ("a", "apply") else None
    assert go(rollout) == "COMPLETED"
    assert joined(rollout) == {"new-1": 2}
    assert rollout.states()["new-1"] == "healthy"
    assert rollout.fleet.seen("new-1")["applied"] == 1
    assert [e.host for e in rollout.record.events(limit=1000) if e.verb == "join"] == ["new-1"]
    assert "new-1" in {a.host for a in rollout.record.assignments()}
    assert rollout.go("rollback") == "ROLLED_BACK"
    assert rollout.states()["new-1"] == "reverted"


def test_who_is_not_what_the_plan_was_made_for_waits_for_the_next(start: Callable[..., Rollout]) -> None:
    rollout = start(where="not label:env=prod", exclude="name=excluded", skipped=(Skipped("left-out", "refused", "x"),))
    arrive(rollout, "other-kernel", kernel="cd/x86_64")
    arrive(rollout, "other-variant", variant="bcc")
    arrive(rollout, "cannot", verdict=Verdict.BLOCKED)
    arrive(rollout, "unsure", verdict=Verdict.UNKNOWN)
    arrive(rollout, "not-meant", labels={"env": "prod"})
    arrive(rollout, "excluded")
    arrive(rollout, "left-out")
    arrive(rollout, "pinned")
    rollout.record.pin("pinned", "tcp-flow", variant=None, reason="", actor="ann")
    rollout.record.import_hosts([Host("undecided", connection="local")], "later")
    arrive(rollout, "meant")
    assert go(rollout) == "COMPLETED"
    assert joined(rollout) == {"meant": 2}


def test_one_that_could_not_be_planned_then_joins_when_it_can_now(start: Callable[..., Rollout]) -> None:
    rollout = start(skipped=(Skipped("late", "no-answer", "COR-SSH-001: no route"),))
    arrive(rollout, "late")
    assert go(rollout) == "COMPLETED"
    assert joined(rollout) == {"late": 2}


def test_policy_turns_it_off(start: Callable[..., Rollout]) -> None:
    rollout = start(join=False)
    arrive(rollout, "new-1")
    assert go(rollout) == "COMPLETED"
    assert joined(rollout) == {}


def test_the_spec_of_one_that_joined_is_the_plans(start: Callable[..., Rollout]) -> None:
    rollout = start()
    arrive(rollout, "new-1")
    go(rollout)
    theirs, ours = rollout.specs["new-1"], rollout.specs["c"]
    assert {k for k in ours if theirs[k] != ours[k]} == {"host"}
    assert theirs.keys() == ours.keys()
    with pytest.raises(KeyError):
        rollout.specs["nobody"]
