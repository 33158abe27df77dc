"""What a host's status says of an order: pure, so every word the agent has is a case."""

from __future__ import annotations

from typing import Any

import pytest

from fleet.rollout.hosts.watch import observe, sample_of

BUILD = "sha256:" + "0" * 64


def status(state: str, reason: str | None = None, *, alive: bool = True, boot: str = "b1") -> dict[str, Any]:
    row = {"program": "p", "state": state, "reason": reason, "token": 7, "build": BUILD, "observed": {"alive": alive}}
    return {"boot_id": boot, "programs": [row]}


@pytest.mark.parametrize(
    ("state", "reason", "alive", "runs", "ended"),
    [
        ("running", None, True, True, False),
        ("running", None, False, False, False),
        ("stopped", "COR-AGT-024: the host has rebooted since", False, False, False),  # the order is worth repeating
        ("running", "COR-AGT-026: the apply of generation 2 was cut off", True, False, False),
        ("stopped", "COR-AGT-028: kernel-changed: planned for 5, this is 6", False, False, True),
        ("stopped", "COR-AGT-029: the host rebooted, and its spec says stay-off", False, False, True),
        ("waiting", "COR-AGT-030: the host rebooted, and its spec says ask", False, False, True),
        ("crash-looping", "COR-AGT-031: died again after 5 restarts", False, False, True),
        ("crash-looping", "COR-AGT-031: the last policy stays in force", True, False, True),
        ("reverted", "COR-AGT-022: generation 2 was not confirmed in time", True, False, True),
    ],
)
def test_what_a_state_is_to_the_controller(
    state: str, reason: str | None, alive: bool, runs: bool, ended: bool
) -> None:
    seen = observe(status(state, reason, alive=alive), "p")
    assert (seen.runs(BUILD, 7), seen.ended) == (runs, ended)


@pytest.mark.parametrize(
    ("document", "outcome"),
    [
        (status("running"), "idle"),
        (status("running", boot="b2"), "rebooted"),  # attached again by itself, and yet not what was baked
        (status("crash-looping", "COR-AGT-031: x"), "absent"),  # though its policy is still there
        (status("waiting", "COR-AGT-030: x", alive=False, boot="b2"), "rebooted"),
    ],
)
def test_a_changed_boot_or_an_ended_program_is_never_a_good_sample(document: dict[str, Any], outcome: str) -> None:
    sample = sample_of(document, host="h", program="p", rollout_id="r", wave=0, at=0.0, token=7, boot_id="b1")
    assert sample.outcome == outcome
