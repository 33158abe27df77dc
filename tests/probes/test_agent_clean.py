"""The residue cleaner: what is ours and nobody's is found and goes; what somebody else made, or still needs, stays."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_host import FALLBACK, AgentHost, wait_for
from test_agent_kernel import NET_POLICY, POLICY, RUNNER, Realm, filters, policy

from probes.agent import process, residue, units
from probes.agent.zipapp import build_agent

FOREIGN = "/sys/fs/bpf/foreign/net_policy_in"
RULE = {"id": 1, "dir": "egress", "action": "deny", "proto": "udp", "port": [9, 9], "origin": "test"}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[AgentHost]:
    made = AgentHost(tmp_path)
    made.stage(FALLBACK.encode())
    yield made
    made.run("remove", "--program", "sample-trace", "--token", str(2**40))
    assert made.close() == [] and made.marks() == []


@pytest.fixture
def realm(tmp_path: Path) -> Iterator[Realm]:
    made = Realm(tmp_path)
    try:
        yield made
    finally:
        assert made.close() == []


def cleaned(host: AgentHost, *arguments: str) -> Any:
    status, answer = host.run("clean", *arguments)
    assert status == 0, answer
    return answer


def kinds(rows: Any) -> list[str]:
    return sorted(row["kind"] for row in rows)


def test_what_runs_is_no_residue_and_stays(host: AgentHost) -> None:
    host.applied(host.spec(boot="ask"), 7)
    holder = host.holder()
    assert host.run("status")[1]["residue"] == []
    assert cleaned(host, "--older-s", "0")["removed"] == []
    assert host.holder() == holder and host.row()["observed"]["alive"]


def test_after_the_last_remove_only_the_tombstone_is_left(host: AgentHost) -> None:
    host.stage(b"an artefact that no spec names")
    host.applied(host.spec(), 7)
    wait_for(host.records)
    assert host.run("remove", "--program", "sample-trace", "--token", "8")[0] == 0
    agents = host.state / "agent"
    agents.mkdir()
    for name in ("a" * 64 + ".pyz", "a" * 64 + ".pyz.cpython-36", "b" * 64 + ".pyz.4711"):  # compiled; half brought
        (agents / name).write_bytes(build_agent())
    assert cleaned(host, "--check")["residue"] == []  # younger than a day
    told = cleaned(host, "--check", "--older-s", "0")
    assert told["removed"] == [] and set(kinds(told["residue"])) == {"file"} and len(told["residue"]) > 4
    assert len(list((host.state / "artefacts").iterdir())) == 2  # --check changes nothing
    answer = cleaned(host, "--older-s", "0")
    assert answer["residue"] == [] and len(answer["removed"]) == len(told["residue"])
    left = sorted(str(p.relative_to(host.state)) for p in host.state.rglob("*") if p.is_file())
    folder = "programs/sample-trace"
    assert left == ["lock", f"{folder}/journal.jsonl", f"{folder}/state.json"]
    assert cleaned(host, "--older-s", "0")["removed"] == []
    status, answer = host.apply(host.spec(), 7)  # and the tombstone still fences
    assert (status, answer["code"]) == (3, "COR-AGT-003")


def test_a_process_that_no_state_names_is_ended_and_a_strangers_is_not(host: AgentHost) -> None:
    host.applied(host.spec(), 7)
    stray = host.holder()
    state = host.state / "programs/sample-trace/state.json"
    kept = state.read_text()
    state.unlink()  # as on a host whose disk was restored
    os.kill(stray["pid"], signal.SIGSTOP)
    (host.state / "programs/sample-trace/status.json").unlink()
    elsewhere = AgentHost(host.folder / "elsewhere")  # the same words, another state directory
    elsewhere.stage(FALLBACK.encode())
    elsewhere.applied(elsewhere.spec(), 1)
    found = host.run("status")[1]["residue"]
    assert set(kinds(found)) == {"process"} and any(row["what"] == f"{stray['pid']}: hold" for row in found)
    assert set(kinds(cleaned(host)["removed"])) >= {"process"}
    wait_for(lambda: not process.alive(stray))
    wait_for(lambda: not host.marks())
    assert elsewhere.row()["observed"]["alive"]
    assert elsewhere.run("remove", "--program", "sample-trace", "--token", "2")[0] == 0
    assert elsewhere.close() == []
    state.write_text(kept)


def lose(realm: Realm) -> None:
    """Let the records of everything vanish: a state directory that was wiped, or never came back from a backup."""
    for party in (realm.holder(), realm.child()):
        os.kill(party["pid"], signal.SIGKILL)
    shutil.rmtree(realm.state / "programs")


@pytest.mark.kernel
def test_pins_and_filters_that_nobody_recorded_go_and_foreign_ones_stay(realm: Realm) -> None:
    realm.applied(policy(realm), 1)
    realm.inside("bpftool", "prog", "loadall", str(NET_POLICY / "core.bpf.o"), "/sys/fs/bpf/foreign")
    realm.inside("tc", "qdisc", "add", "dev", "up1", "clsact")
    realm.inside("tc", "filter", "add", "dev", "up1", "ingress", "pref", "192", "bpf", "da", "pinned", FOREIGN)
    foreign = realm.inside("tc", "filter", "show", "dev", "up1", "ingress")
    assert foreign and realm.run("status")[1]["residue"] == []
    lose(realm)
    wait_for(lambda: kinds(realm.run("status")[1]["residue"]) == ["pins"])
    assert len(filters(realm)) == 2
    assert kinds(cleaned(realm, "--check")["residue"]) == ["pins"] and len(filters(realm)) == 2
    answer = cleaned(realm)
    assert (answer["residue"], kinds(answer["removed"])) == ([], ["pins"])
    assert filters(realm) == [] and "clsact" not in realm.inside("tc", "qdisc", "show", "dev", "up0")
    there = realm.inside("ls", "/sys/fs/bpf").split()
    assert "foreign" in there and "corollout" not in there
    assert realm.inside("tc", "filter", "show", "dev", "up1", "ingress") == foreign
    realm.inside("rm", "-r", "/sys/fs/bpf/foreign")


@pytest.mark.kernel
def test_rules_and_sets_that_nobody_recorded_go_and_foreign_ones_stay(realm: Realm) -> None:
    rules = [{**RULE, "cidr": f"192.0.2.{n}/32"} for n in (1, 2, 3)]
    files = {"module": realm.stage((NET_POLICY / "fallback.py").read_bytes())}
    spec = policy(realm, variant="fallback", files=files, config={**POLICY, "rules": rules})
    realm.inside("iptables", "-N", "COROLLARY")
    realm.inside("iptables", "-A", "INPUT", "-p", "tcp", "--dport", "9", "-j", "COROLLARY")
    realm.inside("ipset", "create", "foreign", "hash:net")
    before = realm.inside("iptables-save"), realm.inside("ipset", "list", "-name")
    realm.applied(spec, 1)
    assert realm.run("status")[1]["residue"] == []
    assert "corollout-" in realm.inside("ipset", "list", "-name")
    lose(realm)
    found = wait_for(lambda: realm.run("status")[1]["residue"])
    assert set(kinds(found)) == {"iptables", "ipset"}
    assert cleaned(realm)["residue"] == []
    after = realm.inside("iptables-save"), realm.inside("ipset", "list", "-name")
    assert [line for line in after[0].splitlines() if "# " not in line and "[" not in line] == [
        line for line in before[0].splitlines() if "# " not in line and "[" not in line
    ]
    assert after[1] == before[1] and cleaned(realm, "--check")["residue"] == []


def test_a_unit_is_ours_by_its_first_line_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "UNITS", str(tmp_path / "units"))
    monkeypatch.setattr(units, "CRON", str(tmp_path / "cron"))
    for folder in ("units", "cron"):
        (tmp_path / folder).mkdir()
    ours = tmp_path / "units/corollout-12345678.service"
    ours.write_text(f"{units.OWNER}/srv/state\n[Unit]\n")
    (tmp_path / "units/corollout-theirs.service").write_text("[Unit]\n")
    (tmp_path / "cron/corollout").write_text(f"{units.OWNER}/var/lib/corollout\n@reboot root true\n")
    assert units.owned() == {str(ours): "/srv/state", str(tmp_path / "cron/corollout"): "/var/lib/corollout"}
    assert units.starts_at_boot("/var/lib/corollout") == f"cron: {tmp_path / 'cron/corollout'}"
    assert units.starts_at_boot("/srv/other") == "nothing will start it"


def test_a_command_is_quoted_for_systemd() -> None:
    text = units._quoted(["/usr/bin/python3", "-c", 'print("50%", "$HOME", "\\\\")', "a b"])
    assert text == '"/usr/bin/python3" "-c" "print(\\"50%%\\", \\"$$HOME\\", \\"\\\\\\\\\\")" "a b"'


def test_a_runner_is_found_among_objects_whatever_their_names(tmp_path: Path) -> None:
    (tmp_path / "artefacts").mkdir()
    shutil.copy(NET_POLICY / "core.bpf.o", tmp_path / "artefacts" / ("0" * 64))
    shutil.copy(RUNNER, tmp_path / "artefacts" / ("1" * 64))
    shutil.copy(NET_POLICY / "core.bpf.o", tmp_path / "artefacts" / ("2" * 64))
    assert residue._runner(str(tmp_path)) == str(tmp_path / "artefacts" / ("1" * 64))
