"""Hosts from TOML, from Ansible's own loader and from ssh configs."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btf.fault import Fault
from inventory.host import Host, HostMalformed
from inventory.sources import InventoryUnreadable, load
from inventory.sources.ssh_config import parse_ssh_config
from inventory.sources.toml_file import parse_toml


def toml(text: str) -> list[Host]:
    return parse_toml(text.encode(), folder=Path("/inv"))


def test_toml_rows_take_the_defaults_and_paths_start_at_the_file() -> None:
    hosts = toml(
        """
        [defaults]
        user = "admin"
        key_file = "keys/id"
        labels = { site = "a", role = "none" }
        [[host]]
        name = "web1"
        address = "192.0.2.1"
        labels = { role = "web" }
        [[host]]
        name = "web2"
        port = 2222
        key_file = "~/id"
        known_hosts = "/etc/known"
        addresses = ["192.0.2.2", "2001:db8::2"]
        jump = "web1"
        """
    )
    assert hosts == [
        Host("web1", address="192.0.2.1", user="admin", key_file="/inv/keys/id", labels={"site": "a", "role": "web"}),
        Host(
            "web2",
            port=2222,
            user="admin",
            key_file="~/id",
            known_hosts="/etc/known",
            addresses=("192.0.2.2", "2001:db8::2"),
            jump="web1",
            labels={"site": "a", "role": "none"},
        ),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[host]]\nname='a'\nadress='x'", "did you mean 'address'"),
        ("[[host]]\naddress='x'", "name"),
        ("[[hosts]]\nname='a'", "did you mean 'host'"),
        ("[host]\nname='a'", r"\[\[host\]\]"),
        ("host = 3", r"\[\[host\]\]"),
        ("host = ['a']", r"\[\[host\]\]"),
        ("defaults = 3\n[[host]]\nname='a'", r"\[\[host\]\]"),
        ("[defaults]\nname='a'", "unknown key 'name'"),
        ("[[host]]\nname='a'\nport='22'", "port"),
        ("[[host]]\nname='a'\nport=0", "port 0"),
        ("[[host]]\nname='../a'", "not a host name"),
        ("[[host]]\nname='a'\nconnection='telnet'", "telnet"),
        ("[[host]]\nname='a'\nlabels={x=1}", "labels"),
        ("[[host]]\nname='a'\nlabels='x'\n[defaults]\nlabels={y='z'}", "labels"),
        ("[[host]]\nname='a'\nstate_dir='x'", "absolute"),
        ("[[host", "array declaration"),
        ("a = " + "[" * 5000, "COR-INV-002"),
    ],
)
def test_bad_toml_is_one_fault_that_says_where(text: str, said: str) -> None:
    with pytest.raises((InventoryUnreadable, HostMalformed), match=said):
        toml(text)


_VALUES = st.recursive(
    st.one_of(st.booleans(), st.integers(-5, 70000), st.text(max_size=8).map(lambda t: t.replace("'", ""))),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(
                ["name", "address", "port", "labels", "addresses", "jump", "user", "zone", "key_file", "x"]
            ),
            _VALUES,
            max_size=5,
        ),
        max_size=4,
    )
)
def test_any_table_is_hosts_or_one_fault(rows: list[dict[str, object]]) -> None:
    text = "".join("[[host]]\n" + "".join(f"{k} = {_toml(v)}\n" for k, v in row.items()) for row in rows)
    try:
        hosts = parse_toml(text.encode(), folder=Path("/inv"))
    except (InventoryUnreadable, HostMalformed) as fault:
        assert str(fault).isprintable()
    else:
        assert [host.name for host in hosts] == [row["name"] for row in rows]


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return f"'{value}'" if isinstance(value, str) else str(value)


@given(st.binary(max_size=120))
def test_any_bytes_are_hosts_or_one_fault(data: bytes) -> None:
    with contextlib.suppress(InventoryUnreadable, HostMalformed):
        parse_toml(data, folder=Path("/inv"))


def test_load_sorts_and_refuses_doubles_dangling_jumps_and_nothing(tmp_path: Path) -> None:
    file = tmp_path / "hosts.toml"
    file.write_text("[[host]]\nname='b'\n[[host]]\nname='a'\njump='b'\n")
    assert [host.name for host in load(file)] == ["a", "b"]
    for text, said in (
        ("[[host]]\nname='a'\n[[host]]\nname='a'\n", "twice"),
        ("[[host]]\nname='a'\njump='x'\n", "jump host 'x'"),
        ("", "no hosts"),
    ):
        file.write_text(text)
        with pytest.raises(Fault, match=said):
            load(file)
    with pytest.raises(InventoryUnreadable, match="no such file"):
        load(tmp_path / "nothing.toml")


INI = """
[web]
w1 ansible_host=192.0.2.1 ansible_port=2222 ansible_ssh_common_args="-J bastion -o UserKnownHostsFile=/etc/kh"
w2 ansible_connection=local
[edge]
bastion ansible_host=192.0.2.9 corollout_addresses="192.0.2.9 2001:db8::9"
switch ansible_connection=network_cli corollout_skip=true
[web:vars]
ansible_user=deploy
corollout_zone=eu
corollout_labels={"tier": "front"}
"""
YAML = """
all:
  vars: {net: 192.0.2}
  children:
    web:
      vars: {ansible_user: deploy, corollout_zone: eu, corollout_labels: {tier: front}}
      hosts:
        w1:
          ansible_host: "{{ net }}.1"
          ansible_port: 2222
          ansible_ssh_common_args: "-J bastion -o UserKnownHostsFile=/etc/kh -o StrictHostKeyChecking=no"
        w2: {ansible_connection: local}
    edge:
      hosts:
        bastion: {ansible_host: "{{ net }}.9", corollout_addresses: ["{{ net }}.9", "2001:db8::9"]}
        switch: {ansible_connection: network_cli, corollout_skip: true}
