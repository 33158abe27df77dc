"""One rollout, two ways: over SSH and through ansible-runner, against real sshds; the record must tell the same.

One lab serves all tests in this file, in their order: each leaves hosts without programs. Ansible needs seconds for
each of a rollout's phases, so whole rollouts through it are proof tests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lab_fleet import LabFleet, eventually, kill_9
from test_collection import run

from btf.fault import Fault
from fleet.lab.hosts import LabHost
from fleet.lab.namespaces import Lab
from fleet.record import open_record
from fleet.rollout.execute import ExecutorFactory
from fleet.rollout.execute.ansible import ansible_executors
from fleet.rollout.execute.artefacts import Artefacts
from fleet.rollout.execute.ssh import agent_executors
from inventory.host import Host

pytestmark = [pytest.mark.lab, pytest.mark.kernel]

HOSTS = (
    LabHost("core-1", role="pair"),
    LabHost("fallback-1", bpf_errno="EPERM", role="pair"),
    LabHost("key-changed", key_changed=True),
    LabHost("silent", ("silent",)),
)
PAIR = ("core-1", "fallback-1")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabFleet]:
    folder = tmp_path_factory.mktemp("ansible")
    lab = Lab(folder / "lab", number=92, hosts=HOSTS)
    found = LabFleet(lab, folder / "home")
    try:
        inventory = lab.up()
        found.run("init")
        found.run("hosts", "import", str(inventory))
        found.run("hosts", "scan", "--timeout", "3", code=4)
        yield found
    finally:
        lab.down()


def story(fleet: LabFleet, rollout_id: str) -> dict[str, Any]:
    """What the record tells of a rollout, without times, tokens and measurements."""
    with open_record(fleet.home / "fleet.db", read_only=True) as record:
        view, steps = record.rollout(rollout_id), record.steps(rollout_id)
        events = record.events(0, 10_000, rollout_id=rollout_id)
        samples = record.samples(rollout_id)
    assert all(s.document is not None for s in steps)
    return {
        "state": view.state,
        "waves": [(w.number, w.name, w.state, dict(w.steps), (w.gate or {}).get("answer")) for w in view.waves],
        "steps": [(s.host, s.wave, s.variant, s.build, s.state, s.attempts, s.kernel_id) for s in steps],
        "said": {s.host: sorted(s.document or {}) for s in steps},
        "events": {
            h: [(e.verb, e.before, e.after, e.token is not None) for e in events if e.host == h] for h in (*PAIR, None)
        },
        "sampled": sorted({(s.host, s.outcome) for s in samples if s.outcome in ("ok", "unreachable", "error")}),
    }


def without_way(told: dict[str, Any]) -> dict[str, Any]:
    events = {h: [e for e in rows if e[0] != "way"] for h, rows in told["events"].items()}
    return {**told, "events": events}


def roll_and_back(fleet: LabFleet, *way: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    plan = fleet.plan("tcp-flow", "--where", "label:role=pair")
    fleet.run("rollout", "start", plan, "--yes", *way)
    rollout_id = fleet.newest()
    forward = story(fleet, rollout_id)
    assert all(fleet.applied(n, "tcp-flow") for n in PAIR)
    fleet.run("rollout", "rollback", rollout_id, "--yes")  # the way was kept
    return forward, story(fleet, rollout_id), rollout_id


@pytest.mark.proof
def test_the_same_rollout_tells_the_same_story(fleet: LabFleet) -> None:
    by_ssh = roll_and_back(fleet)
    by_ansible = roll_and_back(fleet, "--via", "ansible")
    assert by_ssh[0]["state"] == "COMPLETED"
    assert by_ssh[1]["state"] == "ROLLED_BACK"
    gate = f"rollout={by_ansible[2]} wave=0 home={fleet.home} timeout=0"
    said = run("ansible", "-i", "localhost,", "all", "-m", "corollout.fleet.fleet_gate", "-a", gate, code=2)
    assert "is ROLLED_BACK" in said  # that it had passed before no longer counts
    for told, other in zip(by_ssh[:2], by_ansible[:2], strict=True):
        assert without_way(told) == without_way(other)
    with open_record(fleet.home / "fleet.db", read_only=True) as record:
        assert [str(record.way(story_[2])) for story_ in (by_ssh, by_ansible)] == ["ssh", "ansible"]
    assert list((fleet.home / "ansible").iterdir()) == []  # nothing of a run outlives it


def test_hosts_that_cannot_be_reached_are_the_same_faults(fleet: LabFleet) -> None:
    hosts = fleet.inventory()
    artefacts = Artefacts(fleet.home / "artefacts")
    ways = (
        agent_executors(hosts, artefacts, timeout_s=3.0),
        ansible_executors(hosts, artefacts, fleet.home / "ansible", timeout_s=3.0),
    )

    def ask(way: ExecutorFactory, name: str, host: Host) -> tuple[str, str]:
        try:
            with way(host) as executor:
                return name, str(executor.status()["schema"])
        except Fault as fault:
            return name, fault.code

    asked = {
        "core-1": hosts["core-1"],
        "key-changed": hosts["key-changed"],
        "silent": hosts["silent"],
        "key-unknown": replace(hosts["core-1"], name="key-unknown", known_hosts=str(fleet.home / "none")),
        "not-let-in": replace(hosts["core-1"], name="not-let-in", user="nobody"),
        "behind": replace(hosts["core-1"], name="behind", jump="fallback-1"),
        "closed": replace(hosts["core-1"], name="closed", port=2),
    }
    told = []
    for way in ways:
        with ThreadPoolExecutor(len(asked)) as pool:
            told.append(dict(pool.map(ask, [way] * len(asked), asked, asked.values())))
    assert told[0] == told[1]
    assert told[0]["core-1"] == told[0]["behind"] == "corollout.status/1"
    assert set(told[0].values()) >= {"COR-SSH-011", "COR-SSH-012", "COR-SSH-013"}


def test_an_inventory_of_their_own_says_how_hosts_are_reached(fleet: LabFleet, tmp_path: Path) -> None:
    """Our record knows only the names; address, user and key come from their file, and a name it lacks is said."""
    hosts = fleet.inventory()
    real = hosts["core-1"]
    theirs = tmp_path / "theirs.yml"
    variables = {
        "ansible_host": real.address,
        "ansible_user": "root",
        "ansible_private_key_file": real.key_file,
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={real.known_hosts}",
    }
    theirs.write_text(json.dumps({"all": {"hosts": {"core-1": variables}}}))
    ours = {n: Host(n, address="198.18.92.250") for n in ("core-1", "forgotten")}
    connect = ansible_executors(
        ours, Artefacts(fleet.home / "artefacts"), fleet.home / "ansible", inventory=theirs, timeout_s=3.0
    )
    with connect(ours["core-1"]) as executor:
        assert executor.status()["schema"] == "corollout.status/1"
    with connect(ours["forgotten"]) as executor, pytest.raises(Fault) as caught:
        executor.status()
    assert caught.value.code == "COR-ROL-026"


@pytest.mark.proof
def test_killed_in_the_middle_it_goes_on_by_the_same_way(fleet: LabFleet) -> None:
    plan = fleet.plan("tcp-flow", "--where", "label:role=pair")
    applied = {n: fleet.applied(n, "tcp-flow") for n in PAIR}
    driver = fleet.start("rollout", "start", plan, "--yes", "--via", "ansible")
    eventually(lambda: any(fleet.applied(n, "tcp-flow") > applied[n] for n in PAIR), "an apply", within_s=120)
    kill_9(driver)
    rollout_id = fleet.newest()
    assert fleet.state(rollout_id) in ("RUNNING", "BAKING")
    fleet.run("rollout", "go", rollout_id)
    assert fleet.state(rollout_id) == "COMPLETED"
    assert {n: fleet.applied(n, "tcp-flow") - applied[n] for n in PAIR} == dict.fromkeys(PAIR, 1)
    fleet.run("rollout", "rollback", rollout_id, "--yes")
    assert fleet.state(rollout_id) == "ROLLED_BACK"
    assert list((fleet.home / "ansible").iterdir()) == []  # not even what the killed one left
