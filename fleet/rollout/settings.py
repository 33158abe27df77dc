"""How careful a rollout is: wave sizes, bake times, and how much trouble a gate accepts. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from btf.fault import EXIT_USAGE, Fault
from fleet.rollout.service import Service


class SettingsWrong(Fault):
    """Settings of a rollout that contradict themselves."""

    code = "COR-PLN-001"
    exit = EXIT_USAGE
    remedy = "Percentages rise to 100, counts are at least 1, times are not negative."


@dataclass(frozen=True, slots=True)
class WaveSettings:
    """Defaults suit a production fleet; every number can be set.

    Wave 0 is one canary per kernel build and variant. Then each of ``percents`` is the share of all feasible hosts that
    is done after that wave, canaries included, **rounded up**, and at least one host more than before; a wave that
    would be empty is left out. So 3 hosts give waves of 1, 1, 1, and 1,000 give 1, 49, 200, 750. Of every kernel build
    and variant with at least 3 hosts, ``control_hosts`` (as many as leave two others) are kept for the last wave, to
    compare with until then.

    A gate compares against *finished* hosts, **rounded down**: 2 % of 10 is none. Canaries may never fail.
    """

    percents: tuple[float, ...] = (5.0, 25.0, 100.0)
    canary_bake_s: float = 600.0
    bake_s: float = 300.0
    deadline_s: float = 600.0  # for one host, from its first touch
    parallel: int = 25
    control_hosts: int = 1  # per kernel build and variant; 0: none
    window: str = ""  # when a wave or a host may be begun, as fleet.rollout.windows reads it; empty: at any time
    approval: bool = False  # a person approves the plan before it starts
    on_fail: Literal["halt", "rollback", "freeze"] = "halt"  # what a failed gate leads to
    kernel_halts_alone: bool = False  # a kernel build that fails its gate halts alone, the others go on
    join: bool = True  # hosts that come later join the last wave
    try_unknown: bool = False  # may one canary per kernel build and variant try where evidence is missing?
    failed_percent: float = 2.0
    failed_cap: int = 20  # failed hosts in one wave, whatever the percentage says
    unreachable_percent: float = 10.0
    samples: int = 3  # a healthy host needs this many before a gate concludes
    breaches: int = 2  # of the last `samples` samples over budget: the host breaches
    sample_errors: int = 4  # unreadable samples in a row that are tolerated
    service: Service | None = None  # what users of the hosts would feel is measured by asking it

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.percents, self.percents[1:], strict=False))
        if not self.percents or not rising or self.percents[0] <= 0 or self.percents[-1] != 100:
            raise SettingsWrong(f"wave percentages {list(self.percents)} do not rise to 100")
        if min(self.parallel, self.samples, self.breaches) < 1 or self.breaches > self.samples:
            raise SettingsWrong("parallel, samples and breaches must be at least 1, breaches at most samples")
        if min(self.canary_bake_s, self.bake_s, self.failed_percent, self.unreachable_percent, self.failed_cap) < 0:
            raise SettingsWrong("a time, percentage or cap is negative")
        if self.control_hosts < 0:
            raise SettingsWrong("a number of control hosts is negative")
        if self.deadline_s <= 0 or self.sample_errors < 0:
            raise SettingsWrong("the deadline must be positive and sample_errors not negative")
