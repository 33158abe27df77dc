"""The feed: asks the record at most four times a second whether anything is new, and says so once. Changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from textual.message import Message

from fleet.console.look import Cell, sign
from fleet.console.paged import reason
from fleet.record import Record
from fleet.record.rollout_views import RolloutView
from fleet.record.views import Pulse
from fleet.rollout.states import WAITING

EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class News:
    """What the feed saw: the newest ids, and the rollouts that wait for a person, newest first."""

    pulse: Pulse
    waiting: tuple[RolloutView, ...] = ()


class Changed(Message):
    """Something in the record changed. A later one stands for all before it."""

    def __init__(self, news: News) -> None:
        super().__init__()
        self.news = news

    def can_replace(self, message: Message) -> bool:
        """Collapse a burst into its last message."""
        return isinstance(message, Changed)


class Lost(Message):
    """The record cannot be read just now; ``why`` is one line, empty when it can be again."""

    def __init__(self, why: str) -> None:
        super().__init__()
        self.why = why


def look(record: Record, last: News | None) -> News | None:
    """Return the news since *last*, or None when there is none."""
    pulse = record.pulse()
    if last is not None and pulse == last.pulse:
        return None
    return News(pulse, tuple(record.rollouts(states=WAITING)))


async def follow(
    record: Record, tell: Callable[[Message], object], *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    """Follow *record* until cancelled: Changed for news, Lost for trouble, and on with it after trouble."""
    last: News | None = None
    lost = ""
    while True:
        try:
            news = await asyncio.to_thread(look, record, last)
            if lost:
                lost = ""
                tell(Lost(""))
            if news is not None:
                last = news
                tell(Changed(news))
        except Exception as error:  # whatever it is, the next look may work: a live screen outlives a locked record
            if reason(error) != lost:
                lost = reason(error)
                tell(Lost(lost))
        await sleep(EVERY_S)


def waits_line(waiting: tuple[RolloutView, ...]) -> list[Cell]:
    """Return the *waits for you* line: the newest rollout that waits, how many more there are, and why."""
    if not waiting:
        return [Cell("nothing waits for you", "quiet")]
    first, more = waiting[0], len(waiting) - 1
    return [
        Cell("5 waits for you:", "strong"),
        sign(first.state, f"{first.id} {first.state.lower().replace('_', ' ')}"),
        Cell(f"(and {more} more)" if more else ""),
        Cell(first.reason or "", "quiet"),
    ]
