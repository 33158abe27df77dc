"""The hosts on the way to a host: its jump hosts, by name, from the same inventory. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from inventory.connect.errors import JumpImpossible
from inventory.host import Host

_MAX_JUMPS = 4


def path_to(host: Host, hosts: Mapping[str, Host]) -> list[Host]:
    """Return *host*, its jump host, that one's, and so on; raises JumpImpossible."""
    path = [host]
    while (jump := path[-1].jump) is not None:
        if jump not in hosts:
            raise JumpImpossible(f"{path[-1].name}: its jump host {jump!r} is not in the inventory")
        if jump in {hop.name for hop in path} or len(path) > _MAX_JUMPS:
            raise JumpImpossible(f"{host.name}: its jump hosts go in a circle or are more than {_MAX_JUMPS}")
        path.append(hosts[jump])
    return path
