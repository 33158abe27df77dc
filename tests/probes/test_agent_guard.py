"""When a program that died is started again: pure, so every edge is a case."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.agent.guard import MAX_BACKOFF_S, History, healthy, history, wait_s

POLICY = {"limit": 3, "window_s": 100.0, "backoff_s": 2.0, "healthy_s": 50.0}


@pytest.mark.parametrize(
    ("recent", "now", "wait"),
    [
        ((), 1000, 0),  # the first restart comes at once
        ((1000,), 1000, 2),
        ((1000,), 1002, 0),
        ((990, 1000), 1001, 3),  # and each one waits twice as long
        ((980, 990, 1000), 1001, None),  # at most three in the window
        ((880, 990, 1000), 1001, 3),  # what is older does not count
    ],
)
def test_restarts_back_off_and_are_bounded(recent: tuple[float, ...], now: float, wait: float | None) -> None:
    assert wait_s(History(recent), POLICY, now) == wait


def test_the_pause_is_bounded_and_boots_count() -> None:
    patient = {**POLICY, "limit": 100, "window_s": 1e6}
    assert wait_s(History(tuple(range(50))), patient, 49.0) == MAX_BACKOFF_S
    assert wait_s(History(boots=3), POLICY, 5.0) == 0
    assert wait_s(History(boots=4), POLICY, 5.0) is None


def test_a_healthy_time_forgives_all_but_the_total() -> None:
    past = History((10.0,), boots=2, total=7, last="x")
    assert not healthy(past, POLICY, 10.0, 59.0) and healthy(past, POLICY, 10.0, 60.0)
    assert past.forgiven() == History(total=7)
    assert not healthy(past.forgiven(), POLICY, 0.0, 1e6)


def test_times_of_another_boot_are_not_read_as_times_of_this_one() -> None:
    kept = History((10.0,), boots=1, total=3, last="x").document("one")
    assert history(kept, "one") == History((10.0,), 1, 3, "x")
    assert history(kept, "two") == History((), 1, 3, "x")
    assert history(None, "one") == History()


@given(st.lists(st.floats(0, 300), max_size=40))
def test_however_it_dies_there_are_never_more_than_the_limit_in_a_window(lives: list[float]) -> None:
    past, now, restarts = History(), 0.0, []
    for life in lives:
        now += life
        pause = wait_s(past, POLICY, now)
        if pause is None:
            break
        now += pause
        past = past.tried(now)
        restarts.append(now)
    for end in restarts:
        assert sum(end - POLICY["window_s"] < at <= end for at in restarts) <= POLICY["limit"]
