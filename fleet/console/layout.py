"""How a row becomes a line: which columns fit, how wide they are, and the strip of one row. Pure; no widget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from fleet.console.look import Cell, fit
from fleet.console.window import Column, R, View

LEAD = 2  # the cursor's cell and the mark's cell
GAP = 2
SHRINKS = 3  # columns of a higher rank leave before any column shrinks

Styles = Callable[..., Style]  # names of the table's component styles, laid one over the other → one style


@dataclass(frozen=True, slots=True)
class Placed(Generic[R]):
    """A column where it stands: ``x`` is its first cell, counted from the left edge of the whole line."""

    column: Column[R]
    x: int
    width: int


def place(columns: Sequence[Column[R]], width: int, *, wide: bool = False) -> tuple[Placed[R], ...]:
    """Place the columns that fit into *width* cells, all of them when *wide*; room left goes to growing ones."""
    kept = list(columns)

    def room(widths: Sequence[int]) -> int:
        return width - LEAD - sum(widths) - GAP * (len(widths) - 1)

    def leave(size: Callable[[Column[R]], int], floor: int) -> None:
        while kept and room([size(c) for c in kept]) < 0 and (worst := max(c.rank for c in kept)) > floor:
            kept.remove([c for c in kept if c.rank == worst][-1])

    if not wide:
        leave(lambda c: c.width, SHRINKS)
        leave(lambda c: c.least or c.width, 0)
    shrunk = not wide and room([c.width for c in kept]) < 0
    widths = [c.least or c.width if shrunk else c.width for c in kept]
    for n, column in enumerate(kept):  # what shrank gets back what there is, from the left
        widths[n] += min(max(room(widths), 0), column.width - widths[n])
    growing = [n for n, c in enumerate(kept) if c.grow]
    for n, part in zip(growing, reversed(range(1, len(growing) + 1)), strict=True):
        widths[n] += max(room(widths), 0) // part
    placed, x = [], LEAD
    for column, cells in zip(kept, widths, strict=True):
        placed.append(Placed(column, x, cells))
        x += cells + GAP
    return tuple(placed)


def line_width(placed: Sequence[Placed[Any]]) -> int:
    """Return the cells a whole line takes."""
    return placed[-1].x + placed[-1].width if placed else LEAD


def head_strip(placed: Sequence[Placed[Any]], view: View, picked: Column[Any] | None, styles: Styles) -> Strip:
    """Return the line of titles, with arrows where it is sorted."""
    arrows = {o.by: ("↓" if o.descending else "↑") + ("²" if n else "") for n, o in enumerate(view.order)}
    cells = []
    for p in placed:
        arrow = arrows.get(p.column.sort, "") if p.column.sort else ""
        cells.append(Cell(f"{p.column.title} {arrow}" if arrow else p.column.title, "head"))
    return _strip(placed, cells, "  ", picked, styles, cursor=False)


def row_strip(
    placed: Sequence[Placed[R]], row: R, *, cursor: bool, marked: bool, picked: Column[Any] | None, styles: Styles
) -> Strip:
    """Return the line of one row; the cursor and the mark are characters, not only colours."""
    lead = ("›" if cursor else " ") + ("+" if marked else " ")
    return _strip(placed, [p.column.cell(row) for p in placed], lead, picked, styles, cursor=cursor)


def _strip(
    placed: Sequence[Placed[Any]],
    cells: Sequence[Cell],
    lead: str,
    picked: Column[Any] | None,
    styles: Styles,
    *,
    cursor: bool,
) -> Strip:
    under = ("cursor",) if cursor else ()
    segments, x = [Segment(lead, styles("strong", *under))], LEAD
    for p, cell in zip(placed, cells, strict=True):
        if p.x > x:
            segments.append(Segment(" " * (p.x - x), styles(*under)))
        text = fit(cell.text, p.width, right=p.column.right)
        if p.column is picked and (cursor or cell.tone == "head"):  # its text stands out, not the room around it
            said = text.strip()
            before, _, after = text.partition(said)
            parts = ((before, ()), (said, ("picked",)), (after, ()))
            segments += [Segment(part, styles(cell.tone, *under, *over)) for part, over in parts if part]
        else:
            segments.append(Segment(text, styles(cell.tone, *under)))
        x = p.x + p.width
    return Strip(segments, x)
