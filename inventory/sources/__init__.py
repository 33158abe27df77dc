"""Where hosts come from: one file per kind of inventory, one row each in :data:`SOURCES`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Literal

from btf.fault import EXIT_USAGE, Fault
from inventory.host import Host, HostMalformed

Kind = Literal["toml", "ansible", "ssh-config"]

# Loaded when asked for: Ansible's loader alone takes longer to import than the rest of this program.
SOURCES: dict[str, str] = {
    "toml": "inventory.sources.toml_file",
    "ansible": "inventory.sources.ansible_inventory",
    "ssh-config": "inventory.sources.ssh_config",
}


class InventoryUnreadable(Fault):
    """An inventory cannot be read at all."""

    code = "COR-INV-002"
    exit = EXIT_USAGE
    remedy = "Check the path and, with --kind, which kind of inventory it is (toml, ansible, ssh-config)."


def guess_kind(path: Path) -> str:
    """Return the kind a path looks like: TOML by its ending, an ssh config by its name, else Ansible."""
    if path.suffix == ".toml":
        return "toml"
    if path.name in ("config", "ssh_config") or path.suffix in (".sshconfig", ".ssh_config"):
        return "ssh-config"
    return "ansible"


def load(path: Path, *, kind: Kind | None = None) -> list[Host]:
    """Read all hosts of an inventory, in the order of their names.

    Raises InventoryUnreadable or HostMalformed; a name that occurs twice is an error, not a surprise later.
    """
    read: Callable[[Path], list[Host]] = import_module(SOURCES[kind or guess_kind(path)]).read
    if not path.exists():
        raise InventoryUnreadable(f"{path}: no such file")
    hosts = sorted(read(path), key=lambda host: host.name)
    if not hosts:
        raise InventoryUnreadable(f"{path}: no hosts in it")
    for one, other in pairwise(hosts):
        if one.name == other.name:
            raise HostMalformed(f"{path}: host {one.name} is there twice")
    names = {host.name for host in hosts}
    for host in hosts:
        if host.jump is not None and host.jump not in names:
            raise HostMalformed(f"{path}: host {host.name}: its jump host {host.jump!r} is not in the inventory")
    return hosts
