"""Ending waits from outside: in time, one after the other, and none for another's sake."""

from __future__ import annotations

import multiprocessing
import threading
import time

from inventory.connect.stops import hard_stop

LONG_S = 30.0


def test_a_wait_is_stopped_once_it_is_due() -> None:
    over = threading.Event()
    with hard_stop(0.05, over.set):
        assert over.wait(LONG_S)


def test_a_sooner_one_does_not_wait_for_an_earlier_one() -> None:
    over = threading.Event()
    with hard_stop(LONG_S * 10, lambda: None), hard_stop(0.05, over.set):
        assert over.wait(LONG_S)


def test_what_ended_before_is_left_alone() -> None:
    late, over = threading.Event(), threading.Event()
    with hard_stop(0.05, late.set):
        pass
    with hard_stop(0.1, over.set):
        assert over.wait(LONG_S)
    assert not late.is_set()


def test_one_that_hangs_holds_up_no_other() -> None:
    let_go, begun, over = threading.Event(), threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        let_go.wait(LONG_S)

    with hard_stop(0.05, hang), hard_stop(0.1, over.set):
        assert begun.wait(LONG_S) and over.wait(LONG_S)
    let_go.set()


def test_it_rests_when_nothing_is_due_and_begins_again() -> None:
    for _ in range(2):
        over = threading.Event()
        with hard_stop(0.02, over.set):
            assert over.wait(LONG_S)
        until = time.monotonic() + LONG_S
        while any(thread.name == "stops" for thread in threading.enumerate()):
            assert time.monotonic() < until
            time.sleep(0.01)


def _in_a_fork() -> None:
    over = threading.Event()
    with hard_stop(0.05, over.set):
        assert over.wait(LONG_S)


def test_a_forked_process_has_its_own() -> None:
    with hard_stop(LONG_S * 10, lambda: None):  # so that the thread lives, here
        child = multiprocessing.get_context("fork").Process(target=_in_a_fork)
        child.start()
        child.join(LONG_S)
        child.kill()  # where it still runs
        assert child.exitcode == 0
