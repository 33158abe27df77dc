"""Following a rollout: a block that redraws in place on a terminal, a line per change anywhere else; reads only.

The same faces serve ``rollout watch``, from any terminal, and the command that drives.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, Protocol

import click

from fleet.cli.lines import Line
from fleet.cli.settings import Settings, pass_settings
from fleet.cli.watch_log import Log
from fleet.cli.watch_page import Cost, Watched, page

if TYPE_CHECKING:  # the record loads SQLAlchemy, which a page of help needs not wait for
    from fleet.record import Record
    from fleet.record.rollout_views import RolloutView, StepView
    from fleet.record.views import EventView

LOOK_S = 0.25
GRACE_S = 3.0  # an active rollout without a driver is looked at for this long: one may be about to begin
_EVENTS, _TROUBLE, _SAMPLES = 200, 30, 2000  # read at most
_SAID = 6  # lines that who drives writes before and after the block
_BACK = 2000  # audit rows, of all rollouts, that a block looks back
_TONES = {"good": 32, "bad": 31, "wait": 33, "quiet": 2, "bold": 1}


class Face(Protocol):
    """How what is seen is shown."""

    def show(self, seen: Watched, fresh: Sequence[EventView]) -> None:
        """Show the rollout as it is now; *fresh* are the events since the last time."""
        ...

    def end(self, seen: Watched, code: int) -> None:
        """Show how it ended, for good."""
        ...


class Block:
    """A block of lines on a terminal that is written over in place: each frame is one write, and only when it differs.

    While it is up, typing is not echoed: it would shift what is about to be written over.
    """

    def __init__(self, stream: IO[str], *, colour: bool, spare: int = 1) -> None:
        self._stream = stream
        self._colour = colour
        self._spare = spare  # lines that are left for what is written before and after, and for the cursor
        self._ascii = "utf" not in (getattr(stream, "encoding", None) or "").lower()
        self._drawn: list[str] = []
        self._size: os.terminal_size | None = None

    @contextlib.contextmanager
    def up(self) -> Iterator[Block]:
        """Keep the terminal quiet while the block is up, and leave it as it was."""
        try:
            keyboard = sys.stdin.fileno()
            before = termios.tcgetattr(keyboard)
        except (termios.error, OSError, ValueError, AttributeError):
            yield self
            return
        quiet = [*before]
        quiet[3] &= ~termios.ECHO
        termios.tcsetattr(keyboard, termios.TCSADRAIN, quiet)
        try:
            yield self
        finally:
            termios.tcsetattr(keyboard, termios.TCSADRAIN, before)

    def forget(self) -> None:
        """Draw anew below: something else wrote to the terminal meanwhile."""
        self._drawn = []

    def show(self, seen: Watched, fresh: Sequence[EventView]) -> None:  # noqa: ARG002 - the page has the newest itself
        """Draw the page for the terminal's size now."""
        size = os.get_terminal_size(self._stream.fileno())
        columns, rows = size if size.columns and size.lines else (80, 24)
        # One column stays free, so that no terminal wraps.
        lines = page(seen, max(columns - 1, 1), max(rows - self._spare, 1), ascii_only=self._ascii)
        self._draw([self._paint(line) for line in lines], size)

    def end(self, seen: Watched, code: int) -> None:  # noqa: ARG002 - the page says how it ended
        """Draw it a last time; the block stays, and what comes next is below."""
        self.show(seen, ())

    def _paint(self, line: Line) -> str:
        if not self._colour:
            return "".join(text for text, _ in line).rstrip()
        return "".join(f"\x1b[{_TONES[tone]}m{text}\x1b[0m" if tone in _TONES and text else text for text, tone in line)

    def _draw(self, lines: list[str], size: os.terminal_size) -> None:
        resized = self._size is not None and size != self._size
        if lines == self._drawn and not resized:
            return
        # After a resize nobody knows where lines are that the terminal wrapped anew: begin on a clear screen.
        start = "\x1b[H\x1b[2J" if resized else f"\x1b[{len(self._drawn)}A\r" if self._drawn else "\r"
        text = "".join(f"{line}\x1b[K\r\n" for line in lines)
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        text = text.encode(encoding, "replace").decode(encoding)
        self._stream.write(f"\x1b[?25l{start}{text}\x1b[J\x1b[?25h")
        self._stream.flush()
        self._drawn, self._size = lines, size


def face_for(stream: IO[str], *, plain: bool, spare: int = 1) -> contextlib.AbstractContextManager[Face]:
    """Return a face for *stream*, to be entered: a block where there is a terminal and *plain* is not wanted.

    *spare*: so many lines of the terminal the block leaves free.
    """
    if plain or not stream.isatty() or os.environ.get("TERM", "") in ("", "dumb"):
        return contextlib.nullcontext(Log(stream))
    return Block(stream, colour=not os.environ.get("NO_COLOR"), spare=spare).up()


