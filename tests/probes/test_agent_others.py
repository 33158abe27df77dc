"""What the agent tells of BPF programs that are not ours, asked of the running kernel."""

from __future__ import annotations

import os

import pytest

from inventory.collector.bpf_call import Kernel, returns
from probes.agent.others import others

SOCKET_FILTER = 1
pytestmark = pytest.mark.kernel


def told(ours: list[int]) -> dict[str, int]:
    found = others(ours)
    assert found["answer"] == "yes"
    assert found["count"] >= len(found["programs"])
    return {row["name"]: row["id"] for row in found["programs"] if row["type"] == "socket_filter"}


def test_a_program_of_somebody_else_is_told_and_ours_is_not() -> None:
    descriptor, _, _ = Kernel().load(SOCKET_FILTER, returns(0), name=b"not_ours")
    try:
        number = told([])["not_ours"]
        assert "not_ours" not in told([number])
    finally:
        os.close(descriptor)
    assert "not_ours" not in told([])
