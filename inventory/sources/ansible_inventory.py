"""Hosts from any Ansible inventory, read by ansible-core itself: INI, YAML, folders, scripts and plugins.

Understands the connection variables that Ansible does (``ansible_host`` …) and some of its own: ``corollout_zone``,
``corollout_labels``, ``corollout_addresses``, ``corollout_interface``, ``corollout_state_dir``, ``corollout_jump``,
``corollout_known_hosts`` and ``corollout_skip``. A host's groups become labels ``group.NAME=true``. Runs no play.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from btf.fault import printable
from inventory.host import Host, HostMalformed
from inventory.sources import InventoryUnreadable

_SSH = (
    "ssh",
    "smart",
    "paramiko",
    "paramiko_ssh",
    "ansible.builtin.ssh",
    "ansible.builtin.paramiko_ssh",
    "ansible.netcommon.libssh",
)
_LOCAL = ("local", "ansible.builtin.local")
_EVERYBODY = ("all", "ungrouped")
# Field of Host: the variables that may hold it, first one wins.
_TEXTS = {
    "address": ("ansible_host", "ansible_ssh_host"),
    "user": ("ansible_user", "ansible_ssh_user"),
    "key_file": ("ansible_private_key_file", "ansible_ssh_private_key_file"),
    "known_hosts": ("corollout_known_hosts",),
    "jump": ("corollout_jump",),
    "zone": ("corollout_zone",),
    "state_dir": ("corollout_state_dir",),
    "interface": ("corollout_interface",),
}
_ARGUMENTS = ("ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args")
_OPTION = re.compile(r"(ProxyJump|UserKnownHostsFile)\s*[= ]\s*(.+)", re.IGNORECASE)


def read(path: Path) -> list[Host]:
    """Read the inventory at *path*; raises InventoryUnreadable or HostMalformed.

    As with Ansible, a plugin or script of the inventory runs: read only what you trust.
    """
    # Ansible wraps the buffers of both streams when it is imported, so they must have some, and not be the real ones.
    said = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="replace", write_through=True)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            found = _ask_ansible(path)
    except HostMalformed:
        raise
    except Exception as error:  # whatever a plugin raises is about the inventory, not about us
        said.seek(0)
        raise InventoryUnreadable(f"{path}: {_reason(said.read()) or _reason(str(error))}") from None
    return [host_of(name, groups, seen, f"{path}: host {name}") for name, groups, seen in found]


def _reason(text: str) -> str:
    """Return the most telling line of Ansible's complaint: the first that says what failed to parse, and why."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "failed" in line.lower() or "invalid" in line.lower()]
    return printable((telling or lines or [""])[0].removeprefix("[WARNING]: "))


def _ask_ansible(path: Path) -> list[tuple[str, list[str], dict[str, Any]]]:
    """Return name, groups and rendered connection variables of every host that is not to be skipped."""
    from ansible import constants
    from ansible.inventory.manager import InventoryManager
    from ansible.parsing.dataloader import DataLoader
    from ansible.plugins.loader import init_plugin_loader
    from ansible.template import Templar
    from ansible.utils.collection_loader import AnsibleCollectionConfig
    from ansible.vars.manager import VariableManager

    if AnsibleCollectionConfig.collection_finder is None:  # without it no plugin has a full name; twice is a warning
        init_plugin_loader()
    # A half-read inventory would quietly lose hosts.
    constants.INVENTORY_ANY_UNPARSED_IS_FAILED = True
    loader = DataLoader()
    inventory = InventoryManager(loader=loader, sources=[str(path)])
    variables = VariableManager(loader=loader, inventory=inventory)
    hosts = []
    for found in inventory.get_hosts():
        values = variables.get_vars(host=found, include_hostvars=False)
        needed = {name: values[name] for name in values if name.startswith(("ansible_", "corollout_"))}
        templar = Templar(loader=loader, variables=values)
        try:
            seen = {name: templar.template(value) for name, value in needed.items() if _wanted(name)}
        except Exception as error:  # an undefined variable, a vault without its password
            raise HostMalformed(f"{path}: host {found.name}: {_reason(str(error))}") from None
        groups = sorted(str(group.name) for group in found.get_groups() if group.name not in _EVERYBODY)
        if not _true(seen.get("corollout_skip", False)):
            hosts.append((_plain(found.name), groups, seen))
    return hosts


