"""A fleet of four kernels, rolled out end to end over SSH: the running one in a namespaced host, three in full guests.

`make proof` runs this, `make test` does not: the guests are emulated, and built the first time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_fleet import LabFleet, eventually
from lab_kernels import CACHE

from fleet.lab.guests import GuestLab
from fleet.lab.hosts import LabHost
from fleet.lab.namespaces import Lab
from inventory.connect import open_connection
from inventory.sources import load

pytestmark = pytest.mark.proof

PLAIN = LabHost("plain-1", ("tracefs", "securityfs"), role="web")
# Emulated hosts pay the emulator's price in user space: about thirty times the usual.
SLOW = ("--budget", "cpu_percent=300", "--budget", "ns_per_event=1000000", "--budget", "loss_percent=5")
WITHIN_S = 900.0
SENT, RECEIVED = 1234, 5000
CONVERSE = f"""
import json, socket, time
listener = socket.socket(); listener.bind(("127.0.0.1", 0)); listener.listen(1)
near = socket.socket(); near.connect(listener.getsockname()); far, _ = listener.accept()
near.sendall(b"q" * {SENT}); left = {SENT}
while left: left -= len(far.recv(left))
far.sendall(b"a" * {RECEIVED}); left = {RECEIVED}
while left: left -= len(near.recv(left))
print(json.dumps([near.getsockname()[1], listener.getsockname()[1]]))
near.shutdown(socket.SHUT_WR); far.recv(1); far.close(); near.recv(1)
"""
RESIDUE = "find /sys/fs/bpf -mindepth 1; ps -eo args | grep -E 'agent/|bpfrun' | grep -v grep; true"


def say(line: str) -> None:
    os.write(2, f"proof: {line}\n".encode())


@pytest.fixture(scope="module")
def guests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuestLab]:
    made = GuestLab(tmp_path_factory.mktemp("guests") / "lab", CACHE)
    made.up(say)
    try:
        yield made
    finally:
        made.down()
    assert made.standing() == []


@pytest.fixture(scope="module")
def fleet(guests: GuestLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabFleet]:
    folder = tmp_path_factory.mktemp("fleet")
    lab = Lab(folder / "lab", number=79, hosts=(PLAIN,))
    found = LabFleet(lab, folder / "home", patience_s=WITHIN_S)
    try:
        found.run("init")
        found.run("hosts", "import", str(lab.up(say)))
        found.run("hosts", "import", str(guests.folder / "hosts.toml"))
        say("scanning four hosts")
        found.run("hosts", "scan", "--timeout", "60", "--deadline", "300")
        yield found
    finally:
        lab.down()


def shell(guests: GuestLab, name: str, command: str, stdin: bytes = b"") -> str:
    known = {h.name: h for h in load(guests.folder / "hosts.toml", kind="toml")}
    with open_connection(known[name], hosts=known, timeout_s=60) as connection:
        return connection.run(command, stdin=stdin, timeout=300).stdout.decode()


def test_four_kernels_are_scanned_and_decided(fleet: LabFleet) -> None:
    hosts = {h["name"]: h for h in fleet.ask("hosts", "list")["hosts"]}
    assert {h["reach"] for h in hosts.values()} == {"reachable"}
    assert {name: h["variants"]["tcp-flow"] for name, h in hosts.items()} == dict.fromkeys(hosts, "core")
    kernels = {name: h["release"].split(".")[:2] for name, h in hosts.items()}
    assert kernels.pop("plain-1") == os.uname().release.split(".")[:2]
    assert kernels == {f"guest-{series}": series.split(".") for series in ("5.10", "6.1", "6.12")}


def test_a_rollout_goes_to_all_of_them_and_back(fleet: LabFleet, guests: GuestLab) -> None:
    names = [g.name for g in guests.guests]
    before = {name: shell(guests, name, RESIDUE) for name in names}
    say("rolling out tcp-flow")
    rollout_id = fleet.roll_out("tcp-flow", *SLOW)
    assert fleet.state(rollout_id) == "COMPLETED"
    status = fleet.status("tcp-flow")
    assert {name: row["state"] for name, row in status.items()} == dict.fromkeys(["plain-1", *names], "running")
    for name in names:
        near, far = json.loads(shell(guests, name, "python3 -", CONVERSE.encode()))

        def seen(host: str = name, ports: tuple[int, int] = (near, far)) -> list[dict[str, Any]] | None:
            rows = fleet.records(host, "tcp-flow")
            found = [r for r in rows if (r["sport"], r["dport"]) in (ports, ports[::-1])]
            return found if len(found) == 2 else None

        records = eventually(seen, f"{name} saw both ends", within_s=120)
        assert {(r["role"], r["tx_bytes"], r["rx_bytes"]) for r in records} == {
            ("client", SENT, RECEIVED),
            ("server", RECEIVED, SENT),
        }
    say("rolling back")
    fleet.run("rollout", "rollback", rollout_id, "--yes")
    assert fleet.state(rollout_id) == "ROLLED_BACK"
    assert {name: shell(guests, name, RESIDUE) for name in names} == before


def test_a_guest_that_is_cut_off_is_gone_with_its_lab(tmp_path: Path) -> None:
    """Ctrl-C while guests start: none runs on."""
    code = (
        "import signal, sys; from pathlib import Path; from fleet.lab.guests import GuestLab, guest\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts without\n"
        "GuestLab(Path(sys.argv[1]), Path(sys.argv[2]), guests=[guest('6.12')]).up(lambda l: print(l, flush=True))"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "lab"), str(CACHE)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("guest: starting"):
            assert process.poll() is None
        lab = GuestLab(tmp_path / "lab", CACHE)
        eventually(lab.standing, "it runs")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) != 0
    assert lab.standing() == []
