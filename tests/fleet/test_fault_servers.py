"""The fault matrix on workers and a PostgreSQL: a few rows; ``make faults`` strikes at every boundary."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_matrix import run_row
from fault_page import text
from fault_servers import FAULTS, Ground, grounds, passed_boundaries, rows, server_world

HERE = Path(__file__).parent
SOME = ("forward/call apply:b#1 after", "rollback/act revert:a#1 before")


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with pytest.MonkeyPatch.context() as patch, grounds(1) as (made,):
        patch.setenv("PYTHONPATH", os.pathsep.join((str(HERE.parents[1]), str(HERE))))
        yield made


def test_rollouts_survive(ground: Ground) -> None:
    found = {row.id: row for row in rows(passed_boundaries(ground))}
    outcomes = []
    for fault, place in zip(FAULTS, SOME, strict=True):
        with server_world(ground) as world:
            outcomes.append(run_row(world, found[f"{fault.name}@{place}"]))
    sys.stdout.write(text(outcomes))
    assert [outcome.defects for outcome in outcomes] == [[], []]