"""
FLEET = [
    Host("bastion", address="192.0.2.9", addresses=("192.0.2.9", "2001:db8::9"), labels={"group.edge": "true"}),
    Host(
        "w1",
        address="192.0.2.1",
        port=2222,
        user="deploy",
        known_hosts="/etc/kh",
        jump="bastion",
        zone="eu",
        labels={"group.web": "true", "tier": "front"},
    ),
    Host("w2", user="deploy", connection="local", zone="eu", labels={"group.web": "true", "tier": "front"}),
]


@pytest.mark.parametrize(("name", "text"), [("hosts", INI), ("hosts.ini", INI), ("hosts.yml", YAML)])
def test_ansible_inventories_of_every_form_give_the_same_hosts(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert load(tmp_path / name) == FLEET


def test_an_ansible_folder_with_group_vars_and_a_plugin_is_read(tmp_path: Path) -> None:
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars" / "web.yml").write_text("ansible_user: deploy\n")
    (tmp_path / "01-hosts").write_text("[web]\nw1\nw2\n")
    (tmp_path / "02-constructed.yml").write_text(
        "plugin: ansible.builtin.constructed\nstrict: true\ngroups:\n  second: inventory_hostname == 'w2'\n"
    )
    hosts = {host.name: host for host in load(tmp_path)}
    assert {host.user for host in hosts.values()} == {"deploy"}
    assert hosts["w2"].labels == {"group.web": "true", "group.second": "true"}


def test_an_inventory_script_is_run(tmp_path: Path) -> None:
    script = tmp_path / "dynamic"
    answer = {"web": {"hosts": ["w1"]}, "_meta": {"hostvars": {"w1": {"ansible_host": "192.0.2.7"}}}}
    script.write_text(f"#!{sys.executable}\nprint({json.dumps(answer)!r})\n")
    script.chmod(0o755)
    assert load(script) == [Host("w1", address="192.0.2.7", labels={"group.web": "true"})]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("all: [1, {", "parse"),
        ("all: {hosts: {a: {ansible_host: '{{ nowhere }}'}}}", "nowhere"),
        ("all: {hosts: {a: {ansible_connection: winrm}}}", "winrm"),
        ("all: {hosts: {a: {ansible_port: x}}}", "port"),
        ("all: {hosts: {a: {corollout_labels: [1]}}}", "mapping"),
        ("all: {hosts: {a: {corollout_jump: zzz}}}", "zzz"),
        ("all: {hosts: {a: {ansible_ssh_args: '\"'}}}", "quotation"),
        ("all: {hosts: {'a/b': {}}}", "host name"),
        ("all: {}", "no hosts"),
    ],
)
def test_a_bad_ansible_inventory_is_one_fault_and_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    (tmp_path / "hosts.yml").write_text(text)
    with pytest.raises((InventoryUnreadable, HostMalformed), match=said) as caught:
        load(tmp_path / "hosts.yml")
    assert str(caught.value).isprintable()
    assert capfd.readouterr() == ("", "")


def test_reading_toml_does_not_load_ansible() -> None:
    code = (
        "import sys, inventory.sources.toml_file, inventory.selector, inventory.facts\n"
        "sys.exit('ansible' in sys.modules or 'paramiko' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


SSH_CONFIG = """
Host bastion
  HostName 192.0.2.9
  Port 2200
  User jumper
Host web1 web2
  HostName %h.example
  ProxyJump bastion
  UserKnownHostsFile /etc/kh /etc/kh2
Host *.lab !secret.lab
  User nobody
Host *
  User admin
  IdentityFile /keys/id
"""


def test_ssh_config_names_are_hosts_and_patterns_are_not() -> None:
    assert parse_ssh_config(SSH_CONFIG) == [
        Host("bastion", address="192.0.2.9", port=2200, user="jumper", key_file="/keys/id"),
        *(
            Host(
                name,
                address=f"{name}.example",
                user="admin",
                key_file="/keys/id",
                known_hosts="/etc/kh",
                jump="bastion",
            )
            for name in ("web1", "web2")
        ),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Host a\n  ProxyJump x@y:22", "ProxyJump"),
        ("Host a\n  ProxyCommand nc %h %p", "ProxyCommand"),
        ("Include other\nHost a", "Include"),
        ("Host a\n  Port ssh", "port"),
        ("Host a\n  Port 99999", "port"),
        ("Host a b_\n", "host name"),
        ('Host "a\n', "COR-INV-00"),
        ("nonsense", "nonsense"),
    ],
)
def test_a_bad_ssh_config_is_one_fault(text: str, said: str) -> None:
    with pytest.raises((InventoryUnreadable, HostMalformed), match=said):
        parse_ssh_config(text)


@given(st.text(max_size=100))
def test_any_text_as_ssh_config_is_hosts_or_one_fault(text: str) -> None:
    try:
        parse_ssh_config(text)
    except (InventoryUnreadable, HostMalformed) as fault:
        assert str(fault).isprintable()
