"""What a plan changes on hosts, and how two plans differ. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from fleet.rollout.planning.plan import Plan

# How a plan changes a host, in the order people read it → the words for so many of them.
WORDS = {"new": "new", "replace": "replaced", "configure": "configured anew", "unchanged": "unchanged"}


def count_changes(plan: Plan) -> dict[str, int]:
    """Return how many planned hosts change in which way; ways that none changes in are left out."""
    found = Counter(h.change for h in plan.hosts)
    return {change: found[change] for change in WORDS if found[change]}


def changes_anything(plan: Plan) -> bool:
    """Whether any host would run something else afterwards."""
    return any(h.change != "unchanged" for wave in plan.waves for h in wave.hosts)


def summary(plan: Plan) -> str:
    """Return in one line what a plan changes and what it leaves."""
    parts = [f"{n} {WORDS[change]}" for change, n in count_changes(plan).items()]
    left = Counter(s.code for s in plan.skipped)
    kept = sum(bool(s.runs) and s.code != "unchanged" for s in plan.skipped)
    if unchanged := left.pop("unchanged", 0):
        parts.append(f"{unchanged} unchanged and left out")
    if left:
        parts.append(f"{left.total()} left out" + (f", {kept} of them keep what they run" if kept else ""))
    return "; ".join(parts) or "no host"


@dataclass(frozen=True, slots=True)
class Difference:
    """One host about which two plans differ. ``what``: added, removed, wave, build, spec or reason."""

    host: str
    what: str
    before: str
    after: str


def differences(before: Plan, after: Plan) -> Iterator[Difference]:
    """Yield, by host, how *after* differs from *before*; plans of the same hosts and specs yield nothing."""
    waves = [{h.host: w.name for w in plan.waves for h in w.hosts} for plan in (before, after)]
    left = [{s.host: s.code for s in plan.skipped} for plan in (before, after)]
    for host in sorted({*waves[0], *waves[1], *left[0], *left[1]}):
        old, new = before.by_name.get(host), after.by_name.get(host)
        if old is None and new is None:
            if left[0].get(host) != left[1].get(host):
                yield Difference(host, "reason", left[0].get(host, ""), left[1].get(host, ""))
        elif old is None:
            yield Difference(host, "added", left[0].get(host, ""), f"{waves[1][host]}: {_words(after, host)}")
        elif new is None:
            yield Difference(host, "removed", f"{waves[0][host]}: {_words(before, host)}", left[1].get(host, ""))
        elif (old.variant, old.build) != (new.variant, new.build):
            yield Difference(host, "build", _words(before, host), _words(after, host))
        elif waves[0][host] != waves[1][host]:
            yield Difference(host, "wave", waves[0][host], waves[1][host])
        elif before.spec_of(old) != after.spec_of(new):
            yield Difference(host, "spec", _unlike(before, after, host), _unlike(after, before, host))


def _words(plan: Plan, host: str) -> str:
    planned = plan.by_name[host]
    return f"{planned.variant} {planned.build[7:19]}"


def _unlike(one: Plan, other: Plan, host: str) -> str:
    mine, theirs = one.spec(host), other.spec(host)
    return ", ".join(f"{key} {value}" for key, value in sorted(mine.items()) if theirs.get(key) != value)
