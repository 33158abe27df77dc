"""What the Rollout screen reads: one snapshot of a rollout, its waves as rows, its hosts as a window. Reads only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from fleet.console.look import Cell, ago, bar, sign
from fleet.console.window import Column, ListWindow, View
from fleet.record import Record
from fleet.record.rollout_views import RequestView, RolloutView, SampleView, StepView, WaveView
from fleet.rollout.gate import LIMITS
from probes.manifest import Budget

TROUBLED_STEPS = ("failed", "unreachable", "applying", "reverting", "revert-failed")
_NEWEST = 2_000  # samples looked at for the cost panel
# Step states as a person sums them up, in this order; every other state is "under way".
_DONE, _BAD, _LEFT = ("healthy", "verified"), ("failed", "unreachable", "revert-failed"), ("pending",)


@dataclass(frozen=True, slots=True)
class PlanBrief:
    """What the screen shows of a plan: what the program may cost on a host, and how many hosts were left out."""

    budget: Budget | None = None
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One rollout as it was read at once; ``rollout`` is None when there is none yet. ``ids`` are newest first."""

    ids: tuple[str, ...] = ()
    rollout: RolloutView | None = None
    requests: tuple[RequestView, ...] = ()  # asked and not taken
    newest: Mapping[str, SampleView] = field(default_factory=dict)  # host → its newest sample
    plan: PlanBrief = field(default_factory=PlanBrief)

    @property
    def counts(self) -> dict[str, int]:
        """Hosts by step state, over all waves."""
        found: dict[str, int] = {}
        for wave in self.rollout.waves if self.rollout else ():
            for state, n in wave.steps.items():
                found[state] = found.get(state, 0) + n
        return found


def read_snapshot(record: Record, wanted: str, plans: dict[str, PlanBrief]) -> Snapshot:
    """Read rollout *wanted*, or the newest when empty or gone; *plans* keeps what was read of plans."""
    ids = tuple(r.id for r in record.rollouts())
    if not ids:
        return Snapshot()
    rollout = record.rollout(wanted if wanted in ids else ids[0])
    if rollout.plan_id not in plans:
        plans[rollout.plan_id] = brief(record.plan(rollout.plan_id).document)
    newest = {s.host: s for s in record.samples(rollout_id=rollout.id, limit=_NEWEST)}  # later ones replace earlier
    requests = tuple(record.requests(rollout.id, waiting=True))
    return Snapshot(ids, rollout, requests, newest, plans[rollout.plan_id])


def brief(document: Mapping[str, Any]) -> PlanBrief:
    """Return what the screen shows of a plan; parts that are not there are not shown."""
    shared = document.get("shared")
    specs = [s for s in shared.values() if isinstance(s, Mapping)] if isinstance(shared, Mapping) else []
    for spec in specs:
        try:
            return PlanBrief(msgspec.convert(spec.get("budget"), Budget), len(document.get("skipped", ())))
        except msgspec.ValidationError:
            continue
    return PlanBrief(None, len(document.get("skipped", ())))


class WavesWindow(ListWindow[WaveView]):
    """The waves of one rollout; every read takes a whole snapshot."""

    def __init__(self, record: Record) -> None:
        self.wanted = ""
        self._plans: dict[str, PlanBrief] = {}
        self.snapshot = Snapshot()
        super().__init__(lambda: self._waves(record), lambda w: str(w.number), problem=lambda w: w.state in _BAD_WAVES)
        self.values = {"wave": lambda w: w.number, "state": lambda w: w.state, "hosts": lambda w: sum(w.steps.values())}

    def _waves(self, record: Record) -> Sequence[WaveView]:
        self.snapshot = read_snapshot(record, self.wanted, self._plans)
        return self.snapshot.rollout.waves if self.snapshot.rollout else ()


_BAD_WAVES = ("failed", "inconclusive", "error")


class StepsWindow:
    """The hosts of one rollout: trouble first unless sorted otherwise."""

    def __init__(self, record: Record, rollout_id: str) -> None:
        self._record, self._rollout = record, rollout_id

    def keys(self, view: View) -> Sequence[str]:
        """Return the hosts in order."""
        if not self._rollout:
            return []
        states = TROUBLED_STEPS if view.problems else None
        sort = [("-" if o.descending else "") + o.by for o in view.order]
        return self._record.step_hosts(self._rollout, states=states, sort=sort)

    def rows(self, keys: Sequence[str]) -> Mapping[str, StepView]:
        """Return these steps."""
        return {s.host: s for s in self._record.steps_named(self._rollout, keys)}


