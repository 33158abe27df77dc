"""Judge a wave from its steps and samples: pass, fail, inconclusive or error, each check with the samples it rests on.

Pure and without a clock: the same steps and samples give the same verdict. It changes nothing; halting is for others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from fleet.rollout.settings import WaveSettings
from probes.manifest import Budget

GateAnswer = Literal["pass", "fail", "inconclusive", "error"]

MIB = 1024 * 1024
# What the agent's watchdog may say or a step may end as; anything else is still under way.
GOOD_STEPS = frozenset({"healthy", "verified"})
FAILED_STEPS = frozenset({"failed", "reverted", "revert-failed"})
_NAMED = 8  # hosts named in one line
# Which answer speaks for the whole: a breach is a breach even where another counter is unreadable.
_WORST: tuple[GateAnswer, ...] = ("fail", "error", "inconclusive", "pass")


class Step(Protocol):
    """One host of the wave; ``fleet.record.views.StepView`` is one."""

    @property
    def host(self) -> str: ...  # noqa: D102 - a field
    @property
    def kernel_id(self) -> str: ...  # noqa: D102 - a field
    @property
    def variant(self) -> str: ...  # noqa: D102 - a field
    @property
    def state(self) -> str: ...  # noqa: D102 - a field


class Sample(Protocol):
    """One measurement; ``fleet.record.views.SampleView`` is one. ``outcome``: ok, or why nothing was measured."""

    @property
    def id(self) -> int: ...  # noqa: D102 - a field
    @property
    def host(self) -> str: ...  # noqa: D102 - a field
    @property
    def at(self) -> float: ...  # noqa: D102 - a field
    @property
    def outcome(self) -> str: ...  # noqa: D102 - a field
    @property
    def cpu_percent(self) -> float | None: ...  # noqa: D102 - a field
    @property
    def ns_per_event(self) -> float | None: ...  # noqa: D102 - a field
    @property
    def memory_bytes(self) -> int | None: ...  # noqa: D102 - a field
    @property
    def loss_percent(self) -> float | None: ...  # noqa: D102 - a field
    @property
    def tripped(self) -> bool: ...  # noqa: D102 - a field


@dataclass(frozen=True, slots=True)
class Check:
    """One question of the gate. ``samples`` are the ids the answer rests on, ``hosts`` those that made it not pass."""

    name: str
    answer: GateAnswer
    detail: str
    samples: tuple[int, ...] = ()
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """The wave's verdict. ``failed_kernels``: (kernel id, variant) that failed, so that they alone can be halted."""

    answer: GateAnswer
    checks: tuple[Check, ...]
    failed_kernels: tuple[tuple[str, str], ...] = ()

    @property
    def reason(self) -> str:
        """The first check that decided, in one line."""
        return next((f"{c.name}: {c.detail}" for c in self.checks if c.answer == self.answer), "no checks")


@dataclass(frozen=True, slots=True)
class Limit:
    """One row of the budget: what a sample shows, what is allowed, and whether every build can measure it."""

    name: str
    seen: Callable[[Sample], float | None]
    allowed: Callable[[Budget], float]
    unit: str
    always: bool


