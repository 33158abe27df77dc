"""What mends a difference: a plan for the hosts that drifted, a removal, or a word why it is left."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from console_fleet import make_lab

from btf.archive.archive import Archive
from fleet.compatibility.verdict import Verdict
from fleet.prepare import Wishes, prepare
from fleet.reconcile import Mends, mend
from fleet.record import Record
from fleet.record.views import Difference
from fleet.rollout.execute.artefacts import Artefacts
from fleet.rollout.planning.policy_file import settings_of
from fleet.survey import decide
from probes.catalogue import load_catalogue

PROGRAMS = {"tcp-flow": load_catalogue()["tcp-flow"]}


class Fleet:
    """The lab's record with tcp-flow rolled out, as far as the record tells."""

    def __init__(self, folder: Path) -> None:
        self.record: Record = make_lab(folder / "fleet.db")
        self.archive, self.artefacts = Archive(folder / "btf"), Artefacts(folder / "artefacts")
        decide(self.record, self.archive, PROGRAMS.values())
        for host in ("plain-1", "plain-2"):
            self.now_gets(host, "core")
        wishes = Wishes(limits={"cpu_percent": 7.0}, scope="netns")
        plan = prepare(self.record, self.archive, self.artefacts, PROGRAMS["tcp-flow"], settings_of({}), wishes)
        self.record.save_plan(plan)
        self.rollout = self.record.create_rollout(plan.id, "ann")
        for host in plan.hosts:
            self.record.begin_step(self.rollout, host.host)
            self.record.finish_step(self.rollout, host.host, "attached")
            self.record.finish_step(self.rollout, host.host, "healthy")
        self.record.set_rollout_state(self.rollout, "COMPLETED")

    def now_gets(self, host: str, variant: str) -> None:
        """The host was scanned and decided for anew, and that is what it gets."""
        (choice,) = self.record.choices("tcp-flow", host=host)
        self.record.record_choices([replace(choice, variant=variant, verdict=Verdict.FITS)])

    def mend(self, *found: tuple[str, str], program: str = "tcp-flow", **options: Any) -> Mends:
        differences = [Difference(host, program, kind, "", "", "") for host, kind in found]
        return mend(self.record, self.archive, self.artefacts, PROGRAMS, differences, **options)

    def variant(self, host: str) -> str:
        return self.record.assignments(host=host)[0].variant


@pytest.fixture
def fleet(tmp_path: Path) -> Any:
    made = Fleet(tmp_path)
    yield made
    made.record.close()


def planned(mends: Mends) -> dict[str, str]:
    return {h.host: h.variant for plan in mends.plans for h in plan.hosts}


def test_what_is_missing_is_planned_again_as_it_was_wished(fleet: Fleet) -> None:
    mends = fleet.mend(("plain-1", "missing"), ("plain-2", "wrong-tag"))
    assert planned(mends) == {name: fleet.variant(name) for name in ("plain-1", "plain-2")}
    (plan,) = mends.plans
    assert plan.spec("plain-1")["budget"]["cpu_percent"] == 7.0
    assert plan.spec("plain-1")["scope"] == {"kind": "netns"}
    assert mends.left == mends.removals == ()


def test_a_kernel_update_brings_a_better_build(fleet: Fleet) -> None:
    host = next(a.host for a in fleet.record.assignments() if a.variant == "fallback")
    fleet.now_gets(host, "core")
    assert planned(fleet.mend((host, "kernel-changed"))) == {host: "core"}
    (left,) = fleet.mend((host, "kernel-changed"), swap="never").left
    assert left.why == "fallback → core is an upgrade: --swap upgrade"


def test_a_step_down_is_asked_for(fleet: Fleet) -> None:
    assert fleet.variant("plain-1") == "core"
    fleet.now_gets("plain-1", "fallback")
    mends = fleet.mend(("plain-1", "kernel-changed"))
    assert mends.plans == ()
    assert [one.why for one in mends.left] == ["core → fallback is a step down: --swap any"]
    assert planned(fleet.mend(("plain-1", "kernel-changed"), swap="any")) == {"plain-1": "fallback"}


def test_hosts_of_a_rollout_under_way_are_left_to_it(fleet: Fleet) -> None:
    fleet.record.set_rollout_state(fleet.rollout, "BAKING")
    mends = fleet.mend(("plain-1", "missing"))
    assert (mends.plans, [one.why for one in mends.left]) == ((), [f"in the hands of {fleet.rollout}"])


def test_extras_are_removed_only_when_asked(fleet: Fleet) -> None:
    assert [one.why for one in fleet.mend(("plain-1", "extra"), program="net-policy").left] == ["--remove removes it"]
    asked = fleet.mend(("plain-1", "extra"), program="net-policy", remove=True)
    assert (asked.removals, asked.left) == ((("plain-1", "net-policy"),), ())


def test_what_others_run_is_not_ours_to_mend(fleet: Fleet) -> None:
    assert fleet.mend(("plain-1", "foreign"), program="", remove=True) == Mends((), (), ())
