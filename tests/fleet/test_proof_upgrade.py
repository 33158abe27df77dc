"""A host gets another kernel, and with it a better build: from the fallback to CO-RE, by drift and reconcile alone.

`make proof` runs this, `make test` does not: both kernels are emulated, and one is built the first time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lab_fleet import LabFleet
from lab_kernels import CACHE
from test_proof_fleet import SLOW, WITHIN_S, say

from fleet.lab.guests import GuestLab, guest
from fleet.lab.namespaces import Lab

pytestmark = pytest.mark.proof

HOST = "edge-1"


@contextmanager
def booted(folder: Path, series: str) -> Iterator[Path]:
    """The host under this kernel; yields the inventory by which it is the same host as before."""
    lab = GuestLab(folder / series, CACHE, guests=[guest(series)])
    lab.up(say)
    try:
        inventory = folder / f"{series}.toml"
        text = (lab.folder / "hosts.toml").read_text()
        inventory.write_text(re.sub(r'^name = ".*"$', f'name = "{HOST}"', text, flags=re.MULTILINE))
        yield inventory
    finally:
        lab.down()


def test_a_kernel_update_brings_a_better_build(tmp_path: Path) -> None:
    fleet = LabFleet(Lab(tmp_path / "none", number=94, hosts=()), tmp_path / "home", patience_s=WITHIN_S)
    scan = ("hosts", "scan", "--timeout", "60", "--deadline", "300")
    fleet.run("init")
    with booted(tmp_path, "no-bpf") as inventory:
        fleet.run("hosts", "import", str(inventory))
        fleet.run(*scan)
        fleet.roll_out("tcp-flow", *SLOW)
        assert fleet.status("tcp-flow")[HOST]["variant"] == "fallback"
        assert fleet.ask("drift")["rows"] == []
    say("the host gets a kernel with bpf()")
    with booted(tmp_path, "6.1") as inventory:
        fleet.run("hosts", "import", str(inventory))
        kinds = {row["kind"] for row in fleet.ask("drift", code=3)["rows"]}
        assert kinds == {"kernel-changed", "missing"}
        left = fleet.ask("reconcile", "--swap", "never", "--check", code=3)["rows"]
        assert {row["why"] for row in left} == {"fallback → core is an upgrade: --swap upgrade"}
        fleet.run("reconcile", "--yes")
        status = fleet.status("tcp-flow")[HOST]
        assert (status["state"], status["variant"]) == ("running", "core")
        assert fleet.ask("drift")["rows"] == []
        told = [e["after"] for e in fleet.ask("rollout", "history", fleet.newest())["events"] if e["host"] == HOST]
        assert "attached" in told
