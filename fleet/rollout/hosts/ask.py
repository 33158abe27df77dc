"""Asking a service on hosts that get the program and on controls, all at the same times; what they answer is kept.

Judges nothing. Rounds before a wave is attached are its baseline; rounds while it bakes are held against them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

from btf.fault import Fault, printable
from fleet.record.rollout_views import ServiceView, StepView
from fleet.rollout.gate.service import Kernel, rounds_needed
from fleet.rollout.hosts.work import Work
from fleet.rollout.planning.service import MAX_COUNT, Service
from fleet.rollout.states import LIVE_STEPS
from inventory.connect.errors import Refused, Unreachable

_SLICE_S = 1.0  # a person's request waits no longer than this


def controls(work: Work, wave: int) -> dict[str, Kernel]:
    """Return (kernel id, variant) by host of the controls that *wave* leaves without the program."""
    planned = {h.host: (h.kernel_id, h.variant) for w in work.plan.waves if w.number > wave for h in w.hosts}
    return {host: planned[host] for host in work.plan.controls if host in planned and work.serves(host)}


def wanted_rounds(work: Work, wave: int, policy: Service) -> int:
    """Return how many rounds before and after *wave* needs, by policy and by how many groups are compared."""
    steps = work.record.steps(work.rollout_id, wave=wave)
    asked = chosen(steps, policy.hosts)
    return max(policy.rounds, rounds_needed(len({(s.kernel_id, s.variant) for s in steps if s.host in asked})))


def baseline(work: Work, wave: int) -> str:
    """Ask until *wave* has its rounds from before; returns why it was cut short, empty when it was not.

    What an earlier try kept counts: a wave that is begun again is not asked again.
    """
    policy = work.plan.settings.service
    if policy is None:
        return ""
    wanted = wanted_rounds(work, wave, policy)
    hosts = [s.host for s in _asked(work, wave, policy) if s.state == "checked"]  # who is about to be touched
    while hosts and work.record.service_rounds(work.rollout_id, wave, "before", hosts) < wanted:
        until = ask_round(work, wave, "before", hosts, policy) + policy.every_s
        while 0 < (left := until - work.clock.now()) <= policy.every_s:  # or it was set back
            if work.stop.is_set() or work.watching():
                return "stopped" if work.stop.is_set() else "asked"
            work.clock.wait(work.stop, min(left, _SLICE_S))
    return ""


def ask_after(work: Work, wave: int, policy: Service) -> float:
    """Ask once on the live hosts of *wave* and on its controls; returns when the next round is due."""
    return ask_round(work, wave, "after", _live(work, wave, policy), policy) + policy.every_s


def asked_enough(work: Work, wave: int, policy: Service, since: float) -> bool:
    """Whether the live hosts of *wave* were asked in as many rounds since then as a gate needs."""
    hosts = _live(work, wave, policy)
    rounds = work.record.service_rounds(work.rollout_id, wave, "after", hosts, since=since)
    return not hosts or rounds >= wanted_rounds(work, wave, policy)


def ask_round(work: Work, wave: int, moment: str, hosts: Iterable[str], policy: Service) -> float:
    """Ask on *hosts* and on controls, at once, and keep what they say; returns when the round began.

    Rounds begin where a clock of ``every_s`` seconds strikes, so that zones whose hosts are asked by different
    processes have their rounds in common.
    """
    now = work.clock.now()
    begun = now - now % policy.every_s
    roles = {**dict.fromkeys(list(controls(work, wave))[: policy.hosts], "control"), **dict.fromkeys(hosts, "canary")}

    def one(host: str) -> ServiceView:
        row = ServiceView(work.rollout_id, wave, host, roles[host], moment, begun, work.clock.now())
        return _answered(row, work, policy)

    with ThreadPoolExecutor(work.plan.settings.parallel, thread_name_prefix="ask") as pool:
        work.record.record_service_samples(pool.map(one, roles))
    return begun


def _live(work: Work, wave: int, policy: Service) -> list[str]:
    return [s.host for s in _asked(work, wave, policy) if s.state in LIVE_STEPS]


def _asked(work: Work, wave: int, policy: Service) -> list[StepView]:
    steps = work.record.steps(work.rollout_id, wave=wave)
    hosts = chosen(steps, policy.hosts)
    return [s for s in steps if s.host in hosts and work.zone in (None, s.zone)]


def chosen(steps: Iterable[StepView], limit: int) -> frozenset[str]:
    """Return the hosts that are asked: at most *limit*, kernels and variants in turn, the same each time."""
    seen: Counter[Kernel] = Counter()
    turns = []
    for step in sorted(steps, key=lambda s: s.host):
        kernel = (step.kernel_id, step.variant)
        turns.append((seen[kernel], kernel, step.host))
        seen[kernel] += 1
    return frozenset(host for _, _, host in sorted(turns)[:limit])


def _answered(row: ServiceView, work: Work, policy: Service) -> ServiceView:
    try:
        with work.connect(work.host(row.host)) as executor:
            answer = executor.ask(policy.question)
    except (Unreachable, Refused) as fault:
        return _nothing(row, "unreachable", str(fault))
    except Fault as fault:
        return _nothing(row, "error", str(fault))
    return read_answer(row, answer)


def read_answer(row: ServiceView, answer: Mapping[str, Any]) -> ServiceView:
    """Return *row* with what the agent answered; what is no answer is an ``error``, never zero."""
    asked, errors, found = answer.get("asked"), answer.get("errors"), answer.get("latencies_us")
    if not isinstance(asked, int) or not isinstance(errors, int) or not isinstance(found, list):
        return _nothing(row, "error", "the agent's answer makes no sense")
    if not 0 < asked <= MAX_COUNT or not 0 <= errors <= asked or len(found) != asked - errors:
        return _nothing(row, "error", "the agent's answer does not add up")
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v < math.inf for v in found):
        return _nothing(row, "error", "the agent's latencies are no numbers")
    latencies = sorted(float(v) for v in found)
    kept: dict[str, Any] = {"latencies_us": [round(v, 1) for v in latencies]}
    if answer.get("trouble"):
        kept["trouble"] = printable(str(answer["trouble"]), 200)
    return ServiceView(
        row.rollout_id, row.wave, row.host, row.role, row.moment, row.round, row.at, "ok", asked, errors,
        median(latencies) if latencies else None,
        latencies[math.ceil(0.9 * len(latencies)) - 1] if latencies else None, kept,
    )  # fmt: skip


def _nothing(row: ServiceView, outcome: str, detail: str) -> ServiceView:
    return ServiceView(
        row.rollout_id, row.wave, row.host, row.role, row.moment, row.round, row.at, outcome,
        document={"trouble": printable(detail, 200)},
    )  # fmt: skip
