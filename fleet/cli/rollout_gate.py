"""One gate's verdict with what it rests on: each check with the samples behind it, held against limit and controls."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import click

from btf.fault import EXIT_NO, Fault, printable
from fleet.cli.output import emit_document, table

if TYPE_CHECKING:  # the record loads SQLAlchemy, which a page of help needs not wait for
    from fleet.record import Record
    from fleet.record.rollout_views import SampleView, ServiceView

SHOWN = 40  # samples of one check; JSON has all
Row = dict[str, Any]


class NotJudged(Fault):
    """The wave has no verdict yet, or there is no such wave."""

    code = "COR-CLI-040"
    exit = EXIT_NO
    remedy = "`corollout rollout status ID` lists the waves and which of them were judged."


def show_gate(record: Record, rollout_id: str, number: int, output: str) -> None:
    """Write the verdict of wave *number*, check by check; raises NotJudged."""
    view = record.rollout(rollout_id)
    wave = next((w for w in view.waves if w.number == number), None)
    if wave is None or not wave.gate:
        raise NotJudged(f"{rollout_id}: wave {number} was not judged")
    checks = with_evidence(record, rollout_id, number, wave.gate)
    if output in ("json", "jsonl"):
        emit_document("gate", {"rollout": rollout_id, "wave": number, "gate": {**wave.gate, "checks": checks}})
        return
    head = f"{rollout_id}: wave {number} ({wave.name}) {wave.gate.get('answer')}: {wave.gate.get('reason')}"
    click.echo(printable(head, 1000))
    for check in checks:
        click.echo(printable(f"{check['name']}: {check['answer']}: {check['detail']}", 1000))
        rows = [[r["host"], _when(r["at"]), *(r.get(k) for k in _COLUMNS)] for r in check["rows"][:SHOWN]]
        if rows:
            text = table(rows, ["host", "time", *_COLUMNS])
            click.echo("".join(f"  {line}\n" for line in text.splitlines()), nl=False)
        if len(check["rows"]) > SHOWN:
            click.echo(f"  and {len(check['rows']) - SHOWN} more: -o json has all")


_COLUMNS = ("outcome", "value", "in", "control", "limit", "unit", "moment")


def with_evidence(record: Record, rollout_id: str, wave: int, gate: Mapping[str, Any]) -> list[Row]:
    """Return the gate's checks, each with ``rows``: one per sample it rests on, by host and time.

    A row has ``id host at outcome value limit unit control``; a round of asking a service also ``moment``, ``role`` and
    ``in``, the unit of its value where that is not the limit's.
    ``control`` is what controls showed at that time: the mean of their round, or the newest sample of an earlier build.
    """
    checks = [c for c in gate.get("checks") or () if isinstance(c, Mapping)]
    wanted = sorted({i for c in checks for i in c.get("samples") or ()})
    samples = {s.id: s for s in record.samples_named(wanted)}
    beside = [s for s in record.samples(rollout_id, wave=wave, limit=100_000) if s.outcome == "control"]
    rounds = {s.id: s for s in record.service_samples(rollout_id, wave)}
    found = []
    for check in checks:
        name, rows = str(check.get("name")), []
        if ids := check.get("service_samples"):
            rows = _rounds(name, [rounds[i] for i in ids if i in rounds])
        elif ids := check.get("samples"):
            rows = _costs(name, [samples[i] for i in ids if i in samples], beside)
        limit = {"limit": check.get("limit"), "unit": check.get("unit") or None}
        found.append({**check, "rows": [{**row, **limit} for row in rows]})
    return found


def _costs(name: str, samples: Sequence[SampleView], controls: Sequence[SampleView]) -> list[Row]:
    from fleet.rollout.gate import LIMITS

    seen = next((limit.seen for limit in LIMITS if limit.name == name), lambda _sample: None)
    rows = []
    for sample in sorted(samples, key=lambda s: (s.host, s.at, s.id)):
        newest = {c.host: value for c in controls if c.at <= sample.at and (value := seen(c)) is not None}
        beside = _round(fmean(newest.values()) if newest else None)
        row = {"id": sample.id, "host": sample.host, "at": sample.at, "outcome": sample.outcome}
        rows.append({**row, "value": _round(seen(sample)), "control": beside})
    return rows


def _rounds(name: str, samples: Sequence[ServiceView]) -> list[Row]:
    value, unit = {"service-latency": (_median_ms, "ms"), "service-tail": (_tail_ms, "ms")}.get(
        name, (_errors_percent, "% errors")
    )
    beside: dict[float, list[float]] = defaultdict(list)
    for sample in samples:
        if sample.role == "control" and (found := value(sample)) is not None:
            beside[sample.round].append(found)
    return [
        {"id": s.id, "host": s.host, "at": s.round, "outcome": s.outcome, "value": _round(value(s)), "moment": s.moment,
         "control": _round(fmean(beside[s.round])) if beside.get(s.round) and s.role != "control" else None,
         "role": s.role, "in": unit}
        for s in sorted(samples, key=lambda s: (s.host, s.round))
    ]  # fmt: skip


def _median_ms(sample: ServiceView) -> float | None:
    return None if sample.median_us is None else sample.median_us / 1000


def _tail_ms(sample: ServiceView) -> float | None:
    return None if sample.tail_us is None else sample.tail_us / 1000


def _errors_percent(sample: ServiceView) -> float | None:
    return 100 * sample.errors / sample.asked if sample.asked else None


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _when(at: float) -> str:
    return time.strftime("%H:%M:%SZ", time.gmtime(at))
