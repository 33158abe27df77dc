"""How answers look: one table writer, one JSON writer, one progress line. Data goes to stdout, narration to stderr."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click

from btf.fault import printable

FORMATS = ("table", "wide", "json", "jsonl")

output_option: Callable[[Any], Any] = click.option(
    "-o", "--output", type=click.Choice(FORMATS), default="table", show_default=True, help="Format of the answer."
)


def emit(
    verb: str,
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str],
    output: str,
    *,
    wide: Mapping[str, str] | None = None,
    key: str = "rows",
) -> None:
    """Write *rows* as asked. *columns* maps a heading to a row's key; *wide* adds more; JSON carries every key."""
    if output == "json":
        emit_document(verb, {key: list(rows)})
    elif output == "jsonl":
        for row in rows:
            sys.stdout.write(json.dumps({"schema": f"corollout.{verb}/1", **row}) + "\n")
    else:
        shown = {**columns, **(wide or {})} if output == "wide" else columns
        sys.stdout.write(table([[row.get(k) for k in shown.values()] for row in rows], list(shown)))


def emit_document(verb: str, document: Mapping[str, Any]) -> None:
    """Write one JSON document with its schema id."""
    sys.stdout.write(json.dumps({"schema": f"corollout.{verb}/1", **document}, indent=2) + "\n")


def table(rows: Iterable[Sequence[Any]], headings: Sequence[str]) -> str:
    """Return an aligned table; cells are made printable, the last column is cut at the terminal's edge."""
    cells = [[h.upper() for h in headings]] + [[_cell(c) for c in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headings))]
    edge = shutil.get_terminal_size((160, 24)).columns if sys.stdout.isatty() else 10_000
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()[:edge] for row in cells]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return printable(", ".join(str(v) for v in value)) or "-"
    return printable(str(value))


def narrate(line: str, *, quiet: bool = False) -> None:
    """Write one line of narration to stderr."""
    if not quiet:
        sys.stderr.write("  ".join(printable(part, 1000) for part in line.split("  ")) + "\n")
        sys.stderr.flush()


class Progress:
    """A counter that redraws itself on a terminal and writes a line now and then elsewhere."""

    def __init__(self, label: str, total: int, *, quiet: bool = False) -> None:
        self._label, self._total, self._quiet = label, total, quiet
        self._done = 0
        self._terminal = sys.stderr.isatty()

    def step(self, note: str = "") -> None:
        """Count one more, with a *note* on what it was."""
        self._done += 1
        if self._quiet:
            return
        line = f"{self._label} {self._done}/{self._total}" + (f"  {printable(note, 120)}" if note else "")
        if self._terminal:
            end = "\n" if self._done >= self._total else ""
            sys.stderr.write(f"\r\x1b[K{line}{end}")
            sys.stderr.flush()
        else:
            narrate(line)
