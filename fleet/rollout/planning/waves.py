"""Who comes in which wave. Pure: hosts and settings in, waves out, the same for the same input."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from fleet.rollout.planning.settings import WaveSettings, WaveStep


class PlannedHost(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One host of a wave, with what the decision rested on.

    ``change``: ``new``, ``replace`` (another build or variant than it ``runs``), ``configure`` (the same build,
    otherwise configured) or ``unchanged``. A struct, because a fleet has many.
    """

    host: str
    kernel_id: str
    variant: str
    build: str
    facts_digest: str
    change: str = "new"
    runs: str = ""  # "VARIANT BUILD"


class Skipped(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A host that is left out: ``code`` is stable, ``detail`` one line; what it ``runs`` goes on running."""

    host: str
    code: str
    detail: str
    runs: str = ""


@dataclass(frozen=True, slots=True)
class Wave:
    """Hosts that are done together, in a stated order, then baked for ``bake_s`` seconds.

    ``window``: when it may be begun, and a host in it; empty for the settings' own. ``approval``: a person says when.
    """

    number: int
    name: str
    bake_s: float
    hosts: tuple[PlannedHost, ...]
    window: str = ""
    approval: bool = False


def make_waves(
    ready: Sequence[tuple[PlannedHost, bool]],
    settings: WaveSettings,
    chosen: Mapping[str, Collection[str]] | None = None,
) -> tuple[tuple[Wave, ...], list[Skipped], tuple[str, ...]]:
    """Split hosts into waves (see :class:`WaveSettings`); a host marked True may only be a canary, the rest wait.

    *chosen*: for every selector of the settings, the hosts it matches. Within a wave, hosts of different kernel builds
    and variants take turns, so that an early wave sees them all. Also returns who waits, and the controls by name: the
    last wave's alone.
    """
    strata: dict[tuple[str, str, bool], list[PlannedHost]] = {}
    for host, trial in ready:
        strata.setdefault((host.kernel_id, host.variant, trial), []).append(host)
    groups = [strata[key] for key in sorted(strata)]
    canaries = tuple(group[0] for group in groups)
    waiting = [
        Skipped(h.host, "unknown-waits", f"waits for what the canary of {h.variant} on its kernel build shows")
        for key in sorted(strata)
        if key[2]
        for h in strata[key][1:]
    ]
    if not canaries:
        return (), waiting, ()
    known = [strata[key] for key in sorted(strata) if not key[2]]
    kept = [group[len(group) - max(0, min(settings.control_hosts, len(group) - 2)) :] for group in known]
    free = _take_turns([group[1 : len(group) - len(k)] for group, k in zip(known, kept, strict=True)])
    controls = _take_turns(kept)
    first, *steps, last = settings.steps
    waves = [_wave(0, first, settings.canary_bake_s, canaries)]
    total = len(canaries) + len(free) + len(controls)
    for step in steps:
        taken, free = _take(step, free, total - len(free) - len(controls), total, chosen or {})
        if taken:
            waves.append(_wave(len(waves), step, settings.bake_s, taken))
    if free or controls:
        waves.append(_wave(len(waves), last, settings.bake_s, [*free, *controls]))
    return tuple(waves), waiting, tuple(sorted(h.host for h in controls))


def _wave(number: int, step: WaveStep, bake_s: float, hosts: Sequence[PlannedHost]) -> Wave:
    bake = bake_s if step.bake_s is None else step.bake_s
    return Wave(number, step.title, bake, tuple(hosts), step.window, step.approval)


def _take(
    step: WaveStep, free: list[PlannedHost], done: int, total: int, chosen: Mapping[str, Collection[str]]
) -> tuple[list[PlannedHost], list[PlannedHost]]:
    """Return who of the *free* hosts the step takes, and who is left, both in order."""
    if step.selector is not None:
        names = chosen[step.selector]
        return [h for h in free if h.host in names], [h for h in free if h.host not in names]
    size = max(math.ceil(total * step.percent / 100) - done, 1) if step.percent is not None else step.count or 0
    return free[:size], free[size:]


def _take_turns(groups: Sequence[Sequence[PlannedHost]]) -> list[PlannedHost]:
    """One of each group, then the second of each, …; as long as there are any."""
    found: list[PlannedHost] = []
    turn = 0
    while groups := [g for g in groups if turn < len(g)]:
        found += [g[turn] for g in groups]
        turn += 1
    return found
