"""How hosts are reached: one small interface, one file per way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from inventory.host import Host


@dataclass(frozen=True, slots=True)
class Completed:
    """A command's end: exit status, and what it wrote, each cut at the limit that was asked for.

    ``status`` is -1 when the command ended by a signal, or was stopped because it wrote more than the limit; then
    ``truncated`` says so.
    """

    status: int
    stdout: bytes
    stderr: bytes
    truncated: bool = False


class Connection(Protocol):
    """An open way to one host. Every method raises an ``Unreachable`` or ``Refused`` fault, never hangs."""

    def run(
        self, command: str, *, stdin: bytes = b"", timeout: float = 60.0, limit: int = 8 * 1024 * 1024
    ) -> Completed:
        """Run a POSIX shell *command*; *timeout* in seconds bounds all of it, *limit* in bytes each stream."""
        ...

    def close(self) -> None:
        """Close; idempotent."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_connection(host: Host, *, hosts: Mapping[str, Host], timeout_s: float = 10.0) -> Connection:
    """Open the way to *host* that its inventory row names; *hosts* holds its jump hosts, *timeout_s* bounds each hop.

    Raises ``Unreachable`` or ``Refused``; never asks a person anything.
    """
    if host.connection == "local":
        from inventory.connect.local import LocalConnection

        return LocalConnection()
    from inventory.connect.ssh import open_ssh

    return open_ssh(host, hosts=hosts, timeout_s=timeout_s)
