"""All keys in order and a few pages of rows, read in threads: what a table needs to show a window. No widget.

Two lanes, one read at a time in each: keys (slow, they change rarely) and pages (quick, they follow the screen). What
was read before stays until the new arrives, so nothing flickers; a read that fails is told, and the old stays.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import Generic

from btf.fault import Fault, printable
from fleet.console.window import R, View, Window

PAGE = 200
KEPT_PAGES = 16
KEYS_SHARE = 20  # a re-read of all keys waits 20 times as long as the last one took: at most a twentieth of a core


@dataclass(frozen=True, slots=True)
class Place:
    """Where a person looks: the key and row of the cursor, the first row on the screen and how many fit."""

    key: str = ""
    row: int = 0
    top: int = 0
    height: int = 1


@dataclass(frozen=True, slots=True)
class Ports:
    """How this reaches the world: ``run`` starts work in a thread, ``hand`` calls back on the screen's thread.

    ``later`` calls back on the screen's thread after some seconds. ``place`` says where a person looks; ``arrived`` is
    told of new keys, ``filled`` of new rows, ``failed`` why not.
    """

    run: Callable[[Callable[[], None]], object]
    hand: Callable[..., object]
    later: Callable[[float, Callable[[], None]], object]
    place: Callable[[], Place]
    arrived: Callable[[], None]
    filled: Callable[[], None]
    failed: Callable[[str], None]
    clock: Callable[[], float] = monotonic


@dataclass(frozen=True, slots=True)
class _Keys(Generic[R]):
    window: Window[R]
    view: View
    keys: Sequence[str]
    index: Mapping[str, int]
    pages: Mapping[int, Mapping[str, R]]
    took_s: float


@dataclass(frozen=True, slots=True)
class _Pages(Generic[R]):
    generation: int
    pages: Mapping[int, Mapping[str, R]]
    fresh: bool  # every other page is stale now


class Paged(Generic[R]):
    """The keys and the pages of one window under one view."""

    def __init__(self, window: Window[R], view: View, ports: Ports) -> None:
        self.window, self.view = window, view
        self.keys: Sequence[str] = ()
        self.index: Mapping[str, int] = {}
        self.ready = False
        self._ports = ports
        self._pages: OrderedDict[int, Mapping[str, R]] = OrderedDict()
        self._generation, self._next_keys = 0, 0.0
        self._reading, self._read_again, self._due = False, False, False
        self._fetching, self._stale, self._wanted = False, False, set[int]()

    @property
    def busy(self) -> bool:
        """Whether a read is under way or due."""
        return self._reading or self._fetching or bool(self._wanted)

    def turn(self, *, view: View | None = None, window: Window[R] | None = None) -> None:
        """Look at another view or another window."""
        self.view = view if view is not None else self.view
        if window is not None and window is not self.window:
            self.window, self.ready = window, False
            self.keys, self.index = (), {}
            self._pages.clear()
        self.reload()

    def changed(self) -> None:
        """Something in the record changed: re-read what is on the screen, and all keys as soon as that is due."""
        wait_s = self._next_keys - self._ports.clock()
        if wait_s <= 0:
            self.reload()
            return
        if not self._due:
            self._due = True
            self._ports.later(wait_s, self._reload_due)
        self._stale = True
        self._fetch()

    def _reload_due(self) -> None:
        self._due = False
        self.reload()

    def reload(self) -> None:
        """Read all keys again; a second call while one read runs asks for one more."""
        self._read_again = self._reading
        if not self._reading:
            self._reading = True
            self._ports.run(partial(self._read_keys, self.window, self.view, self._ports.place()))

    def row(self, i: int) -> R | None:
        """Return row *i*; None while it is being read, and when it is gone."""
        number = i // PAGE
        page = self._pages.get(number)
        if page is not None:
            self._pages.move_to_end(number)
            return page.get(self.keys[i])
        if number not in self._wanted:
            self._wanted.add(number)
            self._ports.hand(self._fetch)
        return None

    # ── in a thread ────────────────────────────────────────────────────────────────────────────────────────────────

    def _read_keys(self, window: Window[R], view: View, place: Place) -> None:
        began = self._ports.clock()
        try:
            keys = window.keys(view)
            index = {k: i for i, k in enumerate(keys)}
            stands = index.get(place.key, min(place.row, max(len(keys) - 1, 0)))
            numbers = _pages_over(stands - place.row + place.top, place.height, len(keys))
            pages = {p: window.rows(keys[p * PAGE : (p + 1) * PAGE]) for p in numbers}
            took_s = self._ports.clock() - began
            self._ports.hand(self._take_keys, _Keys(window, view, keys, index, pages, took_s), "")
        except Exception as error:  # a failed read is told and tried again: nobody may lose the console over one
            self._ports.hand(self._take_keys, None, reason(error))

    def _read_pages(self, window: Window[R], ask: _Pages[R], parts: Mapping[int, Sequence[str]]) -> None:
        try:
            got = replace(ask, pages={p: window.rows(keys) for p, keys in parts.items()})
            self._ports.hand(self._take_pages, got, "")
        except Exception as error:  # as above
            self._ports.hand(self._take_pages, None, reason(error))

    # ── on the screen's thread ─────────────────────────────────────────────────────────────────────────────────────

    def _take_keys(self, got: _Keys[R] | None, why: str) -> None:
        self._reading = False
        if got is None:
            self._ports.failed(why)
        elif got.window is self.window and got.view == self.view:
            self._generation += 1
            self._next_keys = self._ports.clock() + KEYS_SHARE * got.took_s
            self.keys, self.index, self.ready = got.keys, got.index, True
            self._pages = OrderedDict(got.pages)
            self._wanted.clear()
            self._ports.arrived()
        else:
            self._read_again = True
        if self._read_again:
            self.reload()

    def _fetch(self) -> None:
        """Read the pages on the screen that are missing, or all of those when they are stale."""
        if self._fetching:
            return
        place = self._ports.place()
        seen = {*_pages_over(place.top, place.height, len(self.keys)), *_pages_over(place.row, 1, len(self.keys))}
        numbers = seen if self._stale else self._wanted & seen
        ask: _Pages[R] = _Pages(self._generation, {}, fresh=self._stale)
        self._stale = False
        self._wanted.clear()
        if numbers:
            self._fetching = True
            parts = {p: self.keys[p * PAGE : (p + 1) * PAGE] for p in sorted(numbers)}
            self._ports.run(partial(self._read_pages, self.window, ask, parts))

    def _take_pages(self, got: _Pages[R] | None, why: str) -> None:
        self._fetching = False
        if got is None:
            self._ports.failed(why)
            return
        if got.generation == self._generation:
            if got.fresh:
                self._pages.clear()
            self._pages.update(got.pages)
            while len(self._pages) > KEPT_PAGES:
                self._pages.popitem(last=False)
            self._ports.filled()
        if self._stale or self._wanted:
            self._fetch()


def _pages_over(top: int, height: int, count: int) -> range:
    """Return the numbers of the pages that hold rows *top* to *top + height* of *count*."""
    first, end = max(top, 0), min(max(top, 0) + max(height, 1), count)
    return range(first // PAGE, (end - 1) // PAGE + 1) if end > first else range(0)


def reason(error: Exception) -> str:
    """Return one printable line that says why."""
    return str(error) if isinstance(error, Fault) else printable(f"{type(error).__name__}: {error}", 200)
