"""A table that is as quick at 100,000 rows as at ten: it draws lines, and reads only the pages that are on the screen.

Cursor and marks are held by key, so a re-read moves nothing under a person's finger. It binds no keys: the actions of
its screen drive it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import ClassVar, Generic

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from fleet.console.layout import Placed, head_strip, line_width, place, row_strip
from fleet.console.look import TONES, fit
from fleet.console.paged import Paged, Place, Ports
from fleet.console.window import Column, R, View, Window


class Table(ScrollView, Generic[R], can_focus=True, inherit_bindings=False):
    """The line-API table. Actions of the screen drive it; it binds no keys itself."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"table--{name}" for name in (*TONES, "head", "cursor", "picked")}
    DEFAULT_CSS = (
        """
    Table { background: $background; color: $foreground; scrollbar-size: 1 1; overflow-x: auto; overflow-y: auto; }
    Table .table--head { color: $quiet; text-style: bold; }
    Table .table--cursor { background: $bar; }
    Table:focus .table--cursor { background: $cursor; }
    Table .table--picked { text-style: underline; }
    """
        + "\n".join(f"Table .table--{tone} {{ color: ${tone}; }}" for tone in TONES)
        + "\nTable .table--strong { text-style: bold; }"
    )

    class Read(Message):
        """All keys were read again: counts may have changed."""

    class Moved(Message):
        """The cursor stands on another row."""

    class Opened(Message):
        """A row was double-clicked."""

    class Failed(Message):
        """A read failed; ``reason`` is one line. What was shown before stays."""

        def __init__(self, reason: str) -> None:
            super().__init__()
            self.reason = reason

    def __init__(
        self,
        window: Window[R],
        columns: Sequence[Column[R]],
        *,
        view: View | None = None,
        empty: str = "nothing here",
        clock: Callable[[], float] = monotonic,
        id: str | None = None,  # noqa: A002 — Textual's own name for it
    ) -> None:
        super().__init__(id=id)
        self.wide, self.empty = False, empty
        self.marks: set[str] = set()
        self._columns = tuple(columns)
        self._paged = Paged(
            window,
            view or View(),
            Ports(
                self._run,
                self.call_later,
                self.set_timer,
                self._place,
                self._arrived,
                self._filled,
                self._failed,
                clock,
            ),
        )
        self._cursor, self._cursor_key, self._picked, self._last_mark = 0, "", 0, ""
        self._placed: tuple[Placed[R], ...] = ()
        self._styles: dict[tuple[str, ...], Style] = {}

    # ── what stands where ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def count(self) -> int:
        """How many rows the view lets through."""
        return len(self._paged.keys)

    @property
    def view(self) -> View:
        """What is looked at."""
        return self._paged.view

    @property
    def busy(self) -> bool:
        """Whether a read is under way."""
        return self._paged.busy or not self._paged.ready

    @property
    def cursor_key(self) -> str | None:
        """The key of the row under the cursor."""
        return self._paged.keys[self._cursor] if self._paged.keys else None

    @property
    def cursor_row(self) -> R | None:
        """The row under the cursor, or None while it is being read."""
        return self._paged.row(self._cursor) if self._paged.keys else None

    @property
    def picked(self) -> Column[R] | None:
        """The column under the cursor."""
        shown = [p.column for p in self._placed]
        return shown[min(self._picked, len(shown) - 1)] if shown else None

    @property
    def chosen(self) -> Sequence[str]:
        """The marked keys in the table's order, or the one under the cursor."""
        marked = [k for k in self._paged.keys if k in self.marks] if self.marks else []
        return marked or ([self.cursor_key] if self.cursor_key is not None else [])

    # ── reading ────────────────────────────────────────────────────────────────────────────────────────────────────

    def on_mount(self) -> None:
        """Read for the first time."""
        self._paged.reload()

    def show(self, columns: Sequence[Column[R]], window: Window[R] | None = None) -> None:
        """Show other columns of the same rows, or another window."""
        self._columns = tuple(columns)
        self._arrange()
        if window is not None:
            self._paged.turn(window=window)

    def look(self, view: View) -> None:
        """Show another view of the same window, from its top when a person was at the top."""
        if self._cursor == 0:
            self._cursor_key = ""
        self._paged.turn(view=view)

    def changed(self) -> None:
        """Something in the record changed."""
        self._paged.changed()

    def reload(self) -> None:
        """Read everything again, now."""
        self._paged.reload()

    def _run(self, work: Callable[[], None]) -> None:
        self.run_worker(work, thread=True, exit_on_error=False)

    def _place(self) -> Place:
        return Place(self._cursor_key, self._cursor, self.scroll_offset.y, max(self.size.height - 1, 1))

    def _failed(self, why: str) -> None:
        self.post_message(self.Failed(why))

    def _filled(self) -> None:
        self.refresh()
        self.post_message(self.Moved())

    def _arrived(self) -> None:
        """Take new keys: the cursor stays on its key and on its line of the screen."""
        line = self._cursor - self.scroll_offset.y
        self._cursor = self._paged.index.get(self._cursor_key, min(self._cursor, max(self.count - 1, 0)))
        self._arrange()
        self.scroll_to(y=self._cursor - line, animate=False)
        self._stand(self._cursor)
        self.post_message(self.Read())

    # ── moving ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def move(self, rows: int) -> None:
        """Move the cursor by *rows*, stopping at both ends."""
        self._stand(self._cursor + rows)

    def move_page(self, pages: int) -> None:
        """Move the cursor by screens."""
        self.move(pages * max(self.size.height - 2, 1))

    def go(self, row: int) -> None:
        """Put the cursor on *row*; negative counts from the end."""
        self._stand(row if row >= 0 else self.count + row)

    def go_to(self, key: str) -> bool:
        """Put the cursor on *key*; False when the view does not have it."""
        if key in self._paged.index:
            self._stand(self._paged.index[key])
        return key in self._paged.index

    def pick(self, columns: int) -> None:
        """Move to another column."""
        self._picked = max(0, min(self._picked + columns, len(self._placed) - 1))
        if self._placed:
            at = self._placed[self._picked]
            if self._picked and at.x + at.width > self.scroll_offset.x + self.size.width:
                self.scroll_to(x=at.x + at.width - self.size.width, animate=False)
            elif at.x < self.scroll_offset.x + self._frozen:
                self.scroll_to(x=max(at.x - self._frozen, 0), animate=False)
        self.refresh()

    def _stand(self, row: int) -> None:
        self._cursor = max(0, min(row, self.count - 1))
        self._cursor_key = self._paged.keys[self._cursor] if self._paged.keys else self._cursor_key
        top, lines = self.scroll_offset.y, max(self.size.height - 1, 1)
        if self._cursor < top:
            self.scroll_to(y=self._cursor, animate=False)
        elif self._cursor >= top + lines:
            self.scroll_to(y=self._cursor - lines + 1, animate=False)
        self.refresh()
        self.post_message(self.Moved())

    def mark(self) -> None:
        """Mark or unmark the row under the cursor, and step down."""
        if self.cursor_key is not None:
            self.marks ^= {self.cursor_key}
            self._last_mark = self.cursor_key
            self.move(1)

    def mark_range(self) -> None:
        """Mark everything from the last mark to the cursor."""
        start = self._paged.index.get(self._last_mark, self._cursor)
        low, high = sorted((start, self._cursor))
        self.marks |= set(self._paged.keys[low : high + 1])
        self.refresh()

    def clear_marks(self) -> bool:
        """Forget all marks; False when there were none."""
        had = bool(self.marks)
        self.marks.clear()
        self.refresh()
        return had

    def set_wide(self, *, wide: bool) -> None:
        """Show every column (scrolling sideways), or those that fit."""
        self.wide = wide
        self._arrange()

    def on_click(self, event: events.Click) -> None:
        """A title sorts; a row takes the cursor; twice opens it."""
        x = event.x + (self.scroll_offset.x if event.x >= self._frozen else 0)
        hit = [n for n, p in enumerate(self._placed) if p.x <= x]
        self._picked = hit[-1] if hit else 0
        if event.y == 0:
            if self.picked is not None and self.picked.sort:
                self.look(self._paged.view.sorted_by(self.picked.sort))
            return
        row = event.y - 1 + self.scroll_offset.y
        if row < self.count:
            self._stand(row)
            if event.chain == 2:
                self.post_message(self.Opened())

    # ── drawing ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _arrange(self) -> None:
        self._placed = place(self._columns, self.size.width, wide=self.wide)
        width = line_width(self._placed) if self.wide else 0
        self.virtual_size = Size(width, self.count + 1)
        self.refresh()

    def on_resize(self) -> None:
        """Place the columns for the new width; the cursor stays on the screen."""
        self._arrange()
        self._stand(self._cursor)

    def notify_style_update(self) -> None:
        """Forget the styles: the theme or the focus changed."""
        super().notify_style_update()
        self._styles.clear()

    @property
    def _frozen(self) -> int:
        return self._placed[0].x + self._placed[0].width if self._placed else 0

    def _style(self, *names: str) -> Style:
        if names not in self._styles:
            style = self.rich_style
            for name in filter(None, names):
                style += self.get_component_rich_style(f"table--{name}", partial=True)
            self._styles[names] = style
        return self._styles[names]

    def render_line(self, y: int) -> Strip:
        """Draw one line of the screen: titles on top, then rows."""
        width, x = self.size.width, self.scroll_offset.x
        strip = self._line(y)
        if x and self._placed:
            strip = Strip.join([strip.crop(0, self._frozen), strip.crop(self._frozen + x, x + width)])
        return strip.adjust_cell_length(width, self._style())

    def _line(self, y: int) -> Strip:
        if y == 0:
            return head_strip(self._placed, self._paged.view, self.picked, self._style)
        i = y - 1 + self.scroll_offset.y
        if i >= self.count:
            return self._note("" if y > 1 else "reading …" if not self._paged.ready else self.empty)
        row = self._paged.row(i)
        if row is None:
            return self._note(f"{self._paged.keys[i]} …")
        cursor, marked = i == self._cursor, self._paged.keys[i] in self.marks
        strip = row_strip(self._placed, row, cursor=cursor, marked=marked, picked=self.picked, styles=self._style)
        return strip.extend_cell_length(self.size.width, self._style("cursor")) if cursor else strip

    def _note(self, text: str) -> Strip:
        return Strip([Segment("  " + fit(text, max(self.size.width - 2, 0)), self._style("quiet"))])