NAMES = {name for names in _TEXTS.values() for name in names} | set(_ARGUMENTS)
NAMES |= {
    "ansible_port",
    "ansible_ssh_port",
    "ansible_connection",
    "corollout_labels",
    "corollout_addresses",
    "corollout_skip",
}


def _wanted(name: str) -> bool:
    return name in NAMES


def _true(value: Any) -> bool:
    return str(value).strip().lower() in ("true", "yes", "1", "on")


def host_of(name: str, groups: list[str], seen: Mapping[str, Any], origin: str) -> Host:
    """Build one host from its rendered variables; *origin* begins what a HostMalformed says."""
    connection = str(seen.get("ansible_connection", "ssh"))
    if connection not in (*_SSH, *_LOCAL):
        raise HostMalformed(
            f"{origin}: connection {connection!r} cannot be used here",
            remedy="Only ssh and local hosts can be managed; leave the host out with corollout_skip=true.",
        )
    fields: dict[str, Any] = {"connection": "local" if connection in _LOCAL else "ssh"}
    for field, names in _TEXTS.items():
        value = next((seen[n] for n in names if seen.get(n) not in (None, "")), None)
        if value is not None:
            fields[field] = _plain(value)
    port = seen.get("ansible_port", seen.get("ansible_ssh_port"))
    if port is not None:
        if not str(port).isdecimal():
            raise HostMalformed(f"{origin}: port {port!r} is not a port")
        fields["port"] = int(str(port)[:9])
    for field, value in _ssh_options(seen, origin).items():
        fields.setdefault(field, value)
    fields["labels"] = {f"group.{group}": "true" for group in groups} | _labels(
        seen.get("corollout_labels", {}), origin
    )
    addresses = seen.get("corollout_addresses", [])
    if isinstance(addresses, str):
        addresses = [part for part in re.split(r"[\s,]+", addresses) if part]
    if not isinstance(addresses, list):
        raise HostMalformed(f"{origin}: corollout_addresses must be a list")
    fields["addresses"] = tuple(_plain(address) for address in addresses)
    try:
        return Host(name, **fields)
    except HostMalformed as fault:
        raise HostMalformed(f"{origin}: {fault.message}") from None


def _labels(value: Any, origin: str) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise HostMalformed(f"{origin}: corollout_labels must be a mapping")
    return {_plain(key): _plain(text) for key, text in value.items()}


def _plain(value: Any) -> str:
    """Return a text of our own: Ansible's are of types that carry where they came from."""
    return "".join(list(str(value)))


def _ssh_options(seen: Mapping[str, Any], origin: str) -> dict[str, str]:
    """Read jump host and known_hosts from OpenSSH options; host keys stay strict whatever they say."""
    found: dict[str, str] = {}
    for name in _ARGUMENTS:
        try:
            words = shlex.split(str(seen.get(name) or ""))
        except ValueError as error:
            raise HostMalformed(f"{origin}: {name}: {error}") from None
        for at, word in enumerate(words):
            after = words[at + 1] if at + 1 < len(words) else ""
            if word in ("-J", "-o"):
                option = f"ProxyJump={after}" if word == "-J" else after
            elif word.startswith(("-J", "-o")):
                option = f"ProxyJump={word[2:]}" if word.startswith("-J") else word[2:]
            else:
                continue
            if match := _OPTION.fullmatch(option):
                found["jump" if match[1].lower() == "proxyjump" else "known_hosts"] = match[2].strip()
    return found
