"""The checks on what users of a service feel: hosts that got the program, against controls asked at the same times.

Hosts of one kernel build and variant are one group, held against controls of the same kernel build and variant, else of
the same variant. Of each round of asking a group gives one difference: the mean of its hosts' measure less the mean of
its controls'. Rounds before and after the program came are compared by ``shift``. That design was chosen over windows
with the program attached and detached in turn: every toggle is itself the act a rollout is careful about, it would
forget what a program keeps, a policy may not be lifted to measure it, and a control costs its host nothing.

The chance of a false ``fail`` in one wave is at most ``FALSE_ALARM``, divided evenly among measures and groups. Without
a control there is only before and after, which takes any change of load for ours: such a group can at most be
inconclusive.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol

from fleet.rollout.gate.check import Check, GateAnswer, Wave, names
from fleet.rollout.gate.shift import Shift, excess_chance, find_shift, least_chance
from fleet.rollout.planning.service import MIN_ROUNDS, Service

FALSE_ALARM = 0.01  # of a wave
DOUBT = 0.05  # a shift that is less likely than this to be chance, and not sure to be more than tolerated: no pass
MIN_ANSWERS = 3  # of a round: a median of fewer is none

Kernel = tuple[str, str]  # kernel id, variant


class Measured(Protocol):
    """One round of asking on one host; ``fleet.record.rollout_views.ServiceView`` is one. Times in microseconds.

    Where ``outcome`` is not ``ok`` nobody was asked: ``asked`` is 0 and there are no times.
    """

    @property
    def id(self) -> int: ...  # noqa: D102 - a field
    @property
    def host(self) -> str: ...  # noqa: D102 - a field
    @property
    def moment(self) -> str: ...  # noqa: D102 - before|after
    @property
    def round(self) -> float: ...  # noqa: D102 - when it began: the same for all hosts that were asked together
    @property
    def outcome(self) -> str: ...  # noqa: D102 - ok, or why nobody was asked
    @property
    def asked(self) -> int: ...  # noqa: D102 - a field
    @property
    def errors(self) -> int: ...  # noqa: D102 - a field
    @property
    def median_us(self) -> float | None: ...  # noqa: D102 - a field
    @property
    def tail_us(self) -> float | None: ...  # noqa: D102 - a field


@dataclass(frozen=True, slots=True)
class Measure:
    """One row: what is compared of a round (None: nothing), what shift of it is tolerated, and how one is told."""

    name: str
    of: Callable[[Measured], float | None]
    tolerated: Callable[[Service, float], float]  # policy and the level before, in the measure's own scale
    told: Callable[[float], str]
    limit: Callable[[Service], tuple[float, str]]


def _logarithm(us: float | None, row: Measured) -> float | None:
    return math.log(us) if us and row.asked - row.errors >= MIN_ANSWERS else None


def _slower(policy: Service, level: float) -> float:
    """The larger of the percentage and of ``tolerance_ms`` at this level, as a logarithm."""
    return math.log1p(max(policy.tolerance_percent / 100, policy.tolerance_ms * 1000 / math.exp(level)))


def _percent(size: float) -> str:
    return f"{100 * math.expm1(size):+.3g} %"


MEASURES = (
    Measure("service-latency", lambda r: _logarithm(r.median_us, r), _slower, _percent,
            lambda s: (s.tolerance_percent, "% slower")),
    Measure("service-tail", lambda r: _logarithm(r.tail_us, r), _slower, _percent,
            lambda s: (s.tolerance_percent, "% slower")),
    Measure("service-errors", lambda r: r.errors / r.asked if r.asked else None,
            lambda s, _: s.tolerance_errors / 100, lambda size: f"{100 * size:+.3g} points",
            lambda s: (s.tolerance_errors, "points of errors")),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Group:
    """Hosts of one kernel and variant, the controls they are held against, and all that was measured of both."""

    kernel: Kernel
    hosts: tuple[str, ...]
    controls: tuple[str, ...]
    rows: tuple[Measured, ...]

    def differences(self, measure: Measure, moment: str) -> list[float]:
        """Return one value per round in which hosts, and controls where there are any, gave this measure."""
        rounds: dict[float, dict[str, float]] = defaultdict(dict)
        level: dict[str, list[float]] = defaultdict(list)
        for row in self.rows:
            value = measure.of(row)
            if value is None:
                continue
            if row.moment == moment:
                rounds[row.round][row.host] = value
            if row.moment == "before":
                level[row.host].append(value)
        own = {host: fmean(values) for host, values in level.items()}  # so that a host missing once shifts no mean
        found = []
        for _, values in sorted(rounds.items()):
            ours = [values[h] - own[h] for h in self.hosts if h in values and h in own]
            beside = [values[c] - own[c] for c in self.controls if c in values and c in own]
            if ours and (beside or not self.controls):
                found.append(fmean(ours) - (fmean(beside) if beside else 0.0))
        return found

    def level(self, measure: Measure) -> float:
        """Return the hosts' mean of *measure* before the program came; 0 when it was never measured."""
        ours = [v for r in self.rows if r.moment == "before" and r.host in self.hosts
                and (v := measure.of(r)) is not None]  # fmt: skip
        return fmean(ours) if ours else 0.0

    def errors(self, hosts: Sequence[str], moment: str) -> tuple[int, int]:
        """Return (errors, asked) of *hosts* over all rounds of *moment*."""
        rows = [r for r in self.rows if r.host in hosts and r.moment == moment]
        return sum(r.errors for r in rows), sum(r.asked for r in rows)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one measure showed on one group."""

    answer: GateAnswer
    detail: str
    group: Group


def compare(wave: Wave, controls: Mapping[str, Kernel], service: Iterable[Measured]) -> tuple[Check, ...]:
    """Return the checks on the service, none where the policy asks for none."""
    policy = wave.settings.service
    if policy is None:
        return ()
    rows = tuple(service)
    groups = make_groups(wave, controls, rows)
    if not groups:
        return (Check("service-latency", "inconclusive", "the service was asked for on no host of the wave"),)
    allowed = FALSE_ALARM / (len(MEASURES) * len(groups))
    return (_asked(wave, groups, rows), *(_measure(m, groups, policy, allowed) for m in MEASURES))


def rounds_needed(groups: int) -> int:
    """Return how many rounds before and after let as many groups show anything."""
    allowed = FALSE_ALARM / (len(MEASURES) * max(groups, 1))
    return next(n for n in itertools.count(MIN_ROUNDS) if least_chance(n, n) <= allowed)


def make_groups(wave: Wave, controls: Mapping[str, Kernel], rows: Sequence[Measured]) -> list[Group]:
    """Return the running hosts that were asked, by kernel and variant, with the controls that match best."""
    seen = {r.host for r in rows}
    kept = {h: k for h, k in controls.items() if h in seen}
    kernels: dict[Kernel, list[str]] = defaultdict(list)
    for step in wave.steps:
        if step.host in wave.running and step.host in seen:
            kernels[step.kernel_id, step.variant].append(step.host)
    groups = []
    for kernel, hosts in sorted(kernels.items()):
        same = [c for c, k in kept.items() if k == kernel] or [c for c, k in kept.items() if k[1] == kernel[1]]
        members = {*hosts, *same}
        groups.append(Group(kernel, tuple(hosts), tuple(sorted(same)), tuple(r for r in rows if r.host in members)))
    return groups


def _asked(wave: Wave, groups: Sequence[Group], rows: Sequence[Measured]) -> Check:
    """Could the service be asked at all? Not being able to is neither good nor bad."""
    tolerated = wave.settings.sample_errors
    failed: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        if row.outcome == "error":
            failed[row.host].append(row.id)
    ours = [h for g in groups for h in g.hosts if len(failed[h]) > tolerated]
    if ours:
        ids = tuple(i for h in ours for i in failed[h])
        return Check("service-asked", "error", f"the service could not be asked on {names(ours)}", (), tuple(ours), ids)
    return Check("service-asked", "pass", f"asked on {sum(len(g.hosts) for g in groups)} hosts "
                 f"and {len({c for g in groups for c in g.controls})} controls")  # fmt: skip


def _measure(measure: Measure, groups: Sequence[Group], policy: Service, allowed: float) -> Check:
    """Judge every group by one measure; the worst speaks, and is named with its samples."""
    findings = [_judge(measure, group, policy, allowed) for group in groups]
    worst = next(
        f for answer in ("fail", "inconclusive", "pass") for f in sorted(findings, key=lambda f: f.group.kernel)
        if f.answer == answer
    )  # fmt: skip
    hosts = tuple(h for f in findings if f.answer == worst.answer != "pass" for h in f.group.hosts)
    ids = tuple(r.id for f in findings if f.answer == worst.answer for r in f.group.rows)
    limit, unit = measure.limit(policy)
    return Check(measure.name, worst.answer, worst.detail, (), hosts, ids, limit, unit)


def _judge(measure: Measure, group: Group, policy: Service, allowed: float) -> Finding:
    before, after = group.differences(measure, "before"), group.differences(measure, "after")
    where = f"{names(group.hosts)} against {names(group.controls)}" if group.controls else (
        f"{names(group.hosts)}, before and after only: no control")  # fmt: skip
    if not before or not after or least_chance(len(before), len(after)) > allowed:
        counted = f"{len(before)} rounds before and {len(after)} after are too few to tell"
        return Finding("inconclusive", f"{counted} ({where})", group)
    shift = find_shift(before, after, measure.tolerated(policy, group.level(measure)))
    told = f"{measure.told(shift.size)} (chance {shift.beyond:.2g}) on {where}"
    if shift.beyond <= allowed and not group.controls:
        return Finding("inconclusive", told, group)
    if shift.beyond <= allowed:
        return Finding("fail", told, group)
    if _doubtful(measure, group, policy, shift):
        return Finding("inconclusive", told, group)
    return Finding("pass", told, group)


def _doubtful(measure: Measure, group: Group, policy: Service, shift: Shift) -> bool:
    """Whether something moved that is not sure to be more than tolerated.

    Errors may crowd in few rounds, which ranks do not see: there the asks themselves are counted, which are not
    independent within a round and so never enough for a ``fail``.
    """
    if measure.name == "service-errors":
        now, before = group.errors(group.hosts, "after"), group.errors(group.hosts, "before")
        beside = group.errors(group.controls, "after") if group.controls else before
        rose = now[0] / max(now[1], 1) - max(e / max(n, 1) for e, n in (beside, before)) > policy.tolerance_errors / 100
        return rose and all(excess_chance(*now, *other) <= DOUBT for other in (beside, before))
    return shift.above <= DOUBT and shift.size > measure.tolerated(policy, group.level(measure))