LIMITS = (
    Limit("cpu", lambda s: s.cpu_percent, lambda b: b.cpu_percent, "% of one core", always=True),
    Limit("time-per-event", lambda s: s.ns_per_event, lambda b: b.ns_per_event, "ns", always=False),
    Limit("memory", lambda s: None if s.memory_bytes is None else s.memory_bytes / MIB, lambda b: b.memory_mib, "MiB",
          always=True),
    Limit("losses", lambda s: s.loss_percent, lambda b: b.loss_percent, "% of records", always=False),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Wave:
    """What all checks look at: hosts in name order, samples by host in time order, and how many hosts may fail."""

    steps: tuple[Step, ...]
    running: tuple[str, ...]
    samples: Mapping[str, tuple[Sample, ...]]
    settings: WaveSettings
    may_fail: int
    canary: bool

    def measured(self, host: str) -> tuple[Sample, ...]:
        return tuple(s for s in self.samples.get(host, ()) if s.outcome == "ok")


def judge_wave(
    steps: Sequence[Step], samples: Iterable[Sample], budget: Budget, settings: WaveSettings, *, canary: bool = False
) -> GateVerdict:
    """Judge the wave made of *steps* by *samples* taken since it was applied. In a *canary* wave nothing may fail.

    Unreachable hosts count neither as good nor as failed; too few samples are inconclusive, never a pass.
    """
    by_host: dict[str, list[Sample]] = {}
    for sample in sorted(samples, key=lambda s: (s.at, s.id)):
        by_host.setdefault(sample.host, []).append(sample)
    ordered = tuple(sorted(steps, key=lambda s: s.host))
    finished = sum(s.state in GOOD_STEPS | FAILED_STEPS for s in ordered)
    may_fail = 0 if canary else min(int(finished * settings.failed_percent / 100), settings.failed_cap)
    running = tuple(s.host for s in ordered if s.state in GOOD_STEPS)
    wave = _Wave(ordered, running, {h: tuple(v) for h, v in by_host.items()}, settings, may_fail, canary)
    checks = (
        _finished(wave),
        _failures(wave),
        _unreachable(wave),
        _presence(wave),
        _trips(wave),
        _readable(wave),
        _enough(wave),
        *(_budget(wave, row, row.allowed(budget)) for row in LIMITS),
    )
    answer = next(a for a in _WORST if a == "pass" or any(c.answer == a for c in checks))
    bad = {h for c in checks if c.answer == "fail" for h in c.hosts}
    kernels = tuple(sorted({(s.kernel_id, s.variant) for s in ordered if s.host in bad}))
    return GateVerdict(answer, checks, kernels)


def _names(hosts: Sequence[str]) -> str:
    return ", ".join(hosts[:_NAMED]) + (f" and {len(hosts) - _NAMED} more" if len(hosts) > _NAMED else "")


def _share(hosts: Sequence[str], wave: _Wave) -> str:
    return f"{len(hosts)} of {len(wave.steps)} hosts ({_names(hosts)})"


def _finished(wave: _Wave) -> Check:
    if not wave.steps:
        return Check("finished", "inconclusive", "the wave has no hosts")
    left = tuple(
        s.host for s in wave.steps if s.state not in GOOD_STEPS | FAILED_STEPS | {"unreachable", "skipped", "drifted"}
    )
    if left:
        return Check("finished", "inconclusive", f"still under way: {_share(left, wave)}", hosts=left)
    if not wave.running and not any(s.state in FAILED_STEPS for s in wave.steps):
        return Check("finished", "inconclusive", "no host of the wave runs it", hosts=tuple(s.host for s in wave.steps))
    return Check("finished", "pass", f"all {len(wave.steps)} hosts are done")


def _failures(wave: _Wave) -> Check:
    failed = tuple(s.host for s in wave.steps if s.state in FAILED_STEPS)
    if len(failed) > wave.may_fail:
        detail = f"failed: {_share(failed, wave)}, allowed {wave.may_fail}"
        return Check("failures", "fail", detail, hosts=failed)
    return Check("failures", "pass", f"{len(failed)} failed, allowed {wave.may_fail}")


def _unreachable(wave: _Wave) -> Check:
    lost = tuple(
        h.host
        for h in wave.steps
        if h.state == "unreachable"
        or (h.state in GOOD_STEPS and (last := wave.samples.get(h.host)) and last[-1].outcome == "unreachable")
    )
    allowed = 0 if wave.canary else int(len(wave.steps) * wave.settings.unreachable_percent / 100)
    if len(lost) > allowed:
        return Check(
            "unreachable", "inconclusive", f"no signal from {_share(lost, wave)}, tolerated {allowed}",
            _last_ids(wave, lost), lost,
        )  # fmt: skip
    return Check("unreachable", "pass", f"{len(lost)} unreachable, tolerated {allowed}")


def _last_ids(wave: _Wave, hosts: Iterable[str]) -> tuple[int, ...]:
    return tuple(wave.samples[h][-1].id for h in hosts if wave.samples.get(h))


def _presence(wave: _Wave) -> Check:
    """Installed is not running: the last look must have found it. A reboot in between proves nothing either way."""
    last = {h: wave.samples[h][-1] for h in wave.running if wave.samples.get(h)}
    gone = tuple(h for h, s in last.items() if s.outcome == "absent")
    if len(gone) > wave.may_fail:
        return Check("presence", "fail", f"no longer runs on {_share(gone, wave)}", _last_ids(wave, gone), gone)
    rebooted = tuple(h for h, s in last.items() if s.outcome == "rebooted")
    if rebooted:
        detail = f"rebooted meanwhile: {_share(rebooted, wave)}"
        return Check("presence", "inconclusive", detail, _last_ids(wave, rebooted), rebooted)
    return Check(
        "presence", "pass", f"seen running on {len(last) - len(gone)} hosts", tuple(s.id for s in last.values())
    )


def _trips(wave: _Wave) -> Check:
    tripped = {s.host: s.id for samples in wave.samples.values() for s in samples if s.tripped}
    hosts = tuple(s.host for s in wave.steps if s.host in tripped)
    if len(hosts) > wave.may_fail:
        detail = f"the watchdog stopped it on {_share(hosts, wave)}"
        return Check("watchdog", "fail", detail, tuple(tripped[h] for h in hosts), hosts)
    return Check("watchdog", "pass", f"{len(hosts)} watchdog trips, allowed {wave.may_fail}")


def _readable(wave: _Wave) -> Check:
    """An unreadable counter differs from a counter that is too high: some in a row are tolerated, more are an error."""
    tolerated = wave.settings.sample_errors
    bad = {}
    for host in wave.running:
        tail: list[int] = []
        for sample in reversed(wave.samples.get(host, ())):
            if sample.outcome != "error":
                break
            tail.append(sample.id)
        if len(tail) > tolerated:
            bad[host] = tuple(reversed(tail))
    if bad:
        hosts = tuple(bad)
        ids = tuple(i for row in bad.values() for i in row)
        return Check("readable", "error", f"more than {tolerated} unreadable samples in a row on {_share(hosts, wave)}",
                     ids, hosts)  # fmt: skip
    return Check("readable", "pass", f"at most {tolerated} unreadable samples in a row")


def _enough(wave: _Wave) -> Check:
    wanted = wave.settings.samples
    short = tuple(h for h in wave.running if len(wave.measured(h)) < wanted)
    ids = tuple(s.id for h in wave.running for s in wave.measured(h))
    if short:
        return Check("samples", "inconclusive", f"fewer than {wanted} samples from {_share(short, wave)}", ids, short)
    return Check("samples", "pass", f"at least {wanted} samples from each of {len(wave.running)} hosts", ids)


def _budget(wave: _Wave, row: Limit, allowed: float) -> Check:
    """A host breaches when enough of its last samples are over the limit; one spike is none."""
    over: dict[str, tuple[int, ...]] = {}
    blind: list[str] = []
    used: list[tuple[int, float]] = []
    for host in wave.running:
        window = wave.measured(host)[-wave.settings.samples :]
        shown = [(s.id, value) for s in window if (value := row.seen(s)) is not None]
        used += shown
        if window and not shown:
            blind.append(host)
        beyond = tuple(i for i, value in shown if value > allowed)
        if len(beyond) >= wave.settings.breaches:
            over[host] = beyond
    worst = max((value for _, value in used), default=None)
    ids = tuple(i for i, _ in used)
    limit = f"{allowed:g} {row.unit}"
    if len(over) > wave.may_fail:
        hosts = tuple(over)
        detail = f"over {limit} on {_share(hosts, wave)}; worst {worst:.3g}"
        return Check(row.name, "fail", detail, tuple(i for some in over.values() for i in some), hosts)
    if blind and row.always:
        return Check(row.name, "error", f"not measured on {_share(blind, wave)}", ids, tuple(blind))
    if worst is None:
        return Check(row.name, "pass", f"not measured by these builds; budget {limit}")
    return Check(row.name, "pass", f"worst {worst:.3g} of {limit}", ids)
