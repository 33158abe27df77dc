"""Judge a wave from its steps and samples: pass, fail, inconclusive or error, each check with the samples it rests on.

Pure and without a clock: the same steps and samples give the same verdict. It changes nothing; halting is for others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fleet.rollout.gate.check import FAILED_STEPS, GOOD_STEPS, Check, GateAnswer, Sample, Step, Wave
from fleet.rollout.gate.overhead import LIMITS, enough, readable, within
from fleet.rollout.gate.presence import PRESENCE
from fleet.rollout.gate.service import Measured, compare
from fleet.rollout.planning.settings import WaveSettings
from probes.manifest import Budget

__all__ = ["LIMITS", "Check", "GateAnswer", "GateVerdict", "judge_wave"]

# Which answer speaks for the whole: a breach is a breach even where another counter is unreadable.
_WORST: tuple[GateAnswer, ...] = ("fail", "error", "inconclusive", "pass")


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


def judge_wave(
    steps: Sequence[Step],
    samples: Iterable[Sample],
    budget: Budget,
    settings: WaveSettings,
    *,
    canary: bool = False,
    controls: Mapping[str, tuple[str, str]] | None = None,
    service: Iterable[Measured] = (),
) -> GateVerdict:
    """Judge the wave made of *steps* by *samples* taken since it was applied. In a *canary* wave nothing may fail.

    Unreachable hosts count neither as good nor as failed; too few samples are inconclusive, never a pass. *controls*:
    (kernel id, variant) by host of those kept without the program; *service*: what its users would have felt, before
    and after, where the policy asks for it.
    """
    by_host: dict[str, list[Sample]] = {}
    for sample in sorted(samples, key=lambda s: (s.at, s.id)):
        by_host.setdefault(sample.host, []).append(sample)
    ordered = tuple(sorted(steps, key=lambda s: s.host))
    finished = sum(s.state in GOOD_STEPS | FAILED_STEPS for s in ordered)
    may_fail = 0 if canary else min(int(finished * settings.failed_percent / 100), settings.failed_cap)
    running = tuple(s.host for s in ordered if s.state in GOOD_STEPS)
    kept = controls or {}
    wave = Wave(
        ordered, running, {h: tuple(v) for h, v in by_host.items()}, settings, may_fail, canary, tuple(sorted(kept))
    )
    checks = (
        *(ask(wave) for ask in PRESENCE),
        readable(wave),
        enough(wave),
        *(within(wave, row, row.allowed(budget)) for row in LIMITS),
        *compare(wave, kept, service),
    )
    answer = next(a for a in _WORST if a == "pass" or any(c.answer == a for c in checks))
    bad = {h for c in checks if c.answer == "fail" for h in c.hosts}
    kernels = tuple(sorted({(s.kernel_id, s.variant) for s in ordered if s.host in bad}))
    return GateVerdict(answer, checks, kernels)
