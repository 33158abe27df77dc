"""How careful a rollout is: which waves, bake times, windows, and how much trouble a gate accepts. Values only."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from btf.fault import EXIT_USAGE, Fault, printable
from fleet.rollout.planning.service import Service
from fleet.rollout.planning.windows import parse_windows
from inventory.selector import SelectorMalformed, parse_selector

CANARIES = "canaries"
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_COUNT = re.compile(r"\d{1,9}")
_ZONE = re.compile(r'zone:([^\s"]+)')


class SettingsWrong(Fault):
    """Settings of a rollout that contradict themselves."""

    code = "COR-PLN-001"
    exit = EXIT_USAGE
    remedy = "Percentages rise to 100, counts are at least 1, times are not negative."


@dataclass(frozen=True, slots=True)
class WaveStep:
    """What the next wave takes: ``canaries``, ``3`` (so many hosts more), ``5%``, ``zone:eu1``, or a selector.

    Empty ``name``: one is made. ``bake_s`` None: the settings'. ``window``: this wave's own, instead of the settings'.
    """

    take: str
    name: str = ""
    bake_s: float | None = None
    window: str = ""
    approval: bool = False  # a person says when this wave begins

    def __post_init__(self) -> None:
        if self.count == 0 or (self.percent is not None and not 0 < self.percent <= 100):
            raise SettingsWrong(f"a wave of {self.take!r} takes nobody, or more than there are")
        if self.selector is not None:
            try:
                parse_selector(self.selector)
            except SelectorMalformed as fault:
                words = f"{self.take!r} is no wave: canaries, 3, 5%, zone:NAME or a selector"
                raise SettingsWrong(f"{words}; {fault.message}") from None
            if not self.take.strip():
                raise SettingsWrong("a wave must say whom it takes")
        parse_windows(self.window)
        if not 0 <= (self.bake_s or 0) < math.inf or len(self.name) > 64:
            raise SettingsWrong("a wave bakes for at least 0 s and has a name of at most 64 characters")

    @property
    def percent(self) -> float | None:
        """The share of all feasible hosts that is done after this wave, or None."""
        share = _SHARE.fullmatch(self.take)
        return float(share[1]) if share else None

    @property
    def count(self) -> int | None:
        """How many hosts it takes, or None."""
        return int(self.take) if _COUNT.fullmatch(self.take) else None

    @property
    def selector(self) -> str | None:
        """The selector of the hosts it takes, or None."""
        if self.take == CANARIES or self.percent is not None or self.count is not None:
            return None
        zone = _ZONE.fullmatch(self.take)
        # A host's zone is its label of that name, else its field: inventory.host.zone_of.
        return f'label:zone="{zone[1]}" or (label:zone="" and zone="{zone[1]}")' if zone else self.take

    @property
    def title(self) -> str:
        """The wave's name."""
        if self.name:
            return self.name
        if self.take == CANARIES:
            return "canary"
        return f"to {self.percent:g} %" if self.percent is not None else printable(self.take, 64)


STEPS = tuple(WaveStep(take) for take in (CANARIES, "5%", "25%", "100%"))


@dataclass(frozen=True, slots=True)
class WaveSettings:
    """Defaults suit a production fleet; every number can be set.

    Wave 0 is always one canary per kernel build and variant; a first step ``canaries`` can give it a bake, a window or
    a name. A percentage is the share of all feasible hosts that is done after its wave, canaries included, **rounded
    up**, and at least one host more than before; a count is so many hosts more; a zone or selector takes all of its
    hosts that are left. The last wave takes whoever is left, and a step for that is added where there is none. A wave
    that would be empty is left out. So 3 hosts give waves of 1, 1, 1, and 1,000 give 1, 49, 200, 750. Of every kernel
    build and variant with at least 3 hosts, ``control_hosts`` (as many as leave two others) are kept for the last
    wave, to compare with until then.

    A gate compares against *finished* hosts, **rounded down**: 2 % of 10 is none. Canaries may never fail.
    """

    waves: tuple[WaveStep, ...] = STEPS
    canary_bake_s: float = 600.0
    bake_s: float = 300.0
    deadline_s: float = 600.0  # for one host in one phase; then it counts as silent
    progress_s: float = 900.0  # when no host of a wave gets any further for so long, it pauses
    tries: int = 3  # how often a silent host is tried in one phase before it counts as unreachable
    parallel: int = 25
    control_hosts: int = 1  # per kernel build and variant; 0: none
    exclude: str = ""  # a selector: these hosts are left out
    include_unchanged: bool = False  # also hosts that run exactly this already
    window: str = ""  # when a wave or a host may be begun, as ``windows`` reads it; empty: at any time
    approval: bool = False  # a person approves the plan before it starts
    second_person: bool = False  # another one than who started it
    on_fail: Literal["halt", "rollback", "freeze"] = "halt"  # what a failed gate leads to
    kernel_halts_alone: bool = True  # a kernel build that fails halts alone, the others go on (``machine.alone``)
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
        shares = [step.percent for step in self.waves if step.percent is not None]
        if any(a >= b for a, b in pairwise(shares)):
            raise SettingsWrong(f"wave percentages {shares} do not rise")
        if any(step.take == CANARIES for step in self.waves[1:]):
            raise SettingsWrong("canaries are the first wave, and no other")
        if any(step.percent == 100 for step in self.waves[:-1]):
            raise SettingsWrong("after a wave of 100% there is nobody left")
        if len(self.waves) > 100:
            raise SettingsWrong("more than 100 waves")
        numbers = [value for name in self.__slots__ if isinstance(value := getattr(self, name), float)]
        if not all(map(math.isfinite, numbers)):
            raise SettingsWrong("a number is not finite")
        if min(self.parallel, self.samples, self.breaches) < 1 or self.breaches > self.samples:
            raise SettingsWrong("parallel, samples and breaches must be at least 1, breaches at most samples")
        if min(self.canary_bake_s, self.bake_s, self.failed_percent, self.unreachable_percent, self.failed_cap) < 0:
            raise SettingsWrong("a time, percentage or cap is negative")
        if self.control_hosts < 0:
            raise SettingsWrong("a number of control hosts is negative")
        if min(self.deadline_s, self.progress_s) <= 0 or self.sample_errors < 0:
            raise SettingsWrong("deadlines must be positive and sample_errors not negative")
        if self.tries < 1:
            raise SettingsWrong("a host must be tried at least once")
        parse_windows(self.window)
        parse_selector(self.exclude)

    @property
    def steps(self) -> tuple[WaveStep, ...]:
        """All waves: the canaries' first, and a last one that takes whoever is left."""
        first = () if self.waves and self.waves[0].take == CANARIES else STEPS[:1]
        last = () if self.waves and self.waves[-1].percent == 100 else STEPS[-1:]
        return (*first, *self.waves, *last)

    @property
    def selectors(self) -> tuple[str, ...]:
        """Every selector that must be answered to plan with these settings, each once."""
        found = [step.selector for step in self.waves if step.selector] + ([self.exclude] if self.exclude else [])
        return tuple(dict.fromkeys(found))
