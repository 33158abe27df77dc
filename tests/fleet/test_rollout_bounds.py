"""What a rollout does not wait for, and what it does not leave behind: deadlines of waves, retries undone, places that
others took. On scripted hosts."""

from __future__ import annotations

import threading
import time

import pytest
from scripted_hosts import TestClock, plan_of, prepare
from scripted_rollout import Rollout

from fleet.rollout.hosts.steps import TICK_S


def lose(rollout: Rollout, host: str) -> None:
    """Have *host* fall silent in the middle of an apply: what is applied there is never heard of."""
    rollout.fleet.script[host] = {"drop": 9}

    def cut(name: str, verb: str) -> None:
        if name == host:
            rollout.fleet.script[host] = {"silent": ["connect"]}

    rollout.fleet.after = cut


def find(rollout: Rollout, **script: dict) -> None:
    """Have all hosts answer again, but for what *script* says."""
    rollout.fleet.after = lambda host, verb: None
    rollout.fleet.script.clear()
    rollout.fleet.script.update(script)


def test_a_wave_where_nobody_gets_further_pauses_and_goes_on_where_it_was(start) -> None:
    rollout = start(["a"], ["b", "c", "d"], script={"b": {"silent": ["stage"]}}, parallel=1, progress_s=100.0)

    def slow(host: str, verb: str) -> None:
        if host == "b" and verb == "stage":
            rollout.clock.wait(rollout.stop, 200.0)

    rollout.fleet.before = slow
    assert rollout.go() == "PAUSED"
    assert rollout.view.reason == "progress-deadline: wave 1: no host got further for 100 s"
    assert all(rollout.fleet.calls(h, "apply") == [] for h in "bcd")
    rollout.fleet.before = lambda host, verb: None
    rollout.fleet.script.clear()
    assert rollout.ask("resume") == "COMPLETED"
    assert set(rollout.states().values()) == {"healthy"}
    assert [rollout.fleet.seen(h)["applied"] for h in "abcd"] == [1, 1, 1, 1]


@pytest.mark.parametrize("verb", ["status", "stage", "check", "apply", "confirm"])
def test_a_host_that_hangs_is_given_up_and_the_next_one_is_begun(start, verb: str) -> None:
    """One at a time: without giving it up nobody comes after it. What it does when it wakes is not done again."""
    rollout = start(["a"], ["b", "c"], parallel=1, deadline_s=100.0, revert_s=60.0)
    asleep, free = [], threading.Event()

    def hang(host: str, called: str) -> None:
        if (host, called) == ("b", verb) and not asleep:
            asleep.append(threading.current_thread())
            rollout.clock.wait(rollout.stop, 101.0)
            assert free.wait(60)

    rollout.fleet.before = hang
    assert rollout.go() == "PAUSED"
    assert rollout.view.reason.startswith("gate-inconclusive: wave 1: unreachable: no signal from 1 of 2 hosts (b)")
    step = rollout.record.step(rollout.id, "b")
    assert (step.state, step.detail) == ("unreachable", "COR-ROL-031: no end within 100 s")
    assert rollout.states()["c"] == "verified"
    free.set()
    asleep[0].join(60)
    assert rollout.states()["b"] == "unreachable"
    assert rollout.fleet.calls("b").count("apply") == (verb in ("apply", "confirm"))
    assert rollout.ask("retry") == "COMPLETED"
    assert {h: rollout.fleet.seen(h)["applied"] for h in "abc"} == {"a": 1, "b": 1, "c": 1}


class Leaping(TestClock):
    """A clock that somebody sets a day ahead whenever a host is spoken to."""

    ahead = 0.0

    def now(self) -> float:
        return super().now() + self.ahead

    def elapsed(self) -> float:
        return super().now()


def test_a_clock_that_is_set_ahead_gives_no_host_up_and_stops_no_wave(start) -> None:
    rollout = start(["a"], ["b", "c", "d"], parallel=1, progress_s=100.0)
    rollout.clock = Leaping()

    def leap(host: str, verb: str) -> None:
        rollout.clock.ahead += 86_400.0
        time.sleep(TICK_S * 1.2 if (host, verb) == ("b", "apply") else 0)  # hosts are looked for meanwhile

    rollout.fleet.before = leap
    assert rollout.go() == "COMPLETED"
    assert set(rollout.states().values()) == {"healthy"}


