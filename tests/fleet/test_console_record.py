"""What the console reads of the record: the pulse, windows of steps, briefs for selectors, the order by verdict."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from console_fleet import LAB, Clock, Scan, make_halted, make_lab, make_running, measure

from fleet.console.feed import Changed, Lost, News, follow, look, waits_line
from fleet.console.rollout_rows import WavesWindow, brief, cost_lines, gate_lines
from fleet.console.window import View
from fleet.record import Record
from fleet.record.views import Pulse
from fleet.selection import select_hosts
from inventory.connect.errors import Unreachable
from inventory.host import Host


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lab(tmp_path: Path, clock: Clock) -> Iterator[Record]:
    with make_lab(tmp_path / "fleet.db", clock) as record:
        yield record


def test_the_pulse_changes_with_audit_samples_and_scans_and_with_nothing_else(lab: Record, clock: Clock) -> None:
    pulses = [lab.pulse()]
    assert lab.pulse() == pulses[0]
    rollout = make_running(lab)
    pulses.append(lab.pulse())
    measure(lab, rollout, 1, ["plain-2"])
    pulses.append(lab.pulse())
    clock.at += 5
    lab.record_scan(Scan(Host("plain-1"), fault=Unreachable("gone")))
    pulses.append(lab.pulse())
    assert len(set(pulses)) == 4
    lab.host_names()
    assert lab.pulse() == pulses[-1]


def test_steps_as_a_window(lab: Record) -> None:
    rollout = make_halted(lab)
    hosts = lab.step_hosts(rollout)
    assert hosts == ["no-btf", "plain-1", "plain-2", "seccomp-enosys", "seccomp-eperm"], "trouble first, then by wave"
    assert lab.step_hosts(rollout, wave=2) == ["seccomp-enosys", "seccomp-eperm"]
    assert lab.step_hosts(rollout, states=["failed"]) == ["no-btf"]
    assert lab.step_hosts(rollout, sort=["-host"]) == sorted(hosts, reverse=True)
    assert lab.step_hosts(rollout, sort=["variant", "-host"])[0] == "plain-2"
    assert [s.host for s in lab.steps_named(rollout, ["plain-2", "nobody", "no-btf"])] == ["plain-2", "no-btf"]
    assert lab.step_hosts("no such rollout") == []


def test_hosts_in_the_order_of_a_programs_verdict(lab: Record) -> None:
    names = lab.host_names(sort=["program:tcp-flow"])
    assert names[0] == "no-python", "blocked first"
    assert names[-2:] == ["key-changed", "silent"], "undecided last"
    assert lab.host_names(sort=["-program:tcp-flow"])[:2] == ["plain-1", "plain-2"]


def test_whether_a_host_shows_its_btf_is_kept_with_it(lab: Record) -> None:
    seen = {b.host.name: b.btf for b in lab.host_briefs()}
    assert seen == {n: None if not isinstance(k, str) else "no" if n == "no-btf" else "yes" for n, k in LAB.items()}
    assert lab.host("no-btf").btf == "no"


def test_a_selector_opens_a_facts_document_only_when_it_must(lab: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    load = Record.facts_of
    monkeypatch.setattr(Record, "facts_of", lambda self, digest: opened.append(digest) or load(self, digest))
    assert select_hosts(lab, 'kernel~"6.*" and btf=no and arch=x86_64', ["name"]) == ["no-btf"]
    assert opened == []
    assert select_hosts(lab, "bpf=blocked", ["-name"]) == ["seccomp-eperm", "seccomp-enosys", "no-python"]
    assert len(opened) == 6


def test_what_is_asked_and_not_taken_is_in_the_snapshot(lab: Record) -> None:
    rollout = make_running(lab)
    lab.request(rollout, "pause", "ann")
    window = WavesWindow(lab)
    assert window.keys(View()) == ["0", "1", "2"]
    assert [r.verb for r in window.snapshot.requests] == ["pause"]
    assert window.snapshot.plan.budget is not None
    assert window.snapshot.plan.skipped == 3


@pytest.mark.parametrize(
    "document", [{}, {"shared": 7}, {"shared": {"core": 3}}, {"shared": {"core": {"budget": {"cpu_percent": "x"}}}}]
)
def test_a_plan_that_says_no_budget_shows_none(document: dict[str, object]) -> None:
    assert brief(document).budget is None


def test_cost_is_the_worst_of_the_newest_samples_against_the_budget(lab: Record) -> None:
    rollout = make_running(lab)
    measure(lab, rollout, 1, ["plain-2"], cpu=0.1)
    window = WavesWindow(lab)
    window.keys(View())
    wave = window.rows(["1"])["1"]
    text = [[c.text for c in line] for line in cost_lines(window.snapshot, wave)]
    assert "0.1 of 1 % of one core" in text[0], "an older, worse sample of the same host no longer counts"
    assert gate_lines(None)[0][0].text == "gate: not judged yet"


def test_the_waits_line_names_the_newest_and_counts_the_rest(lab: Record, clock: Clock) -> None:
    make_halted(lab)
    clock.at += 1
    second = make_halted_again(lab)
    news = look(lab, None)
    assert news is not None
    texts = [c.text for c in waits_line(news.waiting)]
    assert f"✕ {second} halted" in texts
    assert "(and 1 more)" in texts
    assert look(lab, news) is None


def make_halted_again(lab: Record) -> str:
    from console_fleet import make_rollout

    rollout = make_rollout(lab, plan_id="plan-2")
    lab.set_rollout_state(rollout, "HALTED", reason="asked: ann")
    return rollout


def test_the_feed_speaks_once_per_change_and_survives_trouble() -> None:
    """The record is a list of answers here: a pulse, or what reading it raises."""
    import asyncio

    answers: list[object] = [Pulse(1, 0, 0), Pulse(1, 0, 0), OSError("gone"), OSError("gone"), Pulse(2, 0, 0)]
    told: list[object] = []
    slept: list[float] = []

    class Flaky:
        def pulse(self) -> Pulse:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            assert isinstance(answer, Pulse)
            return answer

        def rollouts(self, *, states: object) -> list[object]:
            return []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if not answers:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(follow(Flaky(), told.append, sleep=sleep))  # type: ignore[arg-type]  # as much of a record as it asks
    assert [type(m) for m in told] == [Changed, Lost, Lost, Changed]
    assert [m.why for m in told if isinstance(m, Lost)] == ["OSError: gone", ""]
    assert min(slept) >= 0.25, "more than four looks a second"
    assert Changed(News(Pulse(1, 0, 0))).can_replace(Changed(News(Pulse(2, 0, 0))))
