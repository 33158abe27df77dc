"""A host: a machine we reach. A plain value; how it is reached lives in ``connect``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from btf.fault import EXIT_USAGE, Fault

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?\Z")


class HostMalformed(Fault):
    """An inventory names a host that cannot be one."""

    code = "COR-INV-001"
    exit = EXIT_USAGE
    remedy = "Correct the inventory file and import it again; nothing was changed."


@dataclass(frozen=True, slots=True)
class Host:
    """One machine and how to reach it.

    ``connection`` is ``ssh`` or ``local``; ``jump`` names another host of the same inventory; ``addresses`` are what
    the host's workloads answer on (network policies resolve to them) and default to ``address``.
    """

    name: str
    address: str = ""
    port: int = 22
    user: str = "root"
    connection: str = "ssh"
    key_file: str | None = None
    known_hosts: str | None = None
    jump: str | None = None
    zone: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)
    addresses: tuple[str, ...] = ()
    state_dir: str = "/var/lib/corollout"
    interface: str = ""

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise HostMalformed(f"{self.name!r} is not a host name")
        if self.connection not in ("ssh", "local"):
            raise HostMalformed(f"host {self.name}: connection must be ssh or local, not {self.connection!r}")
        if not 0 < self.port < 65536:
            raise HostMalformed(f"host {self.name}: port {self.port} is not a port")
        if not self.state_dir.startswith("/"):
            raise HostMalformed(f"host {self.name}: state_dir must be an absolute path")


def zone_of(host: Host) -> str:
    """Return the zone whose workers carry a host's steps: its label ``zone``, else its field where that says one."""
    return host.labels.get("zone") or ("" if host.zone == "default" else host.zone)
