"""What every screen has: tabs, the *waits for you* line, hints from the registry, and the actions that move about."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Static

from fleet.actions import SCREENS, Action, on_screen
from fleet.console.feed import waits_line
from fleet.console.look import Cell, shown
from fleet.console.table import Table
from fleet.console.window import View

if TYPE_CHECKING:
    from fleet.console.app import ConsoleApp

TITLES = {"fleet": "Fleet", "matrix": "Matrix", "rollout": "Rollout", "drift": "Drift"}


def method(action: Action) -> str:
    """Return the Textual action that carries out *action*: one for all that write a request."""
    return f"ask('{action.name}')" if action.changes else action.name.replace("-", "_")


def bindings(screen: str) -> list[BindingType]:
    """Return the bindings of *screen* from the registry."""
    return [Binding(",".join(a.keys), method(a), a.help, id=f"{screen}.{a.name}") for a in on_screen(screen)]


def hints(actions: Iterable[Action], width: int) -> list[Cell]:
    """Return as many ``key name`` hints as fit into *width* cells, in the registry's order."""
    found: list[Cell] = []
    for action in actions:
        pair = [Cell(action.keys[0], "strong"), Cell(action.name, "quiet")]
        if sum(cell_len(c.text) + 1 for c in (*found, *pair)) > width:
            break
        found += pair
    return found


class Line(Static):
    """One line of cells."""

    DEFAULT_CSS = "Line { height: 1; padding: 0 1; background: $background; color: $foreground; text-wrap: nowrap; }"

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 — Textual's own name for it
        super().__init__(markup=False, id=id)

    def tell(self, cells: Iterable[Cell | str], between: str = "  ") -> None:
        """Show *cells*."""
        self.update(shown(cells, between))