def wave_columns(now: Callable[[], float]) -> list[Column[WaveView]]:
    """Return the columns of the waves."""
    return [
        Column("WAVE", 14, lambda w: Cell(f"{w.number} {w.name}"), sort="wave"),
        Column("STATE", 14, lambda w: sign(w.state), sort="state"),
        Column("HOSTS", 7, lambda w: Cell(f"{sum(w.steps.values()):,}"), sort="hosts", right=True),
        Column("DONE", 6, lambda w: _count(w, _DONE, "fits"), right=True),
        Column("FAILED", 6, lambda w: _count(w, _BAD, "refused"), right=True),
        Column("LEFT", 6, lambda w: _count(w, _LEFT, ""), right=True, rank=2),
        Column("GATE", 16, gate_cell, least=14, rank=1),
        Column("BAKE", 18, lambda w: bake_cell(w, now()), rank=3, grow=True),
    ]


def _count(wave: WaveView, states: Sequence[str], tone: str) -> Cell:
    n = sum(wave.steps.get(s, 0) for s in states)
    return Cell(f"{n:,}", tone if n else "quiet")


def gate_cell(wave: WaveView) -> Cell:
    """Return the gate's answer; before it judged, a dash."""
    answer = (wave.gate or {}).get("answer")
    return sign(str(answer)) if answer else Cell("–", "quiet")


def bake_cell(wave: WaveView, now: float) -> Cell:
    """Return how far the bake is."""
    if wave.state == "baking" and wave.baking_since is not None:
        left = max(wave.bake_s - (now - wave.baking_since), 0)
        return Cell(f"{bar(1 - left / wave.bake_s if wave.bake_s else 1, 8)} {ago(left)} left")
    return Cell(f"{ago(wave.bake_s)}", "quiet")


def step_columns(snapshot: Callable[[], Snapshot]) -> list[Column[StepView]]:
    """Return the columns of the hosts; the cost is that of the newest sample."""
    return [
        Column("HOST", 22, lambda s: Cell(s.host), least=14, sort="host"),
        Column("STATE", 15, lambda s: sign(s.state), sort="state"),
        Column("VARIANT", 9, lambda s: Cell(s.variant), sort="variant", rank=1),
        Column("WAVE", 4, lambda s: Cell(str(s.wave)), sort="wave", right=True, rank=3),
        Column("CPU", 7, lambda s: _cpu(snapshot().newest.get(s.host)), right=True, rank=2),
        Column("DETAIL", 18, lambda s: Cell(s.detail or "", "quiet"), sort="detail", rank=1, grow=True),
    ]


def _cpu(sample: SampleView | None) -> Cell:
    if sample is None or sample.cpu_percent is None:
        return Cell("–", "quiet")
    return Cell(f"{sample.cpu_percent:.2f} %", "refused" if sample.tripped else "")


def gate_lines(wave: WaveView | None) -> list[list[Cell]]:
    """Return the checks of a wave's gate, those that did not pass first."""
    gate = wave.gate if wave else None
    checks = [c for c in (gate or {}).get("checks", ()) if isinstance(c, Mapping)]
    if wave is None or not checks:
        return [[Cell("gate: not judged yet", "quiet")]]
    order = ["fail", "error", "inconclusive", "pass"]
    checks.sort(key=lambda c: order.index(str(c.get("answer"))) if c.get("answer") in order else 0)
    return [
        [sign(str(c.get("answer"))), Cell(str(c.get("name", ""))), Cell(str(c.get("detail", "")), "quiet")]
        for c in checks
    ]


def cost_lines(snapshot: Snapshot, wave: WaveView | None) -> list[list[Cell]]:
    """Return the worst newest sample of a wave against its budget, one line per limit."""
    samples = [s for s in snapshot.newest.values() if wave is None or s.wave == wave.number]
    measured = [s for s in samples if s.outcome == "ok"]
    if not measured:
        return [[Cell("cost: not measured yet", "quiet")]]
    budget = snapshot.plan.budget or Budget()
    lines: list[list[Cell]] = []
    for limit in LIMITS:
        seen = [(value, s.host) for s in measured if (value := limit.seen(s)) is not None]
        allowed = limit.allowed(budget)
        if not seen:
            lines.append([Cell(limit.name, width=14), Cell("– not measured by this build", "quiet")])
            continue
        worst, host = max(seen)
        tone = "refused" if worst > allowed else "degraded" if worst > 0.8 * allowed else "fits"
        share = worst / allowed if allowed else float(worst > 0)
        text = f"{worst:.3g} of {allowed:g} {limit.unit}"
        over = Cell("OVER", "refused") if worst > allowed else Cell("")
        lines.append([Cell(limit.name, width=14), Cell(bar(share, 8), tone), over, Cell(text), Cell(host, "quiet")])
    tripped = sum(s.tripped for s in samples)
    hosts = f"{len(measured):,} host{'s' if len(measured) != 1 else ''} measured"
    foot = [Cell(hosts, "quiet"), Cell(f"✕ {tripped} tripped" if tripped else "", "refused")]
    return [*lines, foot]
