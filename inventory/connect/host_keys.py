"""Whether the key a server shows is one that known_hosts has for it."""

from __future__ import annotations

from pathlib import Path

import paramiko

from inventory.connect.errors import HostKeyChanged, HostKeyUnknown
from inventory.connect.known_hosts import KnownHosts, KnownKey, load_known_hosts
from inventory.host import Host


class KeyCheck(paramiko.MissingHostKeyPolicy):
    """Compare the key a server shows with known_hosts; the library is given no keys of its own, so it always asks."""

    def __init__(self, host: Host, keys: tuple[KnownKey, ...], where: str) -> None:
        self._host = host
        self._keys = keys
        self._where = where

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:  # noqa: ARG002 - the library's signature
        """Return when the key is the host's; raise HostKeyUnknown or HostKeyChanged."""
        shown = f"{key.get_name()} {key.fingerprint}"
        blob = key.asbytes()
        if any(known.revoked and known.blob == blob for known in self._keys):
            raise HostKeyChanged(f"{self._host.name}: the host shows {shown}, which {self._where} marks as revoked")
        valid = [known for known in self._keys if not known.revoked]
        if not valid:
            raise HostKeyUnknown(f"{self._host.name}: {self._where} has no key for {hostname}; the host shows {shown}")
        if all(known.blob != blob for known in valid):
            raise HostKeyChanged(f"{self._host.name}: the host shows {shown}, {self._where} holds another key")


def known_keys(host: Host, address: str) -> tuple[tuple[KnownKey, ...], str]:
    """Return the keys for *host* and the words for where they were looked up."""
    if host.known_hosts is not None:
        path = Path(host.known_hosts).expanduser()
        return load_known_hosts(path).keys(address, host.port), str(path)
    files: list[KnownHosts] = [
        load_known_hosts(Path(name).expanduser()) for name in ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")
    ]
    return tuple(key for file in files for key in file.keys(address, host.port)), "known_hosts"
