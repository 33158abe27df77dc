"""The agent on this kernel: real objects, held by the real runner, read back from the kernel by a third party.

Each test has a network, mounts and a BPF file system of its own, made and removed here, and nobody else sees them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_host import AgentHost, wait_for

from probes.agent import process

ROOT = Path(__file__).resolve().parents[2]
RUNNER = ROOT / "probes/runner/bpfrun"
TCP_FLOW = ROOT / "probes/programs/tcp_flow"
NET_POLICY = ROOT / "probes/programs/net_policy"
BURN = ROOT / "tests/programs/burn"
BTF = Path("/sys/kernel/btf/vmlinux")

pytestmark = pytest.mark.kernel

REALM = """
set -e
mount -t sysfs sysfs /sys
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
mkdir -p /run/corollout && mount -t tmpfs tmpfs /run/corollout
ip link set lo up
ip link add up0 type veth peer name up1
ip link set up0 up; ip link set up1 up
echo ready
exec sleep 3600
"""


class Realm(AgentHost):
    """An agent's host with its own network and mount namespace."""

    def __init__(self, folder: Path) -> None:
        self.keeper = subprocess.Popen(["unshare", "-m", "-n", "sh", "-c", REALM], stdout=subprocess.PIPE)
        assert self.keeper.stdout
        assert self.keeper.stdout.readline() == b"ready\n"
        self.enter = ("nsenter", "-t", str(self.keeper.pid), "-m", "-n")
        super().__init__(folder, prefix=self.enter)

    def inside(self, *command: str, check: bool = True) -> str:
        done = subprocess.run([*self.enter, *command], capture_output=True, text=True, timeout=60, check=False)
        assert not check or done.returncode == 0, (command, done.stderr)
        return done.stdout

    def program(self, folder: Path, **changes: Any) -> dict[str, Any]:
        files = {
            "runner": self.stage(RUNNER.read_bytes()),
            "object": self.stage((folder / "core.bpf.o").read_bytes()),
            "adapter": self.stage((folder / "adapter.py").read_bytes()),
        }
        spec = self.spec(variant="core", files=files, scope={"kind": "netns"}, budget={"interval_s": 0.4})
        return {**spec, **changes}

    def tcp_flow(self, **changes: Any) -> dict[str, Any]:
        return self.program(TCP_FLOW, **{"record": "flow_record", **changes})

    def talk(self, sent: int, answered: int) -> None:
        """One TCP connection over the realm's loopback: *sent* bytes out, *answered* back, an orderly close."""
        self.inside(
            "/usr/bin/python3",
            "-c",
            f"""
import socket, threading
server = socket.create_server(("127.0.0.1", 7007))
def serve():
    peer = server.accept()[0]
    got = 0
    while got < {sent}: got += len(peer.recv(65536))
    peer.sendall(bytes({answered})); peer.shutdown(1); peer.recv(1); peer.close()
thread = threading.Thread(target=serve); thread.start()
client = socket.create_connection(("127.0.0.1", 7007))
client.sendall(bytes({sent}))
while client.recv(65536): pass
client.close(); thread.join()
""",
        )

    def close(self) -> list[int]:
        self.run("remove", "--program", "sample-trace", "--token", str(2**40))
        stray = super().close()
        self.keeper.kill()
        self.keeper.wait()
        return stray


@pytest.fixture
def realm(tmp_path: Path) -> Iterator[Realm]:
    made = Realm(tmp_path)
    try:
        yield made
    finally:
        stray = made.close()
    assert stray == []


