"""A rollout keeps to its maintenance windows: it begins nothing outside, finishes what it began, goes on by itself."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from scripted_hosts import TestClock, plan_of
from scripted_rollout import Rollout

from fleet.rollout.planning.windows import parse_windows

NOW = TestClock().now()


def window(begin: float, end: float) -> str:
    """One that is open from *begin* to *end* minutes from now, to the minute."""
    times = [(datetime.fromtimestamp(NOW, UTC) + timedelta(minutes=m)).strftime("%H:%M") for m in (begin, end)]
    return f"daily {times[0]}-{times[1]} UTC"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Rollout]]:
    made = []

    def begin(*waves: list[str], own: dict[int, str] | None = None, **settings: object) -> Rollout:
        plan = plan_of(*waves, **settings)
        changed = tuple(dataclasses.replace(w, window=(own or {}).get(w.number, "")) for w in plan.waves)
        made.append(Rollout(tmp_path, dataclasses.replace(plan, waves=changed)))
        return made[-1]

    yield begin
    for rollout in made:
        rollout.record.close()


def began(rollout: Rollout) -> list[tuple[str, float]]:
    return [(str(e.host), e.at) for e in rollout.record.events(limit=1000) if e.verb == "apply"]


def test_it_waits_for_its_window_and_goes_on_by_itself(start: Callable[..., Rollout]) -> None:
    text = window(3, 30)
    rollout = start(["a"], ["b"], window=text)
    assert rollout.go() == "COMPLETED"
    assert all(parse_windows(text).is_open(at) for _, at in began(rollout))
    states = [(e.verb, e.after, e.detail) for e in rollout.record.events(limit=1000) if e.verb in ("pause", "resume")]
    assert [s[:2] for s in states] == [("pause", "PAUSED"), ("resume", "RUNNING")]
    assert states[0][2].startswith("window: opens 20")


def test_a_wave_may_have_a_window_of_its_own(start: Callable[..., Rollout]) -> None:
    text = window(4, 30)
    rollout = start(["a"], ["b"], own={1: text})
    assert rollout.go() == "COMPLETED"
    times = dict(began(rollout))
    assert times["a"] - NOW < 60
    assert parse_windows(text).is_open(times["b"])


def test_no_further_host_is_begun_when_the_window_closes_and_what_was_begun_is_finished(
    start: Callable[..., Rollout],
) -> None:
    text = window(-1, 3)
    rollout = start(["a", "b", "c"], window=text, parallel=1)

    def take_long(_host: str, verb: str) -> None:
        if verb == "apply":
            rollout.clock.wait(rollout.stop, 150)  # two hosts fit into the window, the third does not
            if len(rollout.fleet.calls("b", "apply")) == 1:
                rollout.stop.set()

    rollout.fleet.after = take_long
    rollout.go()
    assert {h: s for h, s in rollout.states().items() if s == "checked"} == {"c": "checked"}
    assert rollout.view.state == "PAUSED"
    assert (rollout.view.reason or "").startswith("window: opens ")
    assert rollout.fleet.calls("c", "apply") == []


def test_a_person_who_pauses_it_while_it_waits_is_heard(start: Callable[..., Rollout]) -> None:
    rollout = start(["a"], window=window(5, 30))
    rollout.asked = {1: ["pause"]}
    assert rollout.go() == "PAUSED"
    assert (rollout.view.reason or "").startswith("asked: by ann")
    assert rollout.outcomes() == ["paused"]
    assert began(rollout) == []
    assert rollout.go("resume") == "COMPLETED"


def test_it_is_not_begun_while_nobody_drives_it(start: Callable[..., Rollout]) -> None:
    rollout = start(["a"], window=window(5, 30))
    rollout.stop.set()
    rollout.go()
    rollout.stop.clear()
    assert rollout.view.state == "PAUSED"
    rollout.clock.wait(rollout.stop, 600)
    assert rollout.go() == "COMPLETED"
