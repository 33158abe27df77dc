"""Calls of many threads meet in slices: bounded, each host once, nobody left without an answer."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.rollout.execute.slices import Call, Slices
from inventory.connect import Completed
from inventory.connect.errors import Unreachable
from inventory.host import Host


def call(name: str, command: str = "true") -> Call:
    return Call(Host(name), command, b"", 5.0, 100, fresh=False)


class Carrier:
    """Answers every call with its own command, and remembers the slices."""

    def __init__(self) -> None:
        self.slices: list[list[str]] = []
        self.lock = threading.Lock()

    def carry(self, calls: Sequence[Call]) -> None:
        with self.lock:
            self.slices.append([c.host.name for c in calls])
        for c in calls:
            c.answer.set_result(Completed(0, c.command.encode(), b""))


def ask(slices: Slices, calls: Sequence[Call]) -> list[Completed]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(slices.run, calls))


def test_what_is_asked_at_once_travels_at_once() -> None:
    carrier = Carrier()
    answers = ask(Slices(carrier.carry, quiet_s=0.5), [call(f"h{i}", f"c{i}") for i in range(20)])
    assert [a.stdout for a in answers] == [f"c{i}".encode() for i in range(20)]
    assert len(carrier.slices) == 1


@settings(max_examples=25, deadline=None)
@given(names=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=30), size=st.integers(1, 5))
def test_never_too_many_and_never_a_host_twice(names: list[str], size: int) -> None:
    carrier = Carrier()
    slices = Slices(carrier.carry, size=size, quiet_s=0.005, patience_s=0.01)
    answers = ask(slices, [call(n, f"{n}{i}") for i, n in enumerate(names)])
    assert [a.stdout.decode() for a in answers] == [f"{n}{i}" for i, n in enumerate(names)]
    assert sorted(n for s in carrier.slices for n in s) == sorted(names)
    assert all(len(s) <= size and len(set(s)) == len(s) for s in carrier.slices)


def test_while_one_is_under_way_the_others_gather() -> None:
    """Hosts that are done early come back one by one, and do not start a run each."""
    let_go, carrier = threading.Event(), Carrier()

    def carry(calls: Sequence[Call]) -> None:
        if calls[0].host.name == "slow":
            let_go.wait(30)
        carrier.carry(calls)

    slices = Slices(carry, quiet_s=0.01, patience_s=30.0)
    with ThreadPoolExecutor(4) as pool:
        slow = pool.submit(slices.run, call("slow"))
        while not slices._under_way:
            threading.Event().wait(0.005)
        others = []
        for name in "abc":
            others.append(pool.submit(slices.run, call(name)))
            threading.Event().wait(0.05)  # far longer than the quiet that would send a lone call off
        assert carrier.slices == []
        let_go.set()
        assert {f.result(30).status for f in [slow, *others]} == {0}
    assert sorted(map(sorted, carrier.slices)) == [["a", "b", "c"], ["slow"]]


def test_what_fails_is_told_to_everyone_who_waits() -> None:
    def carry(_: Sequence[Call]) -> None:
        raise OSError("no space left")

    slices = Slices(carry, quiet_s=0.1)
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(slices.run, call(n)) for n in "abc"]
        assert {str(f.exception()) for f in asked} == {"no space left"}


def test_a_host_that_nobody_speaks_of_is_unknown() -> None:
    with pytest.raises(Unreachable, match="h1"):
        Slices(lambda _: None, quiet_s=0.01).run(call("h1"))