def in_kernel(number: int) -> dict[str, Any] | None:
    """What bpftool, and not our code, says of a program id."""
    done = subprocess.run(["bpftool", "-j", "prog", "show", "id", str(number)], capture_output=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def test_tcp_flow_is_held_observed_measured_and_gone(realm: Realm) -> None:
    answer = realm.applied(realm.tcp_flow(), 1)
    assert answer["applied"] == 1
    row = realm.row()
    assert row["state"] == "running" and row["observed"]["alive"]
    for program in row["observed"]["programs"]:
        kernel = in_kernel(program["id"])
        assert kernel and kernel["tag"] == program["tag"] and program["attached"]
    realm.talk(1234, 5000)
    records = wait_for(lambda: [r for r in realm.records() if r.get("role") == "client"])
    assert (records[0]["tx_bytes"], records[0]["rx_bytes"], records[0]["dport"]) == (1234, 5000, 7007)
    assert records[0]["program"] == "sample-trace" and records[0]["host"] == "alpha"
    row = realm.when(lambda row: row["sample"] and row["sample"]["kernel_percent"] is not None)
    assert row["watchdog"]["state"] == "ok" and row["sample"]["memory_bytes"] > 1 << 20
    assert realm.run("remove", "--program", "sample-trace", "--token", "2")[0] == 0
    ids = [p["id"] for p in row["observed"]["programs"]]
    wait_for(lambda: not any(in_kernel(i) for i in ids))


def test_kill_9_of_the_holder_detaches_tracing(realm: Realm) -> None:
    realm.applied(realm.tcp_flow(), 1)
    ids = [p["id"] for p in realm.row()["observed"]["programs"]]
    child = realm.child()
    assert ids and all(in_kernel(i) for i in ids)
    os.kill(realm.holder()["pid"], signal.SIGKILL)
    wait_for(lambda: not process.alive(child))
    wait_for(lambda: not any(in_kernel(i) for i in ids))
    row = realm.row()
    assert row["state"] == "failed" and row["reason"].startswith("COR-AGT-023") and not row["observed"]["alive"]


def test_kill_9_of_the_runner_is_told(realm: Realm) -> None:
    realm.applied(realm.tcp_flow(), 1)
    os.kill(realm.child()["pid"], signal.SIGKILL)
    assert not realm.reaches("failed", "COR-AGT-025")["observed"]["alive"]


def test_external_btf_serves_a_host_whose_own_is_hidden(realm: Realm) -> None:
    btf = realm.stage(BTF.read_bytes())
    realm.inside("mount", "-t", "tmpfs", "none", "/sys/kernel/btf")
    status, answer = realm.apply(realm.tcp_flow(), 1)
    assert (status, answer["code"], answer["step"]) == (3, "COR-AGT-007", "verify") and answer["message"]
    realm.applied(realm.tcp_flow(variant="core-btf", btf=btf), 2)
    realm.talk(10, 20)
    assert wait_for(lambda: [r for r in realm.records() if r["tx_bytes"] == 10])
    assert realm.row()["observed"]["alive"]


def test_without_tracefs_the_failure_is_told_and_undone(realm: Realm) -> None:
    realm.inside("umount", "/sys/kernel/tracing")
    status, answer = realm.apply(realm.tcp_flow(), 1)
    assert (status, answer["code"], answer["stage"], answer["left"]) == (1, "COR-AGT-008", "attach", [])
    assert "tracefs" in answer["message"] and realm.row()["state"] == "failed"


def test_a_rejected_object_is_reported_with_its_log(realm: Realm) -> None:
    spec = realm.tcp_flow()
    spec["files"]["object"] = realm.stage((TCP_FLOW / "core.bpf.o").read_bytes()[:3000])
    status, answer = realm.run("check", "--spec", "-", stdin=json.dumps(spec).encode())
    assert (status, answer["code"]) == (3, "COR-AGT-007") and answer["stage"] in ("open", "load")


def test_the_calibration_is_kept_for_this_boot(realm: Realm) -> None:
    spec = realm.tcp_flow()
    realm.applied(spec, 1)
    kept = json.loads((realm.state / "calibration.json").read_bytes())
    assert (
        kept["attach_ns"]["tracepoint"] > 0
        and kept["floor_ns"] > 0
        and kept["boot_id"] == realm.run("status")[1]["boot_id"]
    )
    status, again = realm.run("calibrate")  # the runner is that of the program that runs
    assert status == 0 and set(again["attach_ns"]) == set(kept["attach_ns"])


def test_burn_is_stopped_by_the_host_alone(realm: Realm) -> None:
    budget = {"cpu_percent": 1.0, "ns_per_event": 2000.0, "memory_mib": 64.0, "loss_percent": 100.0, "interval_s": 1.0}
    spec = realm.program(BURN, record="burn_record")
    spec["budget"].update(budget)
    realm.applied(spec, 1)
    ids = [p["id"] for p in realm.row()["observed"]["programs"]]
    # Not so many records that a busy machine's holder reads the answers about cost behind them, too late.
    burn = "import os, time\nwhile True: os.getppid(), time.sleep(0.0005)"
    loop = [*realm.enter, "/usr/bin/python3", "-c", burn]
    with subprocess.Popen(loop) as burner:
        try:
            row = realm.reaches("tripped", "COR-AGT-020")
        finally:
            burner.kill()
    last = row["watchdog"]["last"]
    assert last["budget"] in ("cpu_percent", "ns_per_event") and last["seen"] > last["limit"]
    assert row["sample"]["kernel_percent"] > 1.0 and row["sample"]["events"] > 0 and row["watchdog"]["strikes"] == 2
    wait_for(lambda: not any(in_kernel(i) for i in ids))


POLICY = {
    "interface": "up0",
    "audit": False,
    "established": True,
    "default": {"ingress": "allow", "egress": "allow"},
    "protect": {"port": 22, "cidrs": []},
    "rules": [
        {"id": 1, "dir": "egress", "action": "deny", "cidr": "192.0.2.0/24", "proto": "udp", "port": [9, 9],
         "origin": "test"}
    ],
}  # fmt: skip


def policy(realm: Realm, **changes: Any) -> dict[str, Any]:
    spec = realm.program(NET_POLICY, kind="networking", fail_mode="static", lease_s=0, revert_s=600, config=POLICY)
    return {**spec, "record": "net_policy_event", **changes}


def filters(realm: Realm) -> list[str]:
    found = [realm.inside("tc", "filter", "show", "dev", "up0", d, check=False) for d in ("ingress", "egress")]
    return [line for text in found for line in text.splitlines() if "direct-action" in line]


def test_net_policy_stays_when_its_holder_dies_and_goes_when_removed(realm: Realm) -> None:
    realm.applied(policy(realm), 1)
    row = realm.row()
    assert row["observed"]["alive"] and row["revert"]["at"] > time.time()
    assert len(filters(realm)) == 2 and all(in_kernel(p["id"]) for p in row["observed"]["programs"])
    assert realm.run("confirm", "--program", "sample-trace", "--token", "1")[0] == 0
    assert wait_for(lambda: realm.row()["counters"])
    child = realm.child()
    os.kill(realm.holder()["pid"], signal.SIGKILL)
    wait_for(lambda: not process.alive(child))
    row = realm.row()
    assert row["state"] == "failed" and row["observed"]["alive"] and len(filters(realm)) == 2
    # The next generation takes the pinned place over; removing leaves nothing.
    realm.applied(policy(realm, generation=2), 2)
    assert len(filters(realm)) == 2 and realm.row()["state"] == "running"
    assert realm.run("remove", "--program", "sample-trace", "--token", "3")[0] == 0
    assert (
        filters(realm) == [] and not realm.inside("sh", "-c", "ls /sys/fs/bpf/corollout/* 2>/dev/null || true").strip()
    )


def test_net_policy_is_attached_again_after_a_boot(realm: Realm) -> None:
    realm.applied(policy(realm, boot="reattach"), 1)
    assert realm.run("confirm", "--program", "sample-trace", "--token", "1")[0] == 0
    supervisor = wait_for(lambda: (p := realm.state / "supervisor.json").exists() and json.loads(p.read_bytes()))
    for party in (supervisor["process"], realm.holder(), realm.child()):
        os.kill(party["pid"], signal.SIGKILL)
    wait_for(lambda: not process.alive(realm.child()))
    realm.inside("tc", "qdisc", "del", "dev", "up0", "clsact")  # what a boot takes: filters and pins
    realm.inside("rm", "-r", "/sys/fs/bpf/corollout")
    path = realm.state / "programs/sample-trace/state.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "boot_id": "another"}))
    assert realm.run("boot")[1]["programs"] == {"sample-trace": "running"}
    row = realm.row()
    assert row["observed"]["alive"] and row["revert"] is None and len(filters(realm)) == 2
    assert realm.run("remove", "--program", "sample-trace", "--token", "2")[0] == 0
    assert filters(realm) == []


def test_an_unconfirmed_net_policy_goes_by_itself(realm: Realm) -> None:
    realm.applied(policy(realm), 1)
    assert len(filters(realm)) == 2
    os.kill(realm.holder()["pid"], signal.SIGKILL)
    realm.make_due("revert.json", "at_boot")
    realm.reaches("reverted", "COR-AGT-022")
    assert filters(realm) == []


def chains(realm: Realm) -> list[str]:
    return [line for line in realm.inside("iptables-save").splitlines() if "COROLLOUT" in line]


def test_variants_of_a_policy_change_over_and_back(realm: Realm) -> None:
    core = policy(realm)
    files = {"module": realm.stage((NET_POLICY / "fallback.py").read_bytes()), "adapter": core["files"]["adapter"]}
    fallback = {**core, "variant": "fallback", "files": files, "generation": 2}
    realm.applied(core, 1)
    assert realm.run("confirm", "--program", "sample-trace", "--token", "1")[0] == 0
    answer = realm.applied(fallback, 2)
    assert answer["left"] == [] and filters(realm) == [] and chains(realm)
    assert realm.row()["observed"]["rules"] > 0
    realm.make_due("revert.json", "at_boot")  # nobody confirmed
    row = realm.reaches("reverted", "COR-AGT-022")
    assert (row["variant"], row["generation"], row["observed"]["alive"]) == ("core", 1, True)
    assert len(filters(realm)) == 2 and chains(realm) == []
    # A dead holder's pinned policy is not forgotten when another variant takes over.
    os.kill(realm.holder()["pid"], signal.SIGKILL)
    realm.reaches("failed", "COR-AGT-023")
    realm.applied({**fallback, "generation": 3}, 3)
    assert filters(realm) == [] and chains(realm)
    assert realm.run("remove", "--program", "sample-trace", "--token", "4")[0] == 0
    assert filters(realm) == [] and chains(realm) == []


def test_a_failed_successor_leaves_the_policy_of_a_dead_holder_in_force(realm: Realm) -> None:
    realm.applied(policy(realm), 1)
    os.kill(realm.holder()["pid"], signal.SIGKILL)
    realm.reaches("failed", "COR-AGT-023")
    wrong = {**POLICY, "interface": "absent0"}
    status, answer = realm.apply(policy(realm, generation=2, config=wrong), 2)
    assert (status, answer["code"]) == (1, "COR-AGT-008") and "absent0" in answer["message"]
    row = realm.row()
    assert len(filters(realm)) == 2 and (row["state"], row["generation"], row["token"]) == ("failed", 1, 2)
    assert row["observed"]["alive"] and "generation 2" in row["reason"]
    # Not even when the failed one is of another variant and the next of that variant succeeds.
    files = {"module": realm.stage((NET_POLICY / "fallback.py").read_bytes())}
    fallback = policy(realm, variant="fallback", files=files, generation=3)
    assert realm.apply({**fallback, "kernel": {"build_id": "00", "release": "0"}}, 3)[0] == 3
    realm.applied(fallback, 4)
    assert filters(realm) == []
    assert realm.run("remove", "--program", "sample-trace", "--token", "5")[0] == 0
    assert filters(realm) == [] and chains(realm) == []


def test_a_filter_someone_removed_is_noticed(realm: Realm) -> None:
    realm.applied(policy(realm), 1)
    realm.inside("tc", "qdisc", "del", "dev", "up0", "clsact")
    row = realm.row()
    assert (row["state"], row["observed"]["alive"]) == ("failed", False) and row["reason"].startswith("COR-AGT-027")


def test_without_bpffs_networking_is_blocked(realm: Realm) -> None:
    realm.inside("umount", "/sys/fs/bpf")
    status, answer = realm.apply(policy(realm), 1)
    assert (status, answer["code"]) == (3, "COR-AGT-011") and answer["remedy"].startswith("mount")
    realm.inside("mount", "-t", "bpf", "bpf", "/sys/fs/bpf")


def test_facts_come_from_the_same_agent(realm: Realm) -> None:
    status, answer = realm.run("facts")
    assert status == 0 and answer["schema"] == "corollout.facts/1"
    assert answer["facts"]["mount.bpffs"]["answer"] == "yes"


def test_nothing_of_these_tests_is_left() -> None:
    with contextlib.suppress(FileNotFoundError):
        assert not list(Path("/sys/fs/bpf").iterdir())
    assert shutil.which("bpftool")
