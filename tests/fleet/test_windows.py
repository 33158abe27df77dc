"""Maintenance windows: on the wall's clock, over midnight, and over both changes of the clocks."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.rollout.planning.windows import WindowMalformed, parse_windows

CASES = json.loads((Path(__file__).parent / "cases" / "windows.json").read_text())
ZONES = ["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu"]
DAYS = ["daily", "Mon", "Sun", "Mon-Fri", "Fri-Mon", "Tue,Thu-Sat"]
MINUTES = st.integers(0, 1439)
SPANS = st.tuples(st.sampled_from(DAYS), MINUTES, MINUTES, st.sampled_from(ZONES)).filter(lambda s: s[1] != s[2])
WINDOWS = st.lists(SPANS, min_size=1, max_size=2).map(lambda spans: "; ".join(text_of(*s) for s in spans))
# Around both changes of the clocks of 2027 in Berlin, where the others' are near, and anywhere else.
TIMES = st.one_of(
    st.integers(1_806_000_000, 1_806_900_000), st.integers(1_824_500_000, 1_825_700_000), st.integers(0, 2_000_000_000)
)


def text_of(days: str, begin: int, end: int, zone: str) -> str:
    return f"{days} {begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02} {zone}"


def at(text: str) -> float:
    """Seconds since the epoch of e.g. ``2027-03-28T01:59+01:00``."""
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_cases(case: dict[str, Any]) -> None:
    windows = parse_windows(case["windows"])
    assert windows.is_open(at(case["at"])) is (case["opens"] == case["at"])
    assert windows.opens_at(at(case["at"])) == at(case["opens"])


@given(WINDOWS, TIMES)
@settings(max_examples=150, deadline=None)
def test_it_is_open_when_it_opens_and_closed_until_then(text: str, begin: int) -> None:
    windows = parse_windows(text)
    opens = windows.opens_at(begin)
    assert opens >= begin
    assert windows.is_open(opens)
    assert not any(windows.is_open(t) for t in range(begin, int(opens), 60))
    if opens > begin:
        assert not windows.is_open(opens - 1)


@given(SPANS, TIMES)
@settings(max_examples=150, deadline=None)
def test_what_counts_is_the_clock_on_the_wall(span: tuple[str, int, int, str], moment: int) -> None:
    days, begin, end, zone = span
    if not parse_windows(text_of(*span)).is_open(moment):
        return
    wall = datetime.fromtimestamp(moment, ZoneInfo(zone))
    minute = wall.hour * 60 + wall.minute
    assert begin <= minute < end if begin < end else (minute >= begin or minute < end)
    if days == "Sun":
        assert wall.weekday() == 6 or (end < begin and wall.weekday() == 0)


def test_without_a_window_it_is_always_open() -> None:
    assert parse_windows(" ").is_open(0.0)
    assert parse_windows("").opens_at(17.5) == 17.5


@pytest.mark.parametrize(
    "text",
    ["Mon", "Mon 22-04", "Mon 25:00-04:00", "Mon 22:60-23:00", "Mon 24:00-04:00", "Mon 04:00-04:00", "mon 22:00-23:00",
     "Mon-Foo 22:00-23:00", "Mon,,Tue 22:00-23:00", "Mon 22:00-23:00 Europe/Atlantis",
     "Mon 22:00-23:00 ../../etc/passwd",
     "Mon 22:00-23:00 UTC;", "Mon 22:00-23:00 " + "a" * 500, "Mon 22:00-23:00 UTC UTC"],
)  # fmt: skip
def test_what_is_no_window_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(WindowMalformed) as raised:
        parse_windows(text)
    assert "\n" not in raised.value.message