class Died(Exception):
    pass


def test_a_controller_that_dies_between_loading_and_attaching_loads_nowhere_again(start) -> None:
    rollout = start(["a"], ["b", "c"])

    def die(_: str) -> None:
        if rollout.view.wave == 1 and rollout.view.waves[1].phase == "apply":
            raise Died

    rollout._between = die
    with pytest.raises(Died):
        rollout.go()
    assert {h: rollout.states()[h] for h in "bc"} == {"b": "checked", "c": "checked"}
    assert all(rollout.fleet.seen(h)["applied"] == 0 for h in "bc")
    rollout._between = lambda _: None
    assert rollout.go() == "COMPLETED"
    assert [rollout.fleet.calls(h, "check") for h in "bc"] == [["check"], ["check"]]
    assert all(rollout.fleet.seen(h)["applied"] == 1 for h in "bc")


def after(first: Rollout, build: str) -> None:
    """Have *first* drive another rollout of another build from now on."""
    first.id = prepare(first.record, plan_of(["a"], ["b", "c"], plan_id=f"plan-{build}", build=build * 64))


def test_a_rollout_that_was_superseded_is_rolled_back_and_its_successor_stays(start) -> None:
    rollout = start(["a"], ["b", "c"])
    older = rollout.id
    rollout.go()
    after(rollout, "c")
    assert rollout.go() == "COMPLETED"
    newer, rollout.id = rollout.id, older
    assert rollout.ask("rollback") == "ROLLED_BACK"
    for host in "abc":
        assert rollout.fleet.seen(host)["build"] == f"sha256:{'c' * 64}"
        assert rollout.fleet.seen(host)["state"] == "running"
        assert rollout.fleet.calls(host, "remove") == []
    assert {a.rollout_id for a in rollout.record.assignments()} == {newer}
    rollout.id = newer  # what it replaced is gone by now: there is nothing left to bring back but what it found
    assert rollout.ask("rollback") == "ROLLED_BACK"


def test_retried_and_then_rolled_back_a_host_runs_the_earlier_build(start) -> None:
    rollout = start(["a"], ["b", "c"])
    older = rollout.id
    rollout.go()
    after(rollout, "c")
    lose(rollout, "b")
    assert rollout.go() == "PAUSED"  # one of two is silent
    assert rollout.fleet.seen("b")["build"] == f"sha256:{'c' * 64}"
    find(rollout)
    assert rollout.ask("retry") == "COMPLETED"
    assert rollout.record.step(rollout.id, "b").previous == older
    assert rollout.ask("rollback") == "ROLLED_BACK"
    for host in "abc":
        assert rollout.fleet.seen(host)["build"] == f"sha256:{'b' * 64}"
        assert rollout.fleet.seen(host)["state"] == "running"
    assert {a.rollout_id for a in rollout.record.assignments()} == {older}


@pytest.mark.parametrize("part", [{}, {"host": ["b"]}, {"wave": 1}])
def test_what_waits_to_be_tried_again_is_undone_where_it_may_run(start, part: dict) -> None:
    """Its first try attached it, and nobody heard of that: it waits, and is not untouched."""
    rollout = start(["a"], ["b", "c"])
    lose(rollout, "b")
    rollout.go()
    assert rollout.states()["b"] == "unreachable"
    assert rollout.fleet.seen("b")["state"] == "running"
    rollout.record.request(rollout.id, "retry", "ann")
    rollout.record.request(rollout.id, "pause", "ann")
    assert rollout.go() == "PAUSED"
    assert rollout.states()["b"] == "pending"
    find(rollout)
    rollout.ask("rollback", **part)
    assert rollout.fleet.seen("b")["state"] == "stopped"


def test_what_is_left_out_at_its_second_try_is_undone_with_the_others(start) -> None:
    rollout = start(["a"], ["b", "c"])
    lose(rollout, "b")
    rollout.go()
    find(rollout, b={"kernel": {"build_id": "ef" * 20}})
    assert rollout.ask("retry") == "COMPLETED"
    assert rollout.states()["b"] == "skipped"
    assert rollout.ask("rollback") == "ROLLED_BACK"
    assert rollout.fleet.seen("b")["state"] == "stopped"
