"""The page of a proof: one table for each kernel, builds by profiles, and every difference in words. Markdown, pure."""

from __future__ import annotations

from collections.abc import Sequence

from fleet.compatibility.outcome import Agreement
from fleet.compatibility.verifier import explain
from fleet.lab.proof import Cell

_MARKS = {
    Agreement.EQUAL: "",
    Agreement.OPEN: " ○",
    Agreement.REJECTED: " ✎",
    Agreement.TOO_CAUTIOUS: " △",
    Agreement.FALSE_FITS: " ✗",
    Agreement.UNANSWERED: " …",
}
_LEGEND = (
    ("ran, loaded, refused", "what the kernel did, as predicted"),
    ("○", "nothing was claimed: a canary would have found out"),
    ("✎", "it has all it needs, but the verifier does not accept its code"),
    ("△", "predicted not to run, and it ran"),
    ("✗", "predicted to run, and the kernel refused: there must be none"),
    ("…", "nobody answered"),
)


def page(cells: Sequence[Cell], command: str) -> str:
    """Return the page, in the order in which kernels, profiles and builds first come; *command* made it."""
    kernels = list(dict.fromkeys(c.kernel for c in cells))
    counts = {a: sum(c.agreement is a for c in cells) for a in Agreement}
    lines = [
        "# Predicted and real",
        "",
        f"Made by `{command}`; the numbers change with the kernels of the archive, the column of ✗ must not.",
        "",
        f"{len(cells)} cells: " + ", ".join(f"{count} {name.value}" for name, count in counts.items() if count) + ".",
        "",
        *(f"- {mark}: {words}" for mark, words in _LEGEND),
    ]
    for kernel in kernels:
        lines += ["", f"## {kernel.name}: {kernel.release}", "", *_table([c for c in cells if c.kernel == kernel])]
    lines += ["", "## Differences", "", *_differences(cells)]
    return "\n".join(lines) + "\n"


def _table(cells: Sequence[Cell]) -> list[str]:
    profiles = list(dict.fromkeys(c.profile.name for c in cells))
    titles = list(dict.fromkeys(c.subject.title for c in cells))
    at = {(c.subject.title, c.profile.name): f"{c.outcome.real.value}{_MARKS[c.agreement]}" for c in cells}
    rows = [[title, *(at.get((title, name), "") for name in profiles)] for title in titles]
    head = ["build", *profiles]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _differences(cells: Sequence[Cell]) -> list[str]:
    told: dict[tuple[str, str, str], list[str]] = {}
    for cell in cells:
        if cell.agreement is Agreement.EQUAL:
            continue
        found = explain(cell.outcome.log)
        said = found.complaint if found else cell.outcome.message or cell.outcome.real.value
        key = (cell.subject.title, cell.agreement.value, f"predicted {cell.predicted}; {cell.because or said}")
        told.setdefault(key, []).append(f"{cell.kernel.name} {cell.profile.name}")
    if not told:
        return ["None."]
    lines = []
    for (title, agreement, words), places in told.items():
        where = ", ".join([*places[:4], *(["…"] if len(places) > 4 else [])])
        lines.append(f"- **{title}**, {agreement}: {words} ({len(places)}: {where})")
    return lines
