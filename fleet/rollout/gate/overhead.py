"""The checks on what it costs: enough readable samples, and each measure against the same budget for every build.

A sample's share of a core is the kernel's part (events times the attach cost calibrated on that very host, and what
the programs themselves took) and the user-space part of holder and child: a fallback has only the latter, and is held
against the same number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fleet.rollout.gate.check import Check, Sample, Wave
from probes.manifest import Budget

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limit:
    """One row of the budget: what a sample shows, what is allowed, and whether every build can measure it.

    ``priced``: the value rests on attach costs, the host's own or the defaults.
    """

    name: str
    seen: Callable[[Sample], float | None]
    allowed: Callable[[Budget], float]
    unit: str
    always: bool
    priced: bool = False


LIMITS = (
    Limit("cpu", lambda s: s.cpu_percent, lambda b: b.cpu_percent, "% of one core", always=True, priced=True),
    Limit("time-per-event", lambda s: s.ns_per_event, lambda b: b.ns_per_event, "ns", always=False, priced=True),
    Limit("memory", lambda s: None if s.memory_bytes is None else s.memory_bytes / MIB, lambda b: b.memory_mib, "MiB",
          always=True),
    Limit("losses", lambda s: s.loss_percent, lambda b: b.loss_percent, "% of records", always=False),
)  # fmt: skip


def readable(wave: Wave) -> Check:
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
        return Check("readable", "error", f"more than {tolerated} unreadable samples in a row on {wave.share(hosts)}",
                     ids, hosts)  # fmt: skip
    return Check("readable", "pass", f"at most {tolerated} unreadable samples in a row")


def enough(wave: Wave) -> Check:
    """Did every running host give as many measurements as the policy wants?"""
    wanted = wave.settings.samples
    short = tuple(h for h in wave.running if len(wave.measured(h)) < wanted)
    ids = tuple(s.id for h in wave.running for s in wave.measured(h))
    if short:
        return Check("samples", "inconclusive", f"fewer than {wanted} samples from {wave.share(short)}", ids, short)
    return Check("samples", "pass", f"at least {wanted} samples from each of {len(wave.running)} hosts", ids)


def within(wave: Wave, row: Limit, allowed: float) -> Check:
    """A host breaches when enough of its last samples are over the limit; one spike is none."""
    over: dict[str, tuple[int, ...]] = {}
    blind: list[str] = []
    used: list[tuple[int, float]] = []
    unpriced = set[str]()
    for host in wave.running:
        window = wave.measured(host)[-wave.settings.samples :]
        shown = [(s.id, value) for s in window if (value := row.seen(s)) is not None]
        used += shown
        if window and not shown:
            blind.append(host)
        if row.priced and any(not s.calibrated for s in window):
            unpriced.add(host)
        beyond = tuple(i for i, value in shown if value > allowed)
        if len(beyond) >= wave.settings.breaches:
            over[host] = beyond
    worst = max((value for _, value in used), default=None)
    ids = tuple(i for i, _ in used)
    limit = f"{allowed:g} {row.unit}"
    told = f"; {len(unpriced)} hosts at default attach costs" if unpriced and worst is not None else ""
    if len(over) > wave.may_fail:
        hosts = tuple(over)
        detail = f"over {limit} on {wave.share(hosts)}; worst {worst:.3g}{told}"
        beyond = tuple(i for some in over.values() for i in some)
        return Check(row.name, "fail", detail, beyond, hosts, limit=allowed, unit=row.unit)
    if blind and row.always:
        return Check(row.name, "error", f"not measured on {wave.share(blind)}", ids, tuple(blind), limit=allowed,
                     unit=row.unit)  # fmt: skip
    if worst is None:
        return Check(row.name, "pass", f"not measured by these builds; budget {limit}", limit=allowed, unit=row.unit)
    return Check(row.name, "pass", f"worst {worst:.3g} of {limit}{told}", ids, limit=allowed, unit=row.unit)
