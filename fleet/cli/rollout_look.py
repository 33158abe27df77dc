"""Looking at rollouts: plans, list, status, history, watch. Nothing here changes anything."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import click

from btf.fault import printable
from fleet.cli.output import emit, emit_document, output_option, table
from fleet.cli.rollout_gate import show_gate
from fleet.cli.settings import Settings, pass_settings
from fleet.cli.watch import watch


@click.command("plans")
@output_option
@pass_settings
def list_plans(settings: Settings, output: str) -> None:
    """List saved plans, newest first."""
    with settings.record() as record:
        rows = [
            {
                "id": p.id, "program": p.program, "created": _when(p.created_at), "digest": p.digest,
                "hosts": sum(len(w["hosts"]) for w in p.document["waves"]), "waves": len(p.document["waves"]),
            }
            for p in record.plans()
        ]  # fmt: skip
    columns = {c: c for c in ("id", "program", "hosts", "waves", "created")}
    emit("plans", rows, columns, output, wide={"digest": "digest"}, key="plans")


@click.command("list")
@output_option
@pass_settings
def list_rollouts(settings: Settings, output: str) -> None:
    """List rollouts, newest first, those that wait for a person marked."""
    with settings.record() as record:
        rows = [_summary(view) for view in record.rollouts()]
    columns = {c: c for c in ("id", "program", "state", "wave", "reason", "created")}
    emit("rollouts", rows, columns, output, wide={"controller": "controller", "plan": "plan"}, key="rollouts")


@click.command()
@click.argument("rollout_id")
@click.option("--gate", "gate", type=int, metavar="WAVE", help="That wave's gate instead: each check with its samples.")
@output_option
@pass_settings
@click.pass_context
def status(context: click.Context, settings: Settings, rollout_id: str, gate: int | None, output: str) -> None:
    """Show one rollout: waves, gates and the samples behind them, every host's step. Exit code by its state."""
    from fleet.rollout.driving.controller import driver
    from fleet.rollout.states import exit_of, goes_on_by

    if gate is not None:
        with settings.record() as record:
            show_gate(record, rollout_id, gate, output)
        return
    with settings.record() as record:
        view, steps = record.rollout(rollout_id), record.steps(rollout_id)
    if output in ("json", "jsonl"):
        emit_document("rollout", {"rollout": asdict(view), "steps": [asdict(s) for s in steps]})
    else:
        reason = f" ({view.reason})" if view.reason else ""
        click.echo(f"{view.id}: {view.program} {view.state}{printable(reason)}")
        if way := goes_on_by(view.id, view.state, view.reason):
            click.echo(way)
        waves = [[w.number, w.name, w.state, counts(w.steps), _gate(w.gate)] for w in view.waves]
        click.echo(table(waves, ["wave", "name", "state", "hosts", "gate"]))
        rows = [[s.wave, s.host, s.variant, s.state, s.token, s.attempts, s.detail] for s in steps]
        click.echo(table(rows, ["wave", "host", "variant", "state", "token", "tries", "detail"]), nl=False)
    context.exit(exit_of(view.state, view.reason) if driver(view, time.time()) is None else 0)


@click.command()
@click.argument("rollout_id")
@click.option("--limit", default=200, show_default=True)
@output_option
@pass_settings
def history(settings: Settings, rollout_id: str, limit: int, output: str) -> None:
    """Show the audit of one rollout: who did what to which host, with the fencing token."""
    with settings.record() as record:
        record.rollout(rollout_id)
        rows = [{**asdict(e), "when": _when(e.at)} for e in record.events(0, limit, rollout_id=rollout_id)]
    columns = {"when": "when", "actor": "actor", "verb": "verb", "host": "host", "from": "before", "to": "after",
               "token": "token", "detail": "detail"}  # fmt: skip
    emit("history", rows, columns, output, key="events")


def _summary(view: Any) -> dict[str, Any]:
    return {
        "id": view.id, "program": view.program, "state": view.state, "wave": view.wave, "reason": view.reason,
        "created": _when(view.created_at), "plan": view.plan_id, "controller": view.controller,
    }  # fmt: skip


def counts(steps: Any) -> str:
    """Step counts in words."""
    return ", ".join(f"{n} {state}" for state, n in sorted(steps.items()))


def _gate(gate: Any) -> str:
    return "" if not gate else str(gate.get("answer", ""))


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at))


LOOKS = [list_plans, list_rollouts, status, history, watch]
