"""Our hosts as an inventory for one Ansible run, with an ssh config beside it that says how each is reached.

Host keys are checked against the host's own known_hosts, jump hosts are those of the inventory, nobody is asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from btf.fault import Fault
from fleet.rollout.execute.slices import Call
from inventory.connect.errors import KeyUnusable, Refused
from inventory.connect.path import path_to
from inventory.host import Host

_TOKENS = ("HostName", "IdentityFile", "UserKnownHostsFile")  # in these, a percent sign begins a token
_ARGUMENTS = "-C -o ControlMaster=no -o ControlPath=none"  # a new connection is a new connection


class Unwritable(Refused):
    """A value of the inventory cannot stand in an ssh config."""

    code = "COR-ROL-027"
    remedy = "Quotes and control characters have no place in addresses, users and paths: correct the inventory."


def write_inventory(
    place: Path, calls: Sequence[Call], hosts: Mapping[str, Host], *, timeout_s: float
) -> tuple[list[Call], list[tuple[Call, Fault]]]:
    """Write ``hosts.json`` and ``ssh_config`` into *place*; returns the calls that can be made, and the others."""
    config, rows = place / "ssh_config", {}
    blocks: dict[str, str] = {}
    able, refused = [], []
    for call in calls:
        try:
            path = [call.host] if call.host.connection == "local" else path_to(call.host, hosts)
            blocks |= {hop.name: _block(hop, timeout_s) for hop in path if hop.connection == "ssh"}
        except Fault as fault:
            refused.append((call, fault))
            continue
        able.append(call)
        rows[call.host.name] = _variables(call.host, config)
    config.write_text("".join(blocks.values()))
    (place / "hosts.json").write_text(json.dumps({"all": {"hosts": rows}}))
    return able, refused


def _variables(host: Host, config: Path) -> dict[str, Any]:
    if host.connection == "local":
        return {"ansible_connection": "ansible.builtin.local"}
    return {
        "ansible_connection": "ansible.builtin.ssh",
        "ansible_host": host.name,  # a block of the config
        "ansible_ssh_args": f"-F {_quoted(config)} {_ARGUMENTS}",
        "ansible_host_key_checking": True,
    }


def _block(host: Host, timeout_s: float) -> str:
    """One host of the ssh config."""
    if host.key_file is not None and not Path(host.key_file).expanduser().is_file():
        raise KeyUnusable(f"{host.name}: there is no key file {host.key_file}")
    rows: list[tuple[str, Any]] = [
        ("HostName", host.address or host.name), ("Port", host.port), ("User", host.user),
        ("StrictHostKeyChecking", "yes"), ("BatchMode", "yes"), ("ConnectTimeout", max(1, int(timeout_s))),
        ("ServerAliveInterval", 15), ("ServerAliveCountMax", 4), ("UpdateHostKeys", "no"),
    ]  # fmt: skip
    if host.key_file is not None:
        rows.append(("IdentityFile", Path(host.key_file).expanduser()))
    if host.known_hosts is not None:
        rows += [("UserKnownHostsFile", Path(host.known_hosts).expanduser()), ("GlobalKnownHostsFile", "none")]
    if host.jump is not None:
        rows.append(("ProxyJump", host.jump))
    return f"Host {host.name}\n" + "".join(f"  {key} {value}\n" for key, value in _checked(host, rows))


def _checked(host: Host, rows: Iterable[tuple[str, Any]]) -> Iterable[tuple[str, str]]:
    """Yield *rows* as an ssh config takes them: quoted."""
    for key, value in rows:
        text = str(value)
        if not text.isprintable() or '"' in text or "\\" in text:
            raise Unwritable(f"{host.name}: {text!r} cannot be its {key}")
        yield key, f'"{text.replace("%", "%%") if key in _TOKENS else text}"'


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "'\"'\"'") + "'"
