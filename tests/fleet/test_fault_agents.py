"""The fault matrix on real agents behind real sshds.

A few rows here; ``make faults`` runs each fault around each step of the agent.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from fault_agents import AgentWorld, agent_fleet, options_of, rows
from fault_matrix import run_row
from fault_page import text
from lab_fleet import LabFleet

from probes.agent.apply import STEPS

pytestmark = [pytest.mark.lab, pytest.mark.kernel]

SOME = ("agent-killed@forward/start after/net-policy", "ssh-cut@forward/commit before/tcp-flow")


@pytest.fixture(scope="module")
def fleet() -> Iterator[LabFleet]:
    with agent_fleet() as made:
        yield made


def test_every_step_of_the_agent_is_in_the_matrix() -> None:
    for step in STEPS:
        assert any(row.boundary.startswith(f"{step.name} ") for row in rows()), step.name


@pytest.mark.parametrize("name", SOME)
def test_a_rollout_survives(name: str, fleet: LabFleet) -> None:
    row = next(row for row in rows() if row.id == name)
    outcome = run_row(AgentWorld(fleet, row.program, *options_of(fleet, row.program)), row)
    sys.stdout.write(text([outcome]))
    assert outcome.defects == []
