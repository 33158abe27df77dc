"""The fault matrix on scripted hosts: some boundaries for every fault, all of them with COROLLOUT_EVERY_BOUNDARY.

The table is printed when the last row is done; ``make faults`` runs everything and writes ``docs/faults.md``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_boundaries import CALLS
from fault_ledger import Ledger
from fault_matrix import BACK, FORWARD, Outcome, Row, run_row
from fault_page import page, text
from fault_scripted import FAULTS, passed_boundaries, rows, scripted_world

from fleet.rollout.hosts.acts import ACTS
from fleet.rollout.states import PHASES

HERE = Path(__file__).parent


@pytest.fixture(scope="module", autouse=True)
def _path() -> Iterator[None]:
    """Controllers are processes of their own, which find the same modules."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join((str(HERE.parents[1]), str(HERE))))
        yield


@pytest.fixture(scope="module")
def passed(_path: None) -> dict[str, list[str]]:
    return passed_boundaries()


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[list[Outcome]]:
    outcomes: list[Outcome] = []
    yield outcomes
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        sys.stdout.write(f"\n{text(outcomes)}\n")


def test_every_step_of_the_tables_is_a_boundary(passed: dict[str, list[str]]) -> None:
    names = [name for leg in passed.values() for name in leg]
    for act in ACTS:
        assert any(n.startswith(f"act {act}:") for n in names), f"no boundary of {act}"
    for phase in (*PHASES, "revert"):
        assert any(n.split("#")[0].endswith(f" {phase}") for n in names), f"no boundary of {phase}"
    told = {n.split()[1].split(":")[0] for n in names if n.startswith("call ")}
    assert told <= set(CALLS)
    assert {"stage", "check", "apply", "confirm", "status", "remove"} <= told


def _picked(mine: list[Row]) -> list[Row]:
    if os.environ.get("COROLLOUT_EVERY_BOUNDARY"):
        return mine
    return [mine[len(mine) // 3], next(r for r in reversed(mine) if r.leg == BACK)] if len(mine) > 40 else mine[5:6]


@pytest.mark.parametrize("fault", [f.name for f, _ in FAULTS])
def test_a_rollout_survives(fault: str, passed: dict[str, list[str]], table: list[Outcome]) -> None:
    mine = [row for row in rows(passed) if row.fault.name == fault]
    assert {row.leg for row in mine} >= {FORWARD, BACK}
    for row in _picked(mine):
        with scripted_world(row.fault.name) as world:
            outcome = run_row(world, row)
        table.append(outcome)
        assert outcome.defects == [], text([outcome])


def test_the_page_counts_defects_and_shows_each(passed: dict[str, list[str]]) -> None:
    first, second = rows(passed)[:2]
    shown = page([Outcome(first, twice=["a: attached 2 times"]), Outcome(second)], [("kill", "SIGKILL")])
    assert "2 rows, 1 with a defect" in shown
    assert "a: attached 2 times" in shown
    assert "✗" in shown and "●" in shown


def test_what_was_run_on_this_state_of_the_code_is_kept(passed: dict[str, list[str]], tmp_path: Path) -> None:
    first, second, third = rows(passed)[:3]
    path = tmp_path / "kept.jsonl"
    ledger = Ledger("now", "c0ffee", path)
    ledger.keep(Outcome(first, "killed", ["PAUSED: why"], "COMPLETED", seconds=1.0))
    ledger.keep(Outcome(first, left=["a: a pin"]))
    again = Ledger("now", "c0ffee", path)
    assert (again.fresh(first), again.fresh(second), again.outcome(second)) == (True, False, None)
    assert again.outcome(first) == Outcome(first, left=["a: a pin"])
    later = Ledger("later", "decade", path)
    assert not later.fresh(first) and later.outcome(first) == again.outcome(first)
    later.keep(Outcome(second))
    assert later.words([first, second, third]) == (
        "2 of 3 rows were run, 1 of them on this state of the code, 1 on that of c0ffee"
    )


def test_the_kept_rows_lie_in_order_one_line_each(passed: dict[str, list[str]], tmp_path: Path) -> None:
    first, second, gone = rows(passed)[:3]
    path = tmp_path / "kept.jsonl"
    ledger, beside = Ledger("now", "c0ffee", path), Ledger("now", "c0ffee", path)
    for row in (gone, second, first):
        ledger.keep(Outcome(row))
    beside.keep(Outcome(second, end="COMPLETED"))
    ledger.tidy([first, second])
    again = Ledger("now", "c0ffee", path)
    assert len(path.read_text().splitlines()) == 2
    assert again.outcome(second) == Outcome(second, end="COMPLETED") and again.outcome(gone) is None
    assert path.read_text().index(first.id) < path.read_text().index(second.id)
