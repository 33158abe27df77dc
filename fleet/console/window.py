"""What a table shows, as values: columns, a view (filter, problems, order) and the windows that answer it.

A window knows where rows come from and nothing about widgets. Two questions are asked of it, from worker threads: all
keys in order, and the rows of some keys; so a table holds keys only, and pages of rows for what is on the screen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

from fleet.console.look import Cell

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Column(Generic[R]):
    """One column. ``width`` is in cells; when there is too little room it shrinks to ``least``.

    ``rank`` 0 always stays, the highest rank leaves first when the screen is narrow. ``sort`` is the name the window
    sorts by, empty when it cannot; ``program`` names the program its cells are about.
    """

    title: str
    width: int
    cell: Callable[[R], Cell]
    least: int = 0
    sort: str = ""
    rank: int = 0
    grow: bool = False
    right: bool = False
    program: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """One sort key."""

    by: str
    descending: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """What a person wants to see of a window: a filter, problems only, up to two sort keys."""

    filter: str = ""
    problems: bool = False
    order: tuple[Order, ...] = ()

    def sorted_by(self, name: str) -> View:
        """Sort by *name* first; when it already is first, the other way round."""
        first = self.order[0] if self.order else None
        turned = Order(name, not first.descending) if first and first.by == name else Order(name)
        return replace(self, order=(turned, *(o for o in self.order[1:2] if o.by != name)))

    def then_by(self, name: str) -> View:
        """Sort by *name* second; the first key stays."""
        if not self.order or self.order[0].by == name:
            return self.sorted_by(name)
        second = self.order[1] if len(self.order) > 1 else None
        turned = Order(name, not second.descending) if second and second.by == name else Order(name)
        return replace(self, order=(self.order[0], turned))


class Window(Protocol[R_co]):
    """Where rows come from; both may be slow and may raise ``btf.fault.Fault``."""

    def keys(self, view: View) -> Sequence[str]:
        """Return every key that *view* lets through, in its order."""
        ...

    def rows(self, keys: Sequence[str]) -> Mapping[str, R_co]:
        """Return the rows of *keys*; one that is gone is left out."""
        ...


class ListWindow(Generic[R]):
    """A window over rows that are few by design: kernels, waves."""

    def __init__(
        self,
        read: Callable[[], Sequence[R]],
        key: Callable[[R], str],
        *,
        values: Mapping[str, Callable[[R], Any]] | None = None,
        problem: Callable[[R], bool] = lambda _: False,
    ) -> None:
        self.values: Mapping[str, Callable[[R], Any]] = values or {}
        self._read, self._key, self._problem = read, key, problem
        self._kept: dict[str, R] = {}

    def keys(self, view: View) -> Sequence[str]:
        """Read everything again, then filter and sort."""
        everything = list(self._read())
        rows = [r for r in everything if not view.problems or self._problem(r)]
        for order in reversed([o for o in view.order if o.by in self.values]):
            rows.sort(key=self.values[order.by], reverse=order.descending)
        self._kept = {self._key(r): r for r in everything}
        return [self._key(r) for r in rows]

    def rows(self, keys: Sequence[str]) -> Mapping[str, R]:
        """Return rows of the last read."""
        kept = self._kept
        return {k: kept[k] for k in keys if k in kept}
