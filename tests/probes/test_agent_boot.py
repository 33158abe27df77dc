"""Reboot policy, with a boot that is only another boot id: real reboots are in ``test_proof_host.py``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_host import FALLBACK, AgentHost, wait_for

from probes.agent import process

OTHER = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[AgentHost]:
    made = AgentHost(tmp_path)
    made.stage(FALLBACK.encode())
    yield made
    made.run("remove", "--program", "sample-trace", "--token", str(2**40))
    assert made.close() == [] and made.marks() == []


def reboot(host: AgentHost, **changes: Any) -> None:
    """End everything at once, as a power cut does, and let what is on disk be of another boot."""
    supervisor = host.state / "supervisor.json"
    parties = [host.holder(), host.child()]
    if host.document("state.json")["spec"]["boot"] != "stay-off":
        parties += wait_for(lambda: [k for k in (read(supervisor).get("process"),) if process.alive(k)])
    for party in reversed(parties):
        if process.alive(party):
            os.kill(party["pid"], signal.SIGKILL)
    wait_for(lambda: not any(map(process.alive, parties)))
    for mark in host.outside.iterdir():
        mark.unlink()
    for name in ("state.json", "lease.json", "revert.json"):
        path = host.state / "programs/sample-trace" / name
        if path.exists():
            more = changes if name == "state.json" else {}
            path.write_text(json.dumps({**json.loads(path.read_bytes()), "boot_id": OTHER, **more}))


def read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError:
        return {}


def test_reattach_checks_again_and_attaches_under_the_same_token(host: AgentHost) -> None:
    host.applied(host.spec(boot="reattach"), 7)
    reboot(host)
    assert host.row()["reason"].startswith("COR-AGT-024")
    assert host.run("boot")[1]["programs"] == {"sample-trace": "running"}
    row = host.row()
    assert (row["state"], row["token"], row["applied"], row["boot"]) == ("running", 7, 1, "reattach")
    assert row["observed"]["alive"] and host.marks() == ["corollout_sample-trace_1"]
    assert host.document("state.json")["boot_id"] == host.run("status")[1]["boot_id"]
    lease = host.document("lease.json")
    assert lease["boot_id"] == host.document("state.json")["boot_id"]
    last = (host.state / "programs/sample-trace/journal.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["event"] == "reattached" and json.loads(last)["token"] == 7
    assert host.run("boot")[1]["programs"] == {}  # once


def test_the_supervisor_does_it_by_itself(host: AgentHost) -> None:
    host.applied(host.spec(boot="reattach"), 7)
    reboot(host)
    with subprocess.Popen(host.command("supervise")) as supervisor:  # what a unit or a cron line starts
        row = host.reaches("running")
        assert row["observed"]["alive"] and host.marks() == ["corollout_sample-trace_1"]
        assert host.run("remove", "--program", "sample-trace", "--token", "8")[0] == 0
    assert supervisor.returncode in (0, -signal.SIGTERM)


def test_another_kernel_is_never_forced(host: AgentHost) -> None:
    spec = host.spec(boot="reattach")
    host.applied(spec, 7)
    other = {"build_id": "00" * 20, "release": "3.10.0"}
    reboot(host, spec={**spec, "kernel": other})
    assert host.run("boot")[1]["programs"] == {"sample-trace": "stopped"}
    row = host.row()
    assert row["reason"].startswith("COR-AGT-028: kernel-changed") and not row["observed"]["alive"]
    assert host.marks() == []


def test_an_artefact_that_was_altered_is_not_attached(host: AgentHost) -> None:
    host.applied(host.spec(boot="reattach"), 7)
    reboot(host)
    (host.state / "artefacts" / host.spec()["files"]["module"]).write_bytes(b"something else")
    assert host.run("boot")[1]["programs"] == {"sample-trace": "failed"}
    assert host.row()["reason"].startswith("COR-AGT-004") and host.marks() == []
    (host.state / "artefacts" / host.spec()["files"]["module"]).write_bytes(FALLBACK.encode())


def test_stay_off_says_so(host: AgentHost) -> None:
    host.applied(host.spec(boot="stay-off"), 7)
    reboot(host)
    assert host.run("boot")[1]["programs"] == {"sample-trace": "stopped"}
    assert host.row()["reason"].startswith("COR-AGT-029") and host.marks() == []
    assert host.applied(host.spec(boot="stay-off"), 7)["already"] is False  # the controller may apply it anew


def test_ask_waits_for_a_persons_word(host: AgentHost) -> None:
    host.applied(host.spec(boot="ask"), 7)
    reboot(host)
    host.run("boot")
    row = host.reaches("waiting", "COR-AGT-030")
    assert "--yes" in row["reason"] and host.marks() == []
    assert host.run("boot", "--yes")[0] == 2
    assert host.run("boot", "--program", "sample-trace", "--yes")[1]["programs"] == {"sample-trace": "running"}
    assert host.row()["token"] == 7 and host.marks() == ["corollout_sample-trace_1"]
    status, answer = host.run("boot", "--program", "sample-trace", "--yes")
    assert (status, answer["code"]) == (3, "COR-AGT-012")


def test_ask_waits_until_the_controller_applies_anew(host: AgentHost) -> None:
    host.applied(host.spec(boot="ask"), 7)
    reboot(host)
    host.run("boot")
    host.reaches("waiting")
    assert host.applied(host.spec(boot="ask"), 8)["already"] is False
    assert host.row()["state"] == "running"


def test_what_was_never_confirmed_is_not_attached_again(host: AgentHost) -> None:
    host.applied(host.networking(boot="reattach"), 7)
    reboot(host)
    host.run("boot")
    row = host.reaches("reverted", "COR-AGT-022")
    assert "rebooted" in row["reason"] and host.marks() == [] and row["revert"] is None


def test_the_confirmed_predecessor_of_the_unconfirmed_is(host: AgentHost) -> None:
    host.applied(host.networking(boot="reattach"), 7)
    host.run("confirm", "--program", "sample-trace", "--token", "7")
    host.applied(host.networking(boot="reattach", generation=2), 8)
    reboot(host)
    host.run("boot")
    row = host.row()
    assert row["observed"]["alive"]
    assert (row["state"], row["generation"], row["token"]) == ("reverted", 1, 8)
    assert host.marks() == ["corollout_sample-trace_1"]


def test_what_the_host_had_ended_stays_ended(host: AgentHost) -> None:
    host.applied(host.spec(boot="reattach", budget={"memory_mib": 1}), 7)
    host.reaches("tripped")
    reboot(host)
    assert host.run("boot")[1]["programs"] == {"sample-trace": "tripped"}
    assert host.row()["reason"].startswith("COR-AGT-020") and host.marks() == []


def test_a_program_that_brings_its_host_down_is_not_attached_for_ever(host: AgentHost) -> None:
    host.applied(host.spec(boot="reattach", restart={"limit": 2}), 7)
    for expected in ("running", "running", "crash-looping"):
        reboot(host)
        assert host.run("boot")[1]["programs"] == {"sample-trace": expected}
    assert host.row()["reason"].startswith("COR-AGT-031") and host.marks() == []


def test_what_cannot_come_up_yet_is_tried_again(host: AgentHost) -> None:
    spec = host.spec(boot="reattach", restart={"limit": 5, "backoff_s": 0.5})
    late = host.folder / "late"
    late.mkdir()
    spec["config"]["outside"] = str(late)
    host.applied(spec, 7)
    reboot(host)
    (late / "corollout_sample-trace_1").unlink(missing_ok=True)
    late.rmdir()
    assert host.run("boot")[1]["programs"] == {"sample-trace": "failed"}
    assert "No such file" in host.row()["reason"]
    late.mkdir()
    row = host.reaches("running")
    assert row["restarts"]["total"] >= 1 and list(late.iterdir())
