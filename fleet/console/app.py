"""The console: screens over the record, live. It reads, and asks by writing a request; a crash touches no rollout."""

from __future__ import annotations

import getpass
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from textual.app import App, SystemCommand
from textual.screen import Screen

from btf.fault import printable
from fleet.actions import Action, on_screen
from fleet.console.dialogs import Reading, key_list
from fleet.console.drift import Drift
from fleet.console.explain import Lines
from fleet.console.feed import Changed, Lost, follow
from fleet.console.fleet import Fleet
from fleet.console.look import DARK, LIGHT, THEMES
from fleet.console.matrix import Matrix
from fleet.console.page import Page, method
from fleet.console.paged import reason
from fleet.console.rollout import Rollout
from fleet.console.table import Table
from fleet.record import Record, open_record
from fleet.record.rollout_views import RolloutView

PAGES: dict[str, type[Page]] = {"fleet": Fleet, "matrix": Matrix, "rollout": Rollout, "drift": Drift}


class ConsoleApp(App[None]):
    """The app. ``now`` is the clock in seconds since the epoch; ``live`` false follows nothing, for still pictures."""

    TITLE = "Corollout"
    ENABLE_COMMAND_PALETTE = True
    NOTIFICATION_TIMEOUT = 4
    CSS: ClassVar[str] = "ToastRack { align: right bottom; }"

    def __init__(
        self,
        record: Record,
        *,
        read_only: bool = False,
        actor: str = "",
        now: Callable[[], float] = time.time,
        live: bool = True,
    ) -> None:
        super().__init__()
        self.record, self.read_only, self.now = record, read_only, now
        self.waiting: tuple[RolloutView, ...] = ()
        self.lost = ""
        self._actor, self._live = actor or getpass.getuser(), live
        self._views: list[str] = []

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Return our tones, so that every theme knows them."""
        return dict(DARK.variables)

    def on_mount(self) -> None:
        """Two themes, every screen, one feed."""
        for theme in THEMES:
            self.register_theme(theme)
        if self.theme == "textual-dark":  # nobody chose one through the environment
            self.theme = DARK.name
        for name, page in PAGES.items():
            self.install_screen(page(), name)
        self.go("fleet")
        if self._live:
            self.run_worker(follow(self.record, self.post_message), exit_on_error=False, group="feed")

    # ── going about ────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def page(self) -> Page | None:
        """The screen under whatever is open over it."""
        return next((s for s in reversed(self.screen_stack) if isinstance(s, Page)), None)

    def go(self, name: str) -> None:
        """Show a screen."""
        if not self._views:
            self.push_screen(name)
        elif self._views[-1] != name:
            self.switch_screen(name)
        else:
            return
        self._views = [*self._views[-1:], name]

    def go_back(self) -> None:
        """Show the screen before."""
        if len(self._views) > 1:
            self.go(self._views[0])

    def turn_theme(self) -> None:
        """Dark to light, and back."""
        self.theme = LIGHT.name if self.theme == DARK.name else DARK.name

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Return the palette: the actions of the screen under it."""
        page = screen if isinstance(screen, Page) else self.page
        if page is not None:
            for action in on_screen(page.NAME, read_only=self.read_only):
                run = partial(page.run_action, method(action))
                yield SystemCommand(f"{action.name} ({action.keys[0]})", action.help, run)

    def say(self, text: str, *, wrong: bool = False) -> None:
        """Show one line for a moment."""
        self.notify(printable(text), severity="error" if wrong else "information", markup=False)

    def show_help(self, name: str) -> None:
        """Show every key of a screen."""
        self.push_screen(Reading("keys", key_list(name, read_only=self.read_only)))

    # ── reading and asking, in threads ─────────────────────────────────────────────────────────────────────────────

    def explain(self, title: str, read: Callable[..., Lines], *arguments: Any) -> None:
        """Read why, then show it."""

        def work() -> None:
            try:
                lines = read(self.record, *arguments)
                self.call_later(lambda: self.push_screen(Reading(title, lines)))
            except Exception as error:  # a failed read is told; the console goes on
                self.call_later(partial(self.say, reason(error), wrong=True))

        self.run_worker(work, thread=True, exit_on_error=False, group="explain", exclusive=True)

    def ask(self, action: Action, rollout: str) -> None:
        """Write a request for whoever drives *rollout*; that is all this console ever changes."""
        if self.read_only:
            return

        def work() -> None:
            try:
                number = self.record.request(rollout, action.name, self._actor)
                self.call_later(partial(self.say, f"asked: {action.name} {rollout} (request {number})"))
                self.call_later(self._refresh)
            except Exception as error:  # as above; the person must see that nothing was asked
                self.call_later(partial(self.say, f"not asked: {reason(error)}", wrong=True))

        self.run_worker(work, thread=True, exit_on_error=False, group="ask")

    def _refresh(self) -> None:
        for table in self.page.query(Table) if self.page is not None else ():
            table.reload()

    def on_changed(self, message: Changed) -> None:
        """Only the screen that is seen reads again."""
        self.waiting = message.news.waiting
        if self.page is not None:
            self.page.changed()
            self.page.tell()

    def on_lost(self, message: Lost) -> None:
        """Say on every screen that what it shows is old."""
        self.lost = message.why
        if self.page is not None:
            self.page.tell()


def run_console(database: Path | str, *, read_only: bool = False) -> None:
    """Open the record at *database* and run the console until the person leaves; raises ``RecordFault``."""
    with open_record(database, read_only=read_only) as record:
        ConsoleApp(record, read_only=read_only).run()