class Look:
    """Reads one rollout again and again, its events from *after* on; what cannot have changed is not read again."""

    def __init__(
        self, record: Record, rollout_id: str, clock: Callable[[], float] = time.time, *, after: int = 0
    ) -> None:
        self._record, self._id, self._clock = record, rollout_id, clock
        self._event = after
        self._newest: list[EventView] = []
        self._budget: Mapping[str, Any] | None = None
        self._pulse: object = None
        self._costs: tuple[Cost, ...] = ()

    def look(self) -> tuple[Watched, list[EventView]]:
        """Return the rollout as it is, and the events since the last look."""
        from fleet.rollout.driving.controller import driver

        record, now = self._record, self._clock()
        view = record.rollout(self._id)
        fresh: list[EventView] = []
        while found := record.events(self._event, 1000, rollout_id=self._id):
            self._event = found[-1].id
            fresh += found
        self._newest = [*self._newest, *(e for e in fresh if e.before is None or e.before != e.after)][-_EVENTS:]
        pulse = (record.pulse(), view.wave)
        if pulse != self._pulse:
            self._pulse, self._costs = pulse, self._read_costs(view)
        driven = driver(view, now) is not None
        seen = Watched(
            view, now, driven, "" if driven else waits_for(view), self._trouble(view), self._costs, tuple(self._newest)
        )
        return seen, fresh

    def _trouble(self, view: RolloutView) -> tuple[StepView, ...]:
        """Failed and silent hosts of the whole rollout, then those of the current wave that take longest."""
        bad = self._record.steps(self._id, states=("failed", "revert-failed", "unreachable"), limit=_TROUBLE)
        busy = self._record.steps(self._id, wave=max(view.wave, 0), states=("applying", "reverting"), limit=_TROUBLE)
        rank = ("failed", "revert-failed", "unreachable")
        return (
            *sorted(bad, key=lambda s: (rank.index(s.state), -s.wave, s.host)),
            *sorted(busy, key=lambda s: (s.started_at or 0.0, s.host)),
        )

    def _read_costs(self, view: RolloutView) -> tuple[Cost, ...]:
        """The worst of each measure over the newest sample of every host of the current wave."""
        import msgspec

        from fleet.rollout.gate import LIMITS
        from probes.manifest import Budget

        wave = view.waves[view.wave] if 0 <= view.wave < len(view.waves) else None
        if wave is None or wave.baking_since is None:
            return ()
        if self._budget is None:
            shared = self._record.plan(view.plan_id).document.get("shared") or {}
            self._budget = next((s.get("budget") or {} for s in shared.values()), {})
        try:
            budget = msgspec.convert(self._budget, Budget)
        except msgspec.ValidationError:
            return ()
        samples = self._record.samples(self._id, wave=wave.number, since=wave.baking_since, limit=_SAMPLES)
        newest = {s.host: s for s in samples if s.outcome == "ok"}
        found = []
        for limit in LIMITS:
            values = [(value, host) for host, s in newest.items() if (value := limit.seen(s)) is not None]
            if values:
                worst, host = max(values)
                found.append(Cost(limit.name, worst, limit.allowed(budget), limit.unit, host))
        return tuple(found)


def waits_for(view: RolloutView) -> str:
    """Return what gets an undriven rollout out of where it stands; empty when nothing has to."""
    from fleet.rollout.states import goes_on_by

    return goes_on_by(view.id, view.state, view.reason)


def follow(look: Look, face: Face, *, until: Callable[[Watched], bool]) -> Watched:
    """Show what *look* sees until *until* says so; returns the last that was seen."""
    while True:
        seen, fresh = look.look()
        face.show(seen, fresh)
        if until(seen):
            return seen
        time.sleep(LOOK_S)


@contextlib.contextmanager
def narrated(settings: Settings, rollout_id: str, stream: IO[str]) -> Iterator[None]:
    """Show the rollout on *stream* while the caller drives it; nothing of the showing can stop the driving."""
    over = threading.Event()
    with settings.record() as record:
        begun = record.last_event_id()

    def show() -> None:
        with contextlib.suppress(Exception), settings.record() as record:
            look = Look(record, rollout_id, after=begun)
            seen = follow(look, face, until=lambda _seen: over.wait(0))
            face.end(look.look()[0], _exit(seen.view))

    with face_for(stream, plain=False, spare=_SAID) as face:
        thread = threading.Thread(target=show, name="narrator", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(30)


def _exit(view: RolloutView) -> int:
    from fleet.rollout.states import exit_of

    return exit_of(view.state, view.reason)


@click.command()
@click.argument("rollout_id")
@click.option("--timeout", default=0.0, help="Stop watching after this many seconds; 0: when it ends.")
@click.option("--plain", is_flag=True, help="A line per change instead of a block, also on a terminal.")
@pass_settings
@click.pass_context
def watch(context: click.Context, settings: Settings, rollout_id: str, timeout: float, *, plain: bool) -> None:
    """Follow a rollout until it ends or waits; changes nothing. Exit code by its state."""
    begin = time.monotonic()
    alone: list[float] = []  # since when nobody drives it

    def until(seen: Watched) -> bool:
        now = time.monotonic()
        if timeout and now - begin >= timeout:
            return True
        if seen.driven:
            alone.clear()
            return False
        alone.append(now)
        active = seen.view.state in ("PLANNED", "RUNNING", "BAKING", "ROLLING_BACK")
        return not active or now - alone[0] >= GRACE_S

    with settings.record() as record, face_for(sys.stdout, plain=plain) as face, _minded(face):
        # A block shows the newest events only; a log tells the whole story.
        after = max(0, record.last_event_id() - _BACK) if isinstance(face, Block) else 0
        seen = follow(Look(record, rollout_id, after=after), face, until=until)
        code = _exit(seen.view)
        face.end(seen, code)
    context.exit(code)


@contextlib.contextmanager
def _minded(face: Face) -> Iterator[None]:
    """While a block is up: being ended leaves the terminal as it was, being stopped and continued draws anew."""
    if not isinstance(face, Block):
        yield
        return
    wanted: dict[int, Callable[[int, object], None]] = {
        signal.SIGTERM: _interrupt,
        signal.SIGCONT: lambda _signal, _frame: face.forget(),
    }
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
