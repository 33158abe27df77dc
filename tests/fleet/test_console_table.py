"""The table: windows, pages, cursor and marks by key, layout, hostile text. In memory; no record."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
from console_pilot import screen_lines, settle
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.app import App, ComposeResult

from btf.fault import Fault
from fleet.console.layout import line_width, place
from fleet.console.look import DARK, LIGHT, THEMES, Cell, ago, bar, fit, shown, sign
from fleet.console.paged import KEPT_PAGES, PAGE, Paged, Place, Ports
from fleet.console.table import Table
from fleet.console.window import Column, ListWindow, Order, View


@dataclass(frozen=True)
class Animal:
    name: str
    legs: int
    note: str = ""


COLUMNS: tuple[Column[Animal], ...] = (
    Column("NAME", 10, lambda a: Cell(a.name), sort="name"),
    Column("LEGS", 4, lambda a: Cell(str(a.legs)), sort="legs", right=True),
    Column("NOTE", 12, lambda a: Cell(a.note, "quiet"), rank=1, grow=True),
    Column("SOUND", 40, lambda a: Cell("moo"), rank=2),
)


class Zoo(ListWindow[Animal]):
    """A window over a list that counts what is read of it and can be told to fail."""

    def __init__(self, animals: Sequence[Animal]) -> None:
        super().__init__(
            lambda: self.animals, lambda a: a.name, values={"name": lambda a: a.name, "legs": lambda a: a.legs}
        )
        self.animals = list(animals)
        self.asked: list[int] = []
        self.broken = False

    def rows(self, keys: Sequence[str]) -> Mapping[str, Animal]:
        self.asked.append(len(keys))
        if self.broken:
            raise Fault("the zoo is closed")
        return super().rows(keys)


class ZooApp(App[None]):
    CSS = "Screen { layout: vertical; } Table { height: 1fr; }"

    def __init__(self, zoo: Zoo, clock: Any = None) -> None:
        super().__init__()
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = DARK.name
        self.table: Table[Animal] = Table(zoo, COLUMNS, empty="no animals", clock=clock or (lambda: 0.0))
        self.failures: list[str] = []

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return dict(DARK.variables)

    def compose(self) -> ComposeResult:
        yield self.table

    def on_table_failed(self, message: Table.Failed) -> None:
        self.failures.append(message.reason)


def herd(n: int) -> list[Animal]:
    return [Animal(f"a{i:06d}", i % 7, f"note {i}") for i in range(n)]


def run(zoo: Zoo, steps: Any, size: tuple[int, int] = (60, 12), clock: Any = None) -> None:
    async def go() -> None:
        app = ZooApp(zoo, clock)
        async with app.run_test(size=size) as pilot:
            app.table.focus()
            await settle(pilot)
            await steps(app, app.table, pilot)

    asyncio.run(go())


def test_first_paint_reads_one_page_of_many() -> None:
    zoo = Zoo(herd(100_000))

    async def steps(app: ZooApp, table: Table[Animal], _: Any) -> None:
        lines = screen_lines(app)
        assert lines[0].split() == ["NAME", "LEGS", "NOTE"]
        assert lines[1].startswith("›")
        assert "a000000" in lines[1]
        assert "a000010" in lines[11]
        assert table.count == 100_000
        assert sum(zoo.asked) == PAGE

    run(zoo, steps)


def test_the_end_of_100_000_rows_is_one_more_page_away() -> None:
    zoo = Zoo(herd(100_000))

    async def steps(app: ZooApp, table: Table[Animal], pilot: Any) -> None:
        table.go(-1)
        await settle(pilot)
        assert "a099999" in screen_lines(app)[-1]
        assert screen_lines(app)[-1].startswith("›")
        assert sum(zoo.asked) == 2 * PAGE
        table.move_page(-1)
        await settle(pilot)
        assert table.cursor_key == "a099989"
        assert sum(zoo.asked) == 2 * PAGE

    run(zoo, steps)


def test_pages_kept_are_bounded_and_every_line_scrolled_over_is_drawn() -> None:
    zoo = Zoo(herd(PAGE * 3 * KEPT_PAGES))

    async def steps(app: ZooApp, table: Table[Animal], pilot: Any) -> None:
        for row in range(0, table.count, PAGE):
            table.go(row)
            await settle(pilot)
            assert not any("…" in line for line in screen_lines(app))
            assert table.cursor_row == zoo.animals[row]
        assert len(table._paged._pages) == KEPT_PAGES

    run(zoo, steps)


def test_cursor_and_marks_stay_on_their_keys_when_rows_come_and_go() -> None:
    zoo = Zoo(herd(50))

    async def steps(app: ZooApp, table: Table[Animal], pilot: Any) -> None:
        table.go(5)
        table.mark()
        table.go(8)
        table.mark_range()
        await settle(pilot)
        assert list(table.chosen) == ["a000005", "a000006", "a000007", "a000008"]
        assert "›+a000008" in "".join(screen_lines(app))
        line = next(n for n, text in enumerate(screen_lines(app)) if text.startswith("›"))
        zoo.animals = [Animal(f"A{i}", 2) for i in range(30)] + zoo.animals[7:]
        table.reload()
        await settle(pilot)
        assert table.cursor_key == "a000008"
        assert list(table.chosen) == ["a000007", "a000008"]
        assert screen_lines(app)[line].startswith("›+a000008"), "the cursor's row moved under the finger"
        zoo.animals = [a for a in zoo.animals if a.name != "a000008"]
        table.reload()
        await settle(pilot)
        assert table.cursor_key == "a000009"

    run(zoo, steps)


def test_a_range_with_no_mark_before_it_is_the_row_itself() -> None:
    async def steps(_: ZooApp, table: Table[Animal], pilot: Any) -> None:
        table.go(3)
        table.mark_range()
        assert list(table.chosen) == ["a000003"]
        assert table.clear_marks()
        assert not table.clear_marks()
        assert list(table.chosen) == ["a000003"], "without marks, the row under the cursor"

    run(Zoo(herd(9)), steps)


def test_two_sort_keys() -> None:
    async def steps(app: ZooApp, table: Table[Animal], pilot: Any) -> None:
        table.look(table.view.sorted_by("legs").then_by("name").then_by("name"))
        await settle(pilot)
        assert table.view.order == (Order("legs"), Order("name", descending=True))
        assert [line.lstrip("› ").split()[0] for line in screen_lines(app)[1:5]] == [
            "a000014",
            "a000007",
            "a000000",
            "a000015",
        ]
        assert "LEGS ↑" not in screen_lines(app)[0], "the title is cut to its column"
        assert "NAME ↓²" in screen_lines(app)[0]

    run(Zoo(herd(20)), steps)


def test_clicks_sort_stand_and_open() -> None:
    async def steps(app: ZooApp, table: Table[Animal], pilot: Any) -> None:
        await pilot.click(Table, offset=(4, 0))
        await settle(pilot)
        assert table.view.order == (Order("name"),)
        await pilot.click(Table, offset=(4, 0))
        await settle(pilot)
        assert table.cursor_key == "a000019"
        assert "a000019" in screen_lines(app)[1]
        await pilot.click(Table, offset=(14, 4))
        await settle(pilot)
        assert table.cursor_key == "a000016"
        assert table.picked is not None
        assert table.picked.title == "LEGS"
        await pilot.click(Table, offset=(4, 11))
        await settle(pilot)
        assert table.cursor_key == "a000009"

    run(Zoo(herd(20)), steps)


def test_a_failed_read_is_told_and_what_was_shown_stays() -> None:
    zoo = Zoo(herd(5000))

    async def steps(app: ZooApp, table: Table[Animal], pilot: Any) -> None:
        before = screen_lines(app)
        zoo.broken = True
        table.reload()
        await settle(pilot)
        assert app.failures == ["COR-GEN-001: the zoo is closed"]
        assert screen_lines(app) == before
        table.go(-1)
        await settle(pilot)
        assert len(app.failures) == 2
        zoo.broken = False
        table.changed()
        await settle(pilot)
        assert "a004999" in screen_lines(app)[-1]

    run(zoo, steps)


def test_nothing_says_so() -> None:
    async def steps(app: ZooApp, table: Table[Animal], pilot: Any) -> None:
        assert screen_lines(app)[1].strip() == "no animals"
        assert table.cursor_key is None
        assert table.cursor_row is None
        for act in (
            table.mark,
            table.mark_range,
            lambda: table.move(1),
            lambda: table.go(-1),
            lambda: table.move_page(1),
        ):
            act()
        await settle(pilot)
        assert list(table.chosen) == []

    run(Zoo([]), steps)


def test_wide_scrolls_sideways_and_the_first_column_stays() -> None:
    async def steps(app: ZooApp, table: Table[Animal], pilot: Any) -> None:
        assert "SOUND" not in screen_lines(app)[0]
        table.set_wide(wide=True)
        await settle(pilot)
        table.pick(3)
        await settle(pilot)
        assert table.picked is not None
        assert table.picked.title == "SOUND"
        assert screen_lines(app)[0].split()[-1] == "SOUND"
        assert screen_lines(app)[1].startswith("› a000000")
        assert screen_lines(app)[1].endswith("moo")
        table.pick(-9)
        await settle(pilot)
        assert "LEGS" in screen_lines(app)[0]

    run(Zoo(herd(20)), steps, size=(60, 8))


def test_resizing_keeps_the_cursor_on_the_screen() -> None:
    async def steps(app: ZooApp, table: Table[Animal], pilot: Any) -> None:
        table.go(10)
        await settle(pilot)
        await pilot.resize_terminal(30, 5)
        await settle(pilot)
        assert any(line.startswith("› a000010") for line in screen_lines(app))
        assert all(cell_len(line) <= 30 for line in screen_lines(app))

    run(Zoo(herd(200)), steps)


def test_text_from_hosts_cannot_draw() -> None:
    evil = Animal("[red]x[/]", 1, "\x1b[2J\x1b]0;owned\x07\u202eabc\r\nnext 🐄🐄🐄🐄🐄🐄🐄🐄🐄🐄🐄🐄🐄🐄🐄🐄")

    async def steps(app: ZooApp, table: Table[Animal], pilot: Any) -> None:
        text = screen_lines(app)[1]
        assert "[red]x[/]" in text
        assert all(ch.isprintable() for line in screen_lines(app) for ch in line)
        assert all(cell_len(line) <= 60 for line in screen_lines(app))

    run(Zoo([evil]), steps)


def test_changes_in_a_burst_read_rows_now_and_all_keys_once_when_due() -> None:
    """Reading all keys takes two seconds of this clock, so the next such read is due forty seconds later."""
    now, reads = 0.0, 0

    class Slow(Zoo):
        def keys(self, view: View) -> Sequence[str]:
            nonlocal now, reads
            now, reads = now + 2, reads + 1
            return super().keys(view)

    zoo = Slow(herd(500))
    lanes = Lanes(zoo, lambda: now)
    lanes.paged.reload()
    lanes.drain()
    zoo.asked.clear()
    for _ in range(30):
        lanes.paged.changed()
        lanes.drain()
    assert reads == 1
    assert zoo.asked == [PAGE] * 30
    assert [seconds for seconds, _ in lanes.timers] == [40.0], "one more read is due, and none is forgotten"
    now += 41
    lanes.timers.pop()[1]()
    lanes.drain()
    assert reads == 2
    now += 41
    lanes.paged.changed()
    lanes.drain()
    assert reads == 3


# ── Paged alone: threads replaced by a list of work ────────────────────────────────────────────────────────────────


class Lanes:
    """Ports whose threads run when told."""

    def __init__(self, zoo: Zoo, clock: Any = lambda: 0.0) -> None:
        self.work: list[Any] = []
        self.timers: list[Any] = []
        self.events: list[str] = []
        self.place = Place("", 0, 0, 10)
        ports = Ports(
            self.work.append,
            lambda call, *args: call(*args),
            lambda seconds, call: self.timers.append((seconds, call)),
            lambda: self.place,
            lambda: self.events.append("keys"),
            lambda: self.events.append("rows"),
            self.events.append,
            clock,
        )
        self.paged: Paged[Animal] = Paged(zoo, View(), ports)

    def drain(self) -> None:
        while self.work:
            self.work.pop(0)()


def test_a_view_changed_while_keys_are_read_is_read_again_and_the_old_answer_dropped() -> None:
    lanes = Lanes(Zoo(herd(10)))
    lanes.paged.reload()
    lanes.paged.turn(view=View(order=(Order("name", descending=True),)))
    assert len(lanes.work) == 1, "one read at a time"
    lanes.drain()
    assert lanes.paged.keys[0] == "a000009"
    assert lanes.events == ["keys"]


def test_pages_of_an_older_generation_are_dropped() -> None:
    zoo = Zoo(herd(1000))
    lanes = Lanes(zoo)
    lanes.paged.reload()
    lanes.drain()
    lanes.place = replace(lanes.place, top=600, row=600)
    assert lanes.paged.row(600) is None
    pages = lanes.work.pop()
    zoo.animals = zoo.animals[1:]
    lanes.paged.reload()
    lanes.drain()
    assert lanes.paged.row(600) == zoo.animals[600]
    pages()
    assert lanes.paged.row(799) == zoo.animals[799], "a page read for other keys was taken"


def test_rows_that_left_the_screen_before_they_were_read_are_not_read() -> None:
    zoo = Zoo(herd(10_000))
    lanes = Lanes(zoo)
    lanes.paged.reload()
    lanes.drain()
    zoo.asked.clear()
    for top in range(0, 9000, 300):
        lanes.place = replace(lanes.place, top=top, row=top)
        lanes.paged.row(top)
    lanes.drain()
    assert len(zoo.asked) <= 3


def test_a_read_in_a_real_thread_comes_back_on_the_callers() -> None:
    seen: list[int] = []

    class Watched(Zoo):
        def keys(self, view: View) -> Sequence[str]:
            seen.append(threading.get_ident())
            return super().keys(view)

    async def steps(_: ZooApp, table: Table[Animal], pilot: Any) -> None:
        assert seen
        assert threading.get_ident() not in seen

    run(Watched(herd(3)), steps)


# ── layout and text ────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(1, 200), st.booleans())
def test_columns_never_overlap_and_leave_by_rank(width: int, wide: bool) -> None:
    placed = place(COLUMNS, width, wide=wide)
    for left, right in pairwise(placed):
        assert left.x + left.width < right.x
    ranks = [p.column.rank for p in placed]
    if wide:
        assert len(placed) == len(COLUMNS)
    elif any(ranks):
        assert line_width(placed) <= width
    assert [c.rank for c in COLUMNS if c.rank == 0] == [r for r in ranks if r == 0]


@given(st.text(), st.integers(0, 40), st.booleans())
def test_fitted_text_is_printable_and_exactly_as_wide_as_asked(text: str, width: int, right: bool) -> None:
    fitted = fit(text, width, right=right)
    assert cell_len(fitted) == width
    assert all(ch.isprintable() for ch in fitted)


@given(st.lists(st.text()))
def test_joined_cells_carry_no_markup_and_no_control_characters(texts: list[str]) -> None:
    line = shown([Cell(t, "refused") for t in texts])
    assert all(ch.isprintable() for ch in line.plain)


def test_markup_stays_text() -> None:
    assert shown(["[bold]a[/bold]", "", Cell("$fits", "fits")]).plain == "[bold]a[/bold]  $fits"


@pytest.mark.parametrize(
    ("word", "text"),
    [("fits", "● fits"), ("degraded", "▲ degraded"), ("blocked", "■ blocked"), ("refused", "✕ refused"),
     ("unknown", "? unknown"), (None, "? unknown"), ("nonsense", "? nonsense"), ("ROLLING_BACK", "▲ rolling back")],
)  # fmt: skip
def test_every_verdict_has_a_glyph_and_a_word(word: str | None, text: str) -> None:
    assert sign(word).text == text


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a: str, b: str) -> float:
    low, high = sorted((_luminance(a), _luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", THEMES, ids=lambda t: t.name)
def test_verdicts_differ_in_lightness_and_stand_out(theme: Any) -> None:
    tones = [theme.variables[n] for n in ("fits", "degraded", "blocked", "refused", "unknown")]
    by_light = sorted(tones, key=_luminance)
    for darker, lighter in pairwise(by_light):
        assert _contrast(darker, lighter) >= 1.2
    for tone in (*tones, theme.variables["quiet"], theme.foreground):
        assert _contrast(tone, theme.background) >= 4.5
        assert _contrast(tone, theme.variables["cursor"]) >= 3


def test_the_themes_are_two() -> None:
    assert _luminance(DARK.background or "") < 0.1 < 0.8 < _luminance(LIGHT.background or "")


def test_small_words() -> None:
    assert [ago(s) for s in (None, -3, 8.9, 720, 7300, 200_000)] == ["never", "0s", "8s", "12m", "2h", "2d"]
    assert [bar(s, 4) for s in (-1, 0, 0.5, 1, 9)] == ["░░░░", "░░░░", "██░░", "████", "████"]
