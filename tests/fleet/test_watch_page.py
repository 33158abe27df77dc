"""The page of ``rollout watch``: whatever is shown, and however small the terminal, it fits; logs keep to one line."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from watched_fleet import make

from fleet.cli.lines import cells, clock, cut, wrap
from fleet.cli.watch import narrated
from fleet.cli.watch_log import log_event, log_line
from fleet.cli.watch_page import Cost, Watched, page
from fleet.record import open_record
from fleet.record.rollout_views import RolloutView, StepView, WaveView
from fleet.record.views import EventView

TEXT = st.text(max_size=60)
STATES = st.sampled_from(["pending", "checked", "applying", "healthy", "failed", "unreachable", "held", "reverted"])
COUNTS = st.dictionaries(STATES, st.integers(1, 100_000), max_size=5)
WAVE = st.builds(
    WaveView, number=st.integers(0, 200), name=TEXT, state=st.sampled_from(["pending", "baking", "passed"]),
    phase=st.just("bake"), bake_s=st.floats(0, 1e6), baking_since=st.none() | st.floats(0, 1e9), started_at=st.none(),
    ended_at=st.none(), gate=st.none() | st.just({"answer": "fail", "checks": [{"name": "cpu", "answer": "fail"}]}),
    steps=COUNTS,
)  # fmt: skip
STEP = st.builds(
    StepView, rollout_id=st.just("r"), host=TEXT, wave=st.just(0), variant=st.just("core"), build=st.just("b"),
    kernel_id=st.just("k"), state=STATES, attempts=st.just(1), token=st.none(), revert_token=st.none(),
    previous=st.none(), detail=st.none() | TEXT, document=st.none(), started_at=st.none() | st.just(1.0),
    ended_at=st.none(),
)  # fmt: skip
EVENT = st.builds(
    EventView, id=st.just(1), at=st.floats(0, 1e9), actor=TEXT, verb=TEXT, rollout_id=st.none() | TEXT,
    host=st.none() | TEXT, program=st.none(), before=st.none() | TEXT, after=st.none() | TEXT,
    token=st.none() | st.integers(0, 9), detail=TEXT,
)  # fmt: skip


@st.composite
def seen(draw: st.DrawFn) -> Watched:
    waves = tuple(replace(w, number=n) for n, w in enumerate(draw(st.lists(WAVE, max_size=12))))
    state, reason, wave = draw(st.sampled_from(["BAKING", "HALTED"])), draw(st.none() | TEXT), draw(st.integers(-1, 11))
    view = RolloutView(
        "tcp-flow-1", "p", draw(TEXT), state, reason, wave, 1, 1, "ann", 0.0, None, None, waves
    )  # fmt: skip
    costs = st.builds(Cost, TEXT, st.floats(0, 1e9), st.floats(0, 1e9), TEXT, TEXT)
    return Watched(
        view, 1e9, draw(st.booleans()), draw(TEXT), tuple(draw(st.lists(STEP, max_size=8))),
        tuple(draw(st.lists(costs, max_size=4))), tuple(draw(st.lists(EVENT, max_size=8))),
    )  # fmt: skip


@given(seen(), st.integers(1, 200), st.integers(1, 60), st.booleans())
def test_it_fits_and_says_the_state(watched: Watched, width: int, height: int, ascii_only: bool) -> None:
    lines = ["".join(text for text, _ in line) for line in page(watched, width, height, ascii_only=ascii_only)]
    assert 1 <= len(lines) <= height
    assert all(cells(line) <= width for line in lines)
    assert all(line.isprintable() for line in lines)
    if width >= 40:
        assert lines[0].endswith(watched.view.state)
    if width >= 40 and height >= 20 and 0 <= watched.view.wave < len(watched.view.waves):
        assert any(line.startswith(f"{watched.view.wave} ") for line in lines)  # the current wave is among those shown


@given(EVENT)
def test_a_log_line_is_one_printable_line_that_can_be_taken_apart(event: EventView) -> None:
    line = log_event(event)
    if line is None:
        assert event.before == event.after
        return
    assert line.isprintable()
    assert line.split(" ")[0].endswith("Z")


@given(TEXT, st.integers(1, 50))
def test_wrapped_text_loses_no_word_and_fits(text: str, width: int) -> None:
    lines = wrap(text, width)
    assert all(cells(line) <= max(width, 2) for line in lines)  # a wide character is never halved
    squeezed = "".join("".join(lines).split())
    assert squeezed == "".join("".join(wrap(text, 10_000)).split())


def test_values_with_blanks_or_quotes_are_quoted() -> None:
    line = log_line(0.0, "r-1", "step", host="h1", detail='said "no" = never', token=None)
    assert line == '1970-01-01T00:00:00Z r-1 step host=h1 detail="said \\"no\\" = never"'


@pytest.mark.parametrize(("seconds", "words"), [(-3, "0:00"), (5, "0:05"), (760, "12:40"), (3723, "1:02:03")])
def test_clock(seconds: float, words: str) -> None:
    assert clock(seconds) == words


def test_wide_and_combining_characters_are_counted_as_they_are_shown() -> None:
    assert (cells("日本"), cells("e\u0301")) == (4, 1)
    assert cut("日本語", 5) == "日本…"
    assert cut("日本語", 4) == "日…"


def test_who_drives_tells_only_what_happened_since_and_how_it_ended(tmp_path: Path) -> None:
    rollout, now = make(tmp_path, "baking")
    out = io.StringIO()
    settings = SimpleNamespace(record=lambda: open_record(tmp_path / "fleet.db", now=lambda: now))
    with narrated(settings, rollout, out):  # type: ignore[arg-type]  # it only opens the record
        with settings.record() as record:
            record.set_rollout_state(rollout, "PAUSED", verb="pause", actor="bob", reason="asked: by bob")
        until = time.monotonic() + 20
        while " pause " not in out.getvalue() and time.monotonic() < until:
            time.sleep(0.05)
    lines = [line.split(" ", 1)[1] for line in out.getvalue().splitlines()]
    assert lines[0] == 'tcp-flow-1 pause from=BAKING to=PAUSED by=bob detail="asked: by bob"'
    assert lines[-1].startswith("tcp-flow-1 end state=PAUSED exit=6 ")


def test_a_showing_that_breaks_does_not_stop_who_drives(tmp_path: Path) -> None:
    rollout, now = make(tmp_path, "baking")
    closed = io.StringIO()
    closed.close()
    settings = SimpleNamespace(record=lambda: open_record(tmp_path / "fleet.db", now=lambda: now))
    closed.isatty = lambda: False  # type: ignore[method-assign]  # a pipe whose reader went away
    with narrated(settings, rollout, closed):  # type: ignore[arg-type]  # as above
        done = True
    assert done
