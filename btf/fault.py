"""The one shape of an expected error, for every room.

A :class:`Fault` is something a user can act on: it has a stable code, one line that says what happened, one that says
what to do, and an exit code from the table in ``docs/contracts.md``. Anything else that is raised is a bug.
It lives in the lowest room because every room may raise one and this room may be used on its own.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_NO = 3
EXIT_UNREACHABLE = 4
EXIT_ROLLOUT_FAILED = 5
EXIT_WAITS = 6
EXIT_INTERRUPTED = 130

_MAX_MESSAGE = 400


def printable(text: str, limit: int = _MAX_MESSAGE) -> str:
    """Return *text* as one bounded line without control characters, fit for a terminal, a log or a page."""
    if not text.isprintable():  # character by character takes fifty times as long, and most of a scan is such strings
        text = "".join(c if c.isprintable() else " " if c in "\r\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


class Fault(Exception):
    """An expected error: subclass it once per code, with ``code``, ``remedy`` and ``exit`` as class attributes."""

    code: ClassVar[str] = "COR-GEN-001"
    remedy: ClassVar[str] = "Run again with --debug and report what it prints."
    exit: ClassVar[int] = EXIT_FAILURE

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        self.message = printable(message)
        self.advice = printable(remedy if remedy is not None else self.remedy)
        super().__init__(f"{self.code}: {self.message}")
