"""The fault matrix on a full host that reboots, loses its link and has its clock set: a few rows.

`make proof` runs this, `make test` does not; `make faults` runs every row.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from fault_guests import GuestFleet, GuestWorld, guest_fleet, options_of, rows
from fault_matrix import run_row
from fault_page import text

pytestmark = pytest.mark.proof

SOME = (
    "rebooted@forward/start after/net-policy",
    "rebooted@forward/bake/tcp-flow",
    "clock-ahead@forward/arm after/net-policy",
    "link-down@forward/commit before/net-policy",
)


@pytest.fixture(scope="module")
def fleet() -> Iterator[GuestFleet]:
    with guest_fleet() as made:
        yield made


@pytest.mark.parametrize("name", SOME)
def test_a_rollout_survives(name: str, fleet: GuestFleet) -> None:
    row = next(row for row in rows() if row.id == name)
    outcome = run_row(GuestWorld(fleet, row.program, *options_of(fleet, row.program)), row)
    sys.stdout.write(text([outcome]))
    assert outcome.defects == []
