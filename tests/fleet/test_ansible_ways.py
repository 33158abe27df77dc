"""Ansible's words as our faults, and our hosts as Ansible reads them. No host is touched."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from btf.fault import Fault
from fleet.rollout.execute.ansible import AnsibleConnection
from fleet.rollout.execute.ansible_inventory import write_inventory
from fleet.rollout.execute.ansible_run import AnsibleRun
from fleet.rollout.execute.ansible_words import failed, unreachable
from fleet.rollout.execute.slices import Call, Slices
from inventory.connect import Completed
from inventory.host import Host

VIA = "Failed to connect to the host via ssh: "
SAID = {
    "@@@@@@@\r\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\r\n...\r\n"
    "Host key verification failed.": "COR-SSH-012",
    "No ED25519 host key is known for 198.18.1.2 and you have requested strict checking.\r\n"
    "Host key verification failed.": "COR-SSH-011",
    "root@h: Permission denied (publickey).": "COR-SSH-013",
    "ssh: connect to host 198.18.1.2 port 22: Connection timed out": "COR-SSH-002",
    "Connection timed out during banner exchange": "COR-SSH-002",
    "Connection to 198.18.1.2 closed by remote host.": "COR-SSH-005",
    "client_loop: send disconnect: Broken pipe": "COR-SSH-005",
    "kex_exchange_identification: banner line contains invalid characters": "COR-SSH-004",
    "ssh: connect to host 198.18.1.2 port 22: Connection refused": "COR-SSH-001",
    "ssh: Could not resolve hostname nowhere: Name or service not known": "COR-SSH-001",
    "\x1b[31mwhat nobody has seen\x00": "COR-SSH-001",
}


@pytest.mark.parametrize(("words", "code"), SAID.items())
def test_ansibles_words_become_the_faults_of_ssh(words: str, code: str) -> None:
    fault = unreachable("web-1", VIA + words)
    assert fault.code == code
    assert fault.message.startswith("web-1: ")
    assert fault.message.isprintable()
    assert VIA.strip() not in fault.message


def test_a_call_that_failed_is_unknown_and_never_an_answer() -> None:
    assert failed("a", {"timed_out": True, "msg": "x"}, 5).code == "COR-SSH-003"
    assert failed("a", {"msg": "cannot\nwork"}, 5).code == "COR-SSH-001"
    assert failed("a", None, 5).code == "COR-SSH-001"


def test_a_connection_through_ansible_is_one_like_any_other(tmp_path: Path) -> None:
    """Bytes, statuses, bounds and time as over SSH; four calls at once are one run."""
    hosts = {n: Host(n, connection="local") for n in ("bytes", "status", "much", "late")}
    slices = Slices(AnsibleRun(hosts, tmp_path / "runs", inventory=None, timeout_s=5.0).carry, quiet_s=0.5)
    every = bytes(range(256)) * 40
    asked = {
        "bytes": ("cat; printf err >&2", every, 60.0),
        "status": ("exit 7", b"", 60.0),
        "much": ("head -c 200000 /dev/zero", b"", 60.0),
        "late": ("sleep 300", b"", 2.0),
    }

    def ask(name: str) -> Completed | str:
        command, stdin, timeout = asked[name]
        try:
            return AnsibleConnection(hosts[name], slices).run(command, stdin=stdin, timeout=timeout, limit=100_000)
        except Fault as fault:
            return fault.code

    with ThreadPoolExecutor(4) as pool:
        told = dict(zip(asked, pool.map(ask, asked), strict=True))
    assert told["bytes"] == Completed(0, every, b"err")
    assert told["status"] == Completed(7, b"", b"")
    assert told["much"] == Completed(-1, bytes(100_000), b"", truncated=True)
    assert told["late"] == "COR-SSH-003"
    for thread in threading.enumerate():
        if thread.name == "slice":  # answers are handed on while the run still ends
            thread.join(60)
    assert list((tmp_path / "runs").iterdir()) == []


def test_ansible_that_does_not_start_is_said_once_for_all(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yml"
    broken.write_text("all: [not an inventory")
    slices = Slices(AnsibleRun({}, tmp_path / "runs", inventory=broken, timeout_s=5.0).carry)
    with pytest.raises(Fault) as caught:
        AnsibleConnection(Host("h1"), slices).run("true")
    assert caught.value.code in ("COR-ROL-025", "COR-ROL-026")
    assert caught.value.message.isprintable()


def calls(*hosts: Host) -> list[Call]:
    return [Call(h, "true", b"", 5.0, 100, fresh=True) for h in hosts]


def test_our_hosts_as_ansible_reads_them(tmp_path: Path) -> None:
    key = tmp_path / "a key"
    key.touch()
    jump = Host("jump", address="198.18.0.1", port=2222, user="hop", known_hosts=str(tmp_path / "known"))
    far = Host("far", address="198.18.0.2", key_file=str(key), jump="jump")
    here = Host("here", connection="local")
    able, refused = write_inventory(tmp_path, calls(far, here), {"jump": jump, "far": far}, timeout_s=7)
    assert ([c.host.name for c in able], refused) == (["far", "here"], [])
    rows = json.loads((tmp_path / "hosts.json").read_text())["all"]["hosts"]
    assert rows["here"] == {"ansible_connection": "ansible.builtin.local"}
    assert rows["far"]["ansible_host"] == "far"
    assert "ControlMaster=no" in rows["far"]["ansible_ssh_args"]  # what confirms a program comes over a new connection
    config = (tmp_path / "ssh_config").read_text()
    blocks = {b.split("\n")[0]: b for b in config.split("Host ")[1:]}
    assert sorted(blocks) == ["far", "jump"]
    assert '  ProxyJump "jump"\n' in blocks["far"]
    assert f'  IdentityFile "{key}"\n' in blocks["far"]
    assert '  Port "2222"\n' in blocks["jump"]
    assert f'  UserKnownHostsFile "{tmp_path}/known"\n' in blocks["jump"]
    assert all('  StrictHostKeyChecking "yes"\n' in b for b in blocks.values())


@pytest.mark.parametrize(
    ("host", "code"),
    [
        (Host("a", address="1.2.3.4\n  ProxyCommand touch /tmp/x"), "COR-ROL-027"),
        (Host("a", user='root" x'), "COR-ROL-027"),
        (Host("a", key_file="/nowhere/key"), "COR-SSH-014"),
        (Host("a", jump="nobody"), "COR-SSH-015"),
    ],
)
def test_a_host_that_cannot_be_written_down_is_refused_alone(tmp_path: Path, host: Host, code: str) -> None:
    able, refused = write_inventory(tmp_path, calls(host, Host("b")), {}, timeout_s=7)
    assert [c.host.name for c in able] == ["b"]
    assert [(c.host.name, f.code) for c, f in refused] == [("a", code)]
    assert "ProxyCommand" not in (tmp_path / "ssh_config").read_text()