class Page(Screen[None], inherit_bindings=False):
    """A full screen. Subclasses name themselves as in the registry, and compose their body."""

    NAME: ClassVar[str] = ""
    DEFAULT_CSS = """
    Page { layout: vertical; background: $background; color: $foreground; }
    Page #top, Page #foot { background: $bar; }
    """

    @property
    def console(self) -> ConsoleApp:
        """The app this is a screen of."""
        return cast("ConsoleApp", self.app)

    @property
    def table(self) -> Table[Any]:
        """The table that has the focus, else the first."""
        tables = list(self.query(Table))
        return next((t for t in tables if t.has_focus), tables[0])

    def compose(self) -> ComposeResult:
        """Tabs, what waits, the body, hints."""
        yield Line(id="top")
        yield Line(id="waits")
        yield from self.body()
        yield Line(id="foot")

    def body(self) -> Iterable[Widget]:
        """The widgets between the lines."""
        raise NotImplementedError

    def summary(self) -> Sequence[Cell]:
        """What the top line says of this screen."""
        return ()

    def offered(self) -> Iterable[Action]:
        """The actions worth a hint now."""
        return (a for a in on_screen(self.NAME, read_only=self.console.read_only) if a.hint)

    def on_mount(self) -> None:
        """Put the focus where the keys are meant for."""
        self.query(Table).first().focus()
        self.tell()

    def on_screen_resume(self) -> None:
        """Another screen was shown meanwhile: read again."""
        self.changed()
        self.tell()

    def on_resize(self) -> None:
        """Hints depend on the width."""
        self.tell()

    def changed(self) -> None:
        """Something in the record changed."""
        for table in self.query(Table):
            table.changed()

    def on_table_read(self) -> None:
        """Counts may have changed."""
        self.tell()

    def on_table_failed(self, message: Table.Failed) -> None:
        """Say why nothing new is shown."""
        self.query_one("#foot", Line).tell([Cell("not read:", "refused"), Cell(message.reason)])

    def on_table_opened(self) -> None:
        """A double click explains."""
        self.action_explain()

    def tell(self) -> None:
        """Draw the lines anew."""
        if not self.is_mounted:
            return
        tabs = [
            Cell(f"{a.keys[0]} {TITLES[a.name]}", "strong" if a.name == self.NAME else "quiet")
            for a in on_screen(self.NAME)
            if a.name in SCREENS
        ]
        ro = [Cell("read-only", "degraded")] if self.console.read_only else []
        self.query_one("#top", Line).tell([*tabs, *ro, "│", *self.summary()])
        lost = self.console.lost
        self.query_one("#waits", Line).tell(
            [Cell("the record cannot be read:", "refused"), Cell(lost)] if lost else waits_line(self.console.waiting)
        )
        view, marks = self.table.view, len(self.table.marks)
        state = [
            Cell(f"/{view.filter}" if view.filter else "", "strong"),
            Cell("problems only" if view.problems else "", "strong"),
            Cell(f"{marks} marked" if marks else "", "strong"),
        ]
        shown_state = [c for c in state if c.text]
        width = self.size.width - 2 - sum(cell_len(c.text) + 1 for c in shown_state)
        line = [*shown_state, *hints(self.offered(), width)]
        self.query_one("#foot", Line).tell(line, " ")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Take the changing actions away when read-only."""
        if action == "ask" and self.console.read_only:
            return False
        return super().check_action(action, parameters)

    # ── actions of the registry ────────────────────────────────────────────────────────────────────────────────────

    def action_fleet(self) -> None:
        """Show the hosts."""
        self.console.go("fleet")

    def action_matrix(self) -> None:
        """Show program × kernel."""
        self.console.go("matrix")

    def action_rollout(self) -> None:
        """Show a rollout."""
        self.console.go("rollout")

    def action_drift(self) -> None:
        """Show recorded against observed."""
        self.console.go("drift")

    def action_previous(self) -> None:
        """Show the screen before."""
        self.console.go_back()

    def action_help(self) -> None:
        """Show every key."""
        self.console.show_help(self.NAME)

    def action_palette(self) -> None:
        """Find an action by its name."""
        self.app.action_command_palette()

    def action_theme(self) -> None:
        """Dark or light."""
        self.console.turn_theme()

    def action_quit(self) -> None:
        """Leave."""
        self.app.exit()

    def action_back(self) -> None:
        """Clear the filter, then the marks."""
        view = self.table.view
        if view.filter or view.problems:
            self.look(View(order=view.order))
        elif self.table.clear_marks():
            self.tell()

    def action_problems(self) -> None:
        """Problems only, or all."""
        view = self.table.view
        self.look(View(view.filter, not view.problems, view.order))

    def action_sort(self) -> None:
        """Sort by the picked column."""
        picked = self.table.picked
        if picked is not None and picked.sort:
            self.look(self.table.view.sorted_by(picked.sort))

    def action_then_by(self) -> None:
        """Second sort key."""
        picked = self.table.picked
        if picked is not None and picked.sort:
            self.look(self.table.view.then_by(picked.sort))

    def look(self, view: View) -> None:
        """Show another view of the table."""
        self.table.look(view)
        self.tell()

    def action_wide(self) -> None:
        """Every column, or those that fit."""
        self.table.set_wide(wide=not self.table.wide)

    def action_mark(self) -> None:
        """Mark this row."""
        self.table.mark()
        self.tell()

    def action_mark_range(self) -> None:
        """Mark up to this row."""
        self.table.mark_range()
        self.tell()

    def action_copy(self) -> None:
        """Copy names to the clipboard."""
        names = list(self.table.chosen)
        self.app.copy_to_clipboard("\n".join(names))
        self.console.say(f"copied {len(names)} name{'s' if len(names) != 1 else ''}")

    def action_json(self) -> None:
        """Copy the row as JSON."""
        row = self.table.cursor_row
        if is_dataclass(row) and not isinstance(row, type):
            self.app.copy_to_clipboard(json.dumps(asdict(row), default=str, indent=2, sort_keys=True))
            self.console.say("copied the row as JSON")

    def action_explain(self) -> None:
        """Say why."""

    def action_down(self) -> None:
        """One row down."""
        self.table.move(1)

    def action_up(self) -> None:
        """One row up."""
        self.table.move(-1)

    def action_left(self) -> None:
        """One column to the left."""
        self.table.pick(-1)

    def action_right(self) -> None:
        """One column to the right."""
        self.table.pick(1)

    def action_page_down(self) -> None:
        """One page down."""
        self.table.move_page(1)

    def action_page_up(self) -> None:
        """One page up."""
        self.table.move_page(-1)

    def action_first(self) -> None:
        """To the top."""
        self.table.go(0)

    def action_last(self) -> None:
        """To the bottom."""
        self.table.go(-1)
