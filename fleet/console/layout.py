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

Styles = Callable[..., Style]  # names of the table's component styles, laid one over the other → one style


@dataclass(frozen=True, slots=True)
class Placed(Generic[R]):
    """A column where it stands: ``x`` is its first cell, counted from the left edge of the whole line."""

    column: Column[R]
    x: int
    width: int


def place(columns: Sequence[Column[R]], width: int, *, wide: bool = False) -> tuple[Placed[R], ...]:
    """Place the columns that fit into *width* cells, or all of them when *wide*; spare room goes to those that grow."""
    kept = list(columns)

    def spare() -> int:
        return width - LEAD - sum(c.width for c in kept) - GAP * (len(kept) - 1)

    while not wide and spare() < 0 and any(c.rank for c in kept):
        worst = max(c.rank for c in kept)
        kept.remove([c for c in kept if c.rank == worst][-1])
    growing = [c for c in kept if c.grow]
    share, rest = divmod(max(spare(), 0), len(growing)) if growing else (0, 0)
    placed, x = [], LEAD
    for column in kept:
        extra = share + (1 if growing and column is growing[0] and rest else 0) if column.grow else 0
        placed.append(Placed(column, x, column.width + extra))
        x += column.width + extra + GAP
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
        over = ("picked",) if p.column is picked and (cursor or cell.tone == "head") else ()
        segments.append(Segment(fit(cell.text, p.width, right=p.column.right), styles(cell.tone, *under, *over)))
        x = p.x + p.width
    return Strip(segments, x)
