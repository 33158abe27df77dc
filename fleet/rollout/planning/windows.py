"""Maintenance windows: when hosts may be changed, on the clock of the wall they hang at.

    Mon-Fri 22:00-04:00 Europe/Berlin; Sat,Sun 00:00-24:00 Europe/Berlin

Days (or ``daily``) are those on which a window begins; one whose end is not after its beginning ends on the next day.
What counts is what the wall's clock shows: an hour that a change to summer time leaves out is never in a window, one
that comes twice is in it twice. Pure: times in seconds since the epoch in, answers out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from btf.fault import EXIT_USAGE, Fault, printable

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_FORM = re.compile(r"(?P<days>\S+)\s+(?P<begin>\d\d:\d\d)-(?P<end>\d\d:\d\d)(?:\s+(?P<zone>\S+))?")
_MAX_LENGTH = 500
_AHEAD_H = 15 * 24  # a weekly window that one change of the clocks swallows comes again in the next week
_DAY_MIN = 24 * 60


class WindowMalformed(Fault):
    """A maintenance window that cannot be read."""

    code = "COR-PLN-004"
    exit = EXIT_USAGE
    remedy = "Write for example: Mon-Fri 22:00-04:00 Europe/Berlin"


@dataclass(frozen=True, slots=True)
class _Span:
    """One window: the days it begins on (0 is Monday), minutes of the day, the zone of its clock."""

    days: frozenset[int]
    begin: int
    end: int
    zone: tzinfo

    def holds(self, at: datetime) -> bool:
        wall = at.astimezone(self.zone)
        minute = wall.hour * 60 + wall.minute
        if self.begin < self.end:
            return wall.weekday() in self.days and self.begin <= minute < self.end
        late = wall.weekday() in self.days and minute >= self.begin
        return late or ((wall.weekday() - 1) % 7 in self.days and minute < self.end)

    def openings(self, at: datetime) -> Iterator[datetime]:
        """Yield, in no order, every moment from *at* on at which it may open: beginnings and changes of the clock."""
        today = at.astimezone(self.zone).date()
        for ahead in range(_AHEAD_H // 24 + 1):
            for fold in (0, 1):
                day = today + timedelta(days=ahead)
                begin = datetime(day.year, day.month, day.day, *divmod(self.begin, 60), tzinfo=self.zone, fold=fold)
                yield begin.astimezone(UTC)
        yield from _changes(at, self.zone)


@dataclass(frozen=True, slots=True)
class Windows:
    """One or more windows; open when any of them is. ``text`` is what was written; an empty one is always open."""

    text: str
    _spans: tuple[_Span, ...]

    def is_open(self, at: float) -> bool:
        """Tell whether a host may be begun at *at*."""
        moment = datetime.fromtimestamp(at, UTC)
        return not self._spans or any(span.holds(moment) for span in self._spans)

    def opens_at(self, at: float) -> float:
        """Return the first moment from *at* on at which it is open: *at* itself when it is. To the second."""
        if self.is_open(at):
            return at
        moments = sorted(o.timestamp() for s in self._spans for o in s.openings(datetime.fromtimestamp(at, UTC)))
        found = next((m for m in moments if m >= at and self.is_open(m)), None)
        if found is None:
            raise WindowMalformed(f"{self.text!r} does not open within {_AHEAD_H // 24} days")
        return found


def _changes(at: datetime, zone: tzinfo) -> Iterator[datetime]:
    """Yield every moment of the coming days at which the zone's clock is put forward or back."""
    for hour in range(_AHEAD_H):
        before, after = at + timedelta(hours=hour), at + timedelta(hours=hour + 1)
        if before.astimezone(zone).utcoffset() == after.astimezone(zone).utcoffset():
            continue
        low, high = int(before.timestamp()), int(after.timestamp()) + 1
        was = datetime.fromtimestamp(low, zone).utcoffset()
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if datetime.fromtimestamp(middle, zone).utcoffset() == was else (low, middle)
        yield datetime.fromtimestamp(high, UTC)


def parse_windows(text: str) -> Windows:
    """Parse *text*, windows parted by ``;``; an empty one is open at any time. Raises WindowMalformed."""
    if len(text) > _MAX_LENGTH:
        raise WindowMalformed(f"longer than {_MAX_LENGTH} characters")
    return Windows(text, tuple(_span(part.strip()) for part in text.split(";")) if text.strip() else ())


def _span(text: str) -> _Span:
    form = _FORM.fullmatch(text)
    if form is None:
        raise WindowMalformed(f"{text!r} is no window: DAYS HH:MM-HH:MM ZONE")
    begin, end = _minutes(form["begin"]), _minutes(form["end"])
    if begin in (_DAY_MIN, end):
        raise WindowMalformed(f"{text!r}: a window begins before 24:00 and ends at another time")
    return _Span(frozenset(_days(form["days"])), begin, end, _zone(form["zone"] or "UTC"))


def _minutes(text: str) -> int:
    hours, minutes = int(text[:2]), int(text[3:])
    if minutes > 59 or hours * 60 + minutes > _DAY_MIN:
        raise WindowMalformed(f"{text} is no time of day: 00:00 to 24:00")
    return hours * 60 + minutes


def _days(text: str) -> Iterator[int]:
    if text == "daily":
        yield from range(7)
        return
    for part in text.split(","):
        first, _, last = part.partition("-")
        try:
            begin, end = _DAYS.index(first), _DAYS.index(last or first)
        except ValueError:
            raise WindowMalformed(f"{part!r} names no days: {', '.join(_DAYS)}, Mon-Fri or daily") from None
        yield from (day % 7 for day in range(begin, end + 1 if begin <= end else end + 8))


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # no name of a zone, no readable file, not there
        raise WindowMalformed(
            f"no time zone is called {printable(name, 60)!r} here",
            remedy="Name one like Europe/Berlin or UTC; the machine's tzdata has them.",
        ) from None


def clock_text(at: float) -> str:
    """Return *at* as people read it, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
