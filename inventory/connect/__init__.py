"""How hosts are reached: one small interface, one file per way."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self


@dataclass(frozen=True, slots=True)
class Completed:
    """A command's end: exit status, and what it wrote, each cut at the limit that was asked for."""

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
