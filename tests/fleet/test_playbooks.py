"""The shipped playbooks against real sshds: said first, done once, not done twice, undone without a trace.

One lab serves all tests in this file, in their order: each leaves hosts without programs.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab_fleet import LabFleet, eventually
from test_collection import BIN, ENVIRONMENT

from fleet.lab.hosts import LabHost
from fleet.lab.namespaces import Lab

pytestmark = [pytest.mark.lab, pytest.mark.kernel]

# The third has no Python at all: no module of Ansible's runs there, and the runner alone holds the program.
HOSTS = (LabHost("core-1"), LabHost("fallback-1", bpf_errno="EPERM"), LabHost("no-python", ("tracefs", "no-python")))
PAIR = ("core-1", "fallback-1")
BARE = "no-python"
ALL = (*PAIR, BARE)
PROGRAM = "tcp-flow"
# What of ours a host may show beside the two folders of the agent: files, pins, filters, processes with what they hold.
TRACE = (
    "find /sys/fs/bpf /tmp /root /run -mindepth 1 | grep -v ^/run/corollout; tc qdisc show dev eth0 | grep clsact;"
    " ps -eo args | grep -E 'agent/|bpfrun' | grep -v grep; true"
)
_RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)


@dataclass
class Ansible:
    """A person with Ansible: an inventory of their own, and a home that begins empty."""

    fleet: LabFleet
    inventory: Path

    def argv(self, playbook: str, *options: str) -> list[str]:
        known = ("-e", f"corollout_home={self.fleet.home}", "-e", f"corollout_program={PROGRAM}")
        return [str(BIN / "ansible-playbook"), "-i", str(self.inventory), playbook, *known, *options]

    def play(self, playbook: str, *options: str, code: int = 0) -> tuple[dict[str, int], str]:
        """Run a playbook; returns how much changed on each host, and what was said."""
        argv = self.argv(playbook, *options)
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=300)
        assert done.returncode == code, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        rows = _RECAP.findall(done.stdout)
        assert code or all(unreachable == failed == "0" for _, _, _, unreachable, failed in rows)
        return {host: int(changed) for host, _, changed, _, _ in rows}, done.stdout

    def traces(self) -> dict[str, str]:
        return {name: self.fleet.shell(name, TRACE) for name in ALL}


@pytest.fixture(scope="module")
def ansible(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ansible]:
    folder = tmp_path_factory.mktemp("playbooks")
    lab = Lab(folder / "lab", number=93, hosts=HOSTS)
    fleet = LabFleet(lab, folder / "home")
    try:
        lab.up()
        rows = {
            h.name: {
                "ansible_host": lab.address(h),
                "ansible_user": "root",
                "ansible_private_key_file": str(lab.folder / "client_key"),
                "ansible_ssh_common_args": f"-o UserKnownHostsFile={lab.folder / 'known_hosts'}",
            }
            for h in lab.hosts
        }
        inventory = folder / "hosts.yml"
        inventory.write_text(json.dumps({"all": {"hosts": rows}}))
        yield Ansible(fleet, inventory)
    finally:
        lab.down()


ALL_AT_ONCE = ("-e", '{"corollout_serial": ["100%"]}')


def test_said_done_kept_and_undone(ansible: Ansible) -> None:
    before = ansible.traces()
    changed, said = ansible.play("corollout.fleet.deploy", "--check", "--diff", *ALL_AT_ONCE)
    assert changed == dict.fromkeys(ALL, 1)
    assert '+    "variant": "core"' in said
    assert '+    "variant": "fallback"' in said
    assert ansible.traces() == before
    assert {ansible.fleet.shell(n, "ls /var/lib/corollout") for n in ALL} == {""}  # not even the agent

    changed, _ = ansible.play("corollout.fleet.deploy", "-e", "corollout_bake=1", *ALL_AT_ONCE)
    assert changed == dict.fromkeys(ALL, 1)
    assert {n: ansible.fleet.applied(n, PROGRAM) for n in PAIR} == dict.fromkeys(PAIR, 1)
    standing = ansible.traces()
    assert all("hold" in standing[n] for n in PAIR)
    assert "runner" in standing[BARE]

    changed, _ = ansible.play("corollout.fleet.deploy", *ALL_AT_ONCE)
    assert changed == dict.fromkeys(ALL, 0)
    assert {n: ansible.fleet.applied(n, PROGRAM) for n in PAIR} == dict.fromkeys(PAIR, 1)

    changed, _ = ansible.play("corollout.fleet.rollback")
    assert changed == dict.fromkeys(ALL, 1)
    assert ansible.traces() == before
    changed, _ = ansible.play("corollout.fleet.rollback")
    assert changed == dict.fromkeys(ALL, 0)


def test_a_play_that_nobody_adapted_finds_its_hosts_by_group(ansible: Ansible, tmp_path: Path) -> None:
    (tmp_path / "web.fleet.yml").write_text(f"plugin: corollout.fleet.fleet\nrecord: {ansible.fleet.home}\n")
    play = tmp_path / "theirs.yml"
    play.write_text(
        "- hosts: variant_tcp_flow_fallback:&verdict_tcp_flow_degraded:&zone_default\n"
        "  gather_facts: false\n"
        "  tasks:\n"
        "    - ansible.builtin.raw: hostname\n"
        "      register: said\n"
        "    - ansible.builtin.debug: {msg: 'it is {{ said.stdout }}'}\n"
    )
    by_group = Ansible(ansible.fleet, tmp_path / "web.fleet.yml")
    changed, said = by_group.play(str(play))
    assert changed == {"fallback-1": 1}
    assert "it is fallback-1" in said


def test_the_record_hears_of_every_order_with_its_token(ansible: Ansible) -> None:
    from fleet.record import open_record

    with open_record(ansible.fleet.home / "fleet.db", read_only=True) as record:
        orders = {n: [e for e in record.events(limit=1000, host=n) if e.token is not None] for n in ALL}
    for rows in orders.values():
        assert [e.verb for e in rows] == ["apply", "remove"]
        tokens = [e.token for e in rows]
        assert tokens == sorted(set(tokens))


@pytest.mark.proof
def test_killed_in_the_middle_and_run_again(ansible: Ansible) -> None:
    applied = {n: ansible.fleet.applied(n, PROGRAM) for n in PAIR}
    play = subprocess.Popen(
        ansible.argv("corollout.fleet.deploy", *ALL_AT_ONCE),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT, start_new_session=True,
    )  # fmt: skip
    staged = "ls /var/lib/corollout/programs/*/intent.json /var/lib/corollout/artefacts 2>/dev/null"
    eventually(lambda: any(ansible.fleet.shell(n, staged) for n in PAIR), "something on a host", within_s=120)
    play.kill()
    play.wait()
    ansible.play("corollout.fleet.deploy", *ALL_AT_ONCE)
    changed, _ = ansible.play("corollout.fleet.deploy", *ALL_AT_ONCE)
    assert changed == dict.fromkeys(ALL, 0)
    assert all(1 <= ansible.fleet.applied(n, PROGRAM) - applied[n] <= 2 for n in PAIR)
    changed, _ = ansible.play("corollout.fleet.rollback")
    assert changed == dict.fromkeys(ALL, 1)
