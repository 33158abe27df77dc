"""What the gate's checks look at and what they give: values and the words for them. Nothing here judges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from fleet.rollout.planning.settings import WaveSettings

GateAnswer = Literal["pass", "fail", "inconclusive", "error"]

# What the agent's watchdog may say or a step may end as; anything else is still under way.
GOOD_STEPS = frozenset({"healthy", "verified"})
FAILED_STEPS = frozenset({"failed", "reverted", "revert-failed"})
_NAMED = 8  # hosts named in one line


class Step(Protocol):
    """One host of the wave; ``fleet.record.rollout_views.StepView`` is one."""

    @property
    def host(self) -> str: ...  # noqa: D102 - a field
    @property
    def kernel_id(self) -> str: ...  # noqa: D102 - a field
    @property
    def variant(self) -> str: ...  # noqa: D102 - a field
    @property
    def state(self) -> str: ...  # noqa: D102 - a field


class Sample(Protocol):
    """One measurement; ``fleet.record.rollout_views.SampleView`` is one. ``outcome``: ok, or what was in its way."""

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
    @property
    def calibrated(self) -> bool: ...  # noqa: D102 - a field


@dataclass(frozen=True, slots=True)
class Check:
    """One question of the gate. ``hosts`` are those that made it not pass, or all it looked at.

    ``samples`` are the ids of the cost samples the answer rests on, ``service_samples`` of those of a service;
    ``limit`` is what their values were held against, in ``unit``.
    """

    name: str
    answer: GateAnswer
    detail: str
    samples: tuple[int, ...] = ()
    hosts: tuple[str, ...] = ()
    service_samples: tuple[int, ...] = ()
    limit: float | None = None
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Wave:
    """What all checks look at: hosts in name order, samples by host in time order, and how many hosts may fail.

    ``controls`` are hosts without the program that were looked at meanwhile.
    """

    steps: tuple[Step, ...]
    running: tuple[str, ...]
    samples: Mapping[str, tuple[Sample, ...]]
    settings: WaveSettings
    may_fail: int
    canary: bool
    controls: tuple[str, ...] = field(default=())

    def measured(self, host: str) -> tuple[Sample, ...]:
        """Return the samples of *host* that measured something, in time order."""
        return tuple(s for s in self.samples.get(host, ()) if s.outcome == "ok")

    def share(self, hosts: Sequence[str]) -> str:
        """Return *hosts* in words: how many of the wave's, and the first by name."""
        return f"{len(hosts)} of {len(self.steps)} hosts ({names(hosts)})"

    def last_ids(self, hosts: Iterable[str]) -> tuple[int, ...]:
        """Return the id of the last sample of each of *hosts* that has any."""
        return tuple(self.samples[h][-1].id for h in hosts if self.samples.get(h))


def names(hosts: Sequence[str]) -> str:
    """Return the first of *hosts* by name, and how many more there are."""
    return ", ".join(hosts[:_NAMED]) + (f" and {len(hosts) - _NAMED} more" if len(hosts) > _NAMED else "")
