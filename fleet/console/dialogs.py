"""What opens over a screen: text to read (Explain, Help), a question before something dangerous, the filter line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import Group
from rich.padding import Padding
from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from btf.fault import printable
from fleet.actions import Action, Danger, on_screen
from fleet.console.explain import Lines, Said
from fleet.console.look import Cell, fit, shown


def modal_bindings(screen: str) -> list[BindingType]:
    """Return the bindings of a dialog from the registry."""
    return [Binding(",".join(a.keys), a.name.replace("-", "_"), a.help) for a in on_screen(screen)]


def key_list(screen: str, *, read_only: bool) -> Lines:
    """Return one line per action of *screen*: keys, name, what it does, its twin on the command line."""
    lines: Lines = []
    for action in on_screen(screen, read_only=read_only):
        keys = " ".join(k for k in action.keys if k != "ctrl+@")
        twin = f"corollout {action.twin.removeprefix('corollout ')}" if action.twin else ""
        mark = {Danger.NONE: "", Danger.ASK: "asks", Danger.NAME: "by name"}[action.danger]
        cells = [Cell(keys, "strong", 15), Cell(action.name, width=10), Cell(action.help, width=33)]
        lines.append(Said([*cells, Cell(mark, "degraded", 7), Cell(twin, "quiet")], whole=True))
    return lines


class Reading(ModalScreen[None], inherit_bindings=False):
    """Lines to read; scrolls, closes."""

    BINDINGS = modal_bindings("explain")
    DEFAULT_CSS = """
    Reading { align: center middle; background: $background 60%; }
    Reading > Vertical { width: 96%; max-width: 130; height: auto; max-height: 94%; background: $background;
        border: round $quiet; padding: 0 1; }
    Reading VerticalScroll { height: auto; max-height: 100%; scrollbar-size: 1 1; background: $background; }
    Reading Static { width: 100%; color: $foreground; background: $background; }
    """

    def __init__(self, title: str, lines: Lines) -> None:
        super().__init__()
        self._title, self._lines = shown([title]).plain, lines

    def compose(self) -> ComposeResult:
        """A frame with the title, scrolling lines in it."""
        with Vertical() as frame:
            frame.border_title = Content(self._title)
            frame.border_subtitle = Content("esc close")
            with VerticalScroll(can_focus=False):
                yield Static(self._text(), markup=False)

    def _text(self) -> Group:
        """Return the lines, each wrapped within its own indent."""
        colours = self.app.theme_variables
        return Group(*(Padding(_line(said, colours), (0, 0, 0, said.indent)) for said in self._lines))

    @property
    def _scroll(self) -> VerticalScroll:
        return self.query_one(VerticalScroll)

    def action_close(self) -> None:
        """Back to the screen."""
        self.dismiss(None)

    def action_down(self) -> None:
        """One line down."""
        self._scroll.scroll_relative(y=1, animate=False)

    def action_up(self) -> None:
        """One line up."""
        self._scroll.scroll_relative(y=-1, animate=False)

    def action_page_down(self) -> None:
        """One page down."""
        self._scroll.scroll_page_down(animate=False)

    def action_page_up(self) -> None:
        """One page up."""
        self._scroll.scroll_page_up(animate=False)

    def action_first(self) -> None:
        """To the top."""
        self._scroll.scroll_home(animate=False)

    def action_last(self) -> None:
        """To the bottom."""
        self._scroll.scroll_end(animate=False)


def _line(said: Said, colours: Mapping[str, str]) -> Text:
    line = Text(no_wrap=said.whole, overflow="ellipsis" if said.whole else "fold")
    for cell in said.cells:
        if text := fit(cell.text, cell.width) if cell.width else printable(cell.text, 2_000):
            line.append("  " if line else "").append(text, colours.get(cell.tone, ""))
    return line


class Confirm(ModalScreen[bool], inherit_bindings=False):
    """A question before a request: enter asks for it, escape leaves; what is dangerous wants the rollout's name."""

    BINDINGS = modal_bindings("confirm")
    DEFAULT_CSS = """
    Confirm { align: center middle; background: $background 60%; }
    Confirm > Vertical { width: 68; max-width: 96%; height: auto; background: $background; border: round $degraded;
        padding: 0 1; }
    Confirm Static { width: 100%; color: $foreground; background: $background; }
    Confirm Input { background: $bar; color: $foreground; margin: 1 0 0 0; }
    """

    def __init__(self, action: Action, rollout: str, lines: Iterable[Iterable[Cell]]) -> None:
        super().__init__()
        self.action, self.rollout = action, rollout
        self._lines = [shown(line) for line in lines]

    @property
    def named(self) -> bool:
        """Whether the name must be typed."""
        return self.action.danger is Danger.NAME

    def compose(self) -> ComposeResult:
        """What will happen, and where to say yes."""
        ask = f"Type {self.rollout} and press enter; esc leaves." if self.named else "Press enter; esc leaves."
        with Vertical() as frame:
            frame.border_title = Content(shown([f"{self.action.name} {self.rollout}?"]).plain)
            yield Static(Content("\n").join([*self._lines, Content(""), shown([Cell(ask, "strong")])]), markup=False)
            if self.named:
                yield Input(compact=True, placeholder=self.rollout, select_on_focus=False)
                yield Static("", id="wrong", markup=False)

    def on_key(self, event: events.Key) -> None:
        """Enter is enough where no name is wanted."""
        if event.key == "enter" and not self.named:
            event.stop()
            self.dismiss(result=True)

    def on_input_submitted(self, message: Input.Submitted) -> None:
        """Ask for it when the name is right."""
        message.stop()
        if message.value.strip() == self.rollout:
            self.dismiss(result=True)
        else:
            wrong = [Cell("✕ that is not its name; nothing was asked", "refused")]
            self.query_one("#wrong", Static).update(shown(wrong))

    def action_close(self) -> None:
        """Leave everything as it is."""
        self.dismiss(result=False)


class FilterLine(Input):
    """The filter line: hidden until asked for; enter applies, escape leaves the filter as it was."""

    DEFAULT_CSS = "FilterLine { display: none; background: $bar; color: $foreground; }"

    class Done(Message):
        """A selector was entered, or None: leave it as it is."""

        def __init__(self, text: str | None) -> None:
            super().__init__()
            self.text = text

    def __init__(self) -> None:
        super().__init__(compact=True, placeholder='kernel~"5.4.*" and btf=no and not label:env=prod')

    def open(self, text: str) -> None:
        """Show the line with the present filter in it."""
        self.value = text
        self.display = True
        self.focus()

    def on_input_submitted(self, message: Input.Submitted) -> None:
        """Apply it."""
        message.stop()
        self._leave(message.value.strip())

    def on_key(self, event: events.Key) -> None:
        """Escape leaves."""
        if event.key == "escape":
            event.stop()
            self._leave(None)

    def _leave(self, text: str | None) -> None:
        self.display = False
        self.post_message(self.Done(text))
