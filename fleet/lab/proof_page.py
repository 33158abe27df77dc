"""The page of a proof: one table for each kernel, builds by profiles, and every difference in words. Markdown, pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def page(cells: Sequence[Cell], command: str, torture: Sequence[Cell] = ()) -> str:
    """Return the page, in the order in which kernels, profiles and builds first come; *command* made it.

    The cells of the *torture* set come last; where a profile hides BTF, minimised types were brought along.
    """
    every = [*cells, *torture]
    kernels = list(dict.fromkeys(c.kernel for c in cells))
    counts = {a: sum(c.agreement is a for c in every) for a in Agreement}
    lines = [
        "# Predicted and real",
        "",
        f"Made by `{command}`; the numbers change with the kernels of the archive, the column of ✗ must not.",
        "",
        f"{len(every)} cells: " + ", ".join(f"{count} {name.value}" for name, count in counts.items() if count) + ".",
        "",
        *(f"- {mark}: {words}" for mark, words in _LEGEND),
    ]
    for kernel in kernels:
        lines += ["", f"## {kernel.name}: {kernel.release}", ""]
        lines += _rows({(c.subject.title, c.profile.name): c for c in cells if c.kernel == kernel}, "build")
    if torture:
        lines += ["", "## The torture set: an object for each rule of CO-RE"]
    for kernel in dict.fromkeys(c.kernel for c in torture):
        lines += ["", f"### {kernel.name}", ""]
        lines += _rows({(c.subject.name, c.profile.name): c for c in torture if c.kernel == kernel}, "object")
    lines += ["", "## Differences", "", *_differences(every)]
    return "\n".join(lines) + "\n"


def _rows(at: Mapping[tuple[str, str], Cell], what: str) -> list[str]:
    columns = list(dict.fromkeys(column for _, column in at))
    rows = []
    for title in dict.fromkeys(title for title, _ in at):
        found = (at.get((title, column)) for column in columns)
        rows.append([title, *(f"{c.outcome.real.value}{_MARKS[c.agreement]}" if c else "" for c in found)])
    head = [what, *columns]
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
