"""``corollout rollout``: carry out a plan, follow it, and say what should happen to it.

The process that runs ``start`` or ``go`` drives the rollout until it ends or waits. Every other verb writes a request;
whoever drives takes it, and when nobody does, this process takes over for as long as that needs.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click

from btf.fault import EXIT_USAGE, EXIT_WAITS, Fault, printable
from fleet.cli.output import emit, emit_document, narrate, output_option, table
from fleet.cli.settings import Settings, pass_settings

WATCH_S = 0.5


class NeedsYes(Fault):
    """A verb that changes hosts was given no consent."""

    code = "COR-CLI-014"
    exit = EXIT_USAGE
    remedy = "Add --yes, or --check to see what would happen."


_yes = click.option("--yes", is_flag=True, help="Do not ask.")
_check = click.option("--check", is_flag=True, help="Say what would happen; touch nothing.")


@click.group()
def rollout() -> None:
    """Carry out a plan: start, watch, pause, halt, roll back."""


@rollout.command()
@click.argument("plan_id")
@_yes
@_check
@pass_settings
@click.pass_context
def start(context: click.Context, settings: Settings, plan_id: str, *, yes: bool, check: bool) -> None:
    """Start the rollout of a saved plan and drive it; a plan whose hosts changed since is refused."""
    from fleet.rollout.plan import load_plan, refuse_stale

    with settings.record() as record:
        made = load_plan(record.plan(plan_id).document)
        current = {v.name: (v.kernel_id, v.facts_digest) for v in record.hosts_named([h.host for h in made.hosts])}
        refuse_stale(made, current)
        if check:
            rows = [[w.number, w.name, len(w.hosts), f"{w.bake_s:g}"] for w in made.waves]
            click.echo(table(rows, ["wave", "name", "hosts", "bake s"]), nl=False)
            return
        _consent(f"start {made.program} on {len(made.hosts)} hosts in {len(made.waves)} waves", yes=yes)
        rollout_id = record.create_rollout(plan_id, settings.actor)
    context.exit(_drive(settings, rollout_id))


@rollout.command()
@click.argument("rollout_id")
@click.option("--adopt", is_flag=True, help="Go on from the record alone what another version of the engine began.")
@_check
@pass_settings
@click.pass_context
def go(context: click.Context, settings: Settings, rollout_id: str, *, adopt: bool, check: bool) -> None:
    """Drive a rollout on from where it is: after a crash, a reboot or Ctrl-C."""
    if check:
        with settings.record() as record:
            steps = Counter(step.state for step in record.steps(rollout_id))
            narrate(f"{rollout_id} is {record.rollout(rollout_id).state}: {_counts(steps)}")
        return
    context.exit(_drive(settings, rollout_id, adopt=adopt))


@rollout.command("plans")
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


@rollout.command("list")
@output_option
@pass_settings
def list_rollouts(settings: Settings, output: str) -> None:
    """List rollouts, newest first, those that wait for a person marked."""
    with settings.record() as record:
        rows = [_summary(view) for view in record.rollouts()]
    columns = {c: c for c in ("id", "program", "state", "wave", "reason", "created")}
    emit("rollouts", rows, columns, output, wide={"controller": "controller", "plan": "plan"}, key="rollouts")


@rollout.command()
@click.argument("rollout_id")
@output_option
@pass_settings
@click.pass_context
def status(context: click.Context, settings: Settings, rollout_id: str, output: str) -> None:
    """Show one rollout: waves, gates and the samples behind them, every host's step. Exit code by its state."""
    from fleet.rollout.controller import driver
    from fleet.rollout.engine import exit_of

    with settings.record() as record:
        view, steps = record.rollout(rollout_id), record.steps(rollout_id)
    if output in ("json", "jsonl"):
        emit_document("rollout", {"rollout": asdict(view), "steps": [asdict(s) for s in steps]})
    else:
        reason = f" ({view.reason})" if view.reason else ""
        click.echo(f"{view.id}: {view.program} {view.state}{printable(reason)}")
        waves = [[w.number, w.name, w.state, _counts(w.steps), _gate(w.gate)] for w in view.waves]
        click.echo(table(waves, ["wave", "name", "state", "hosts", "gate"]))
        rows = [[s.wave, s.host, s.variant, s.state, s.token, s.attempts, s.detail] for s in steps]
        click.echo(table(rows, ["wave", "host", "variant", "state", "token", "tries", "detail"]), nl=False)
    context.exit(exit_of(view.state) if driver(view, time.time()) is None else 0)


@rollout.command()
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


@rollout.command()
@click.argument("rollout_id")
@click.option("--timeout", default=0.0, help="Stop watching after this many seconds; 0: when it ends.")
@pass_settings
@click.pass_context
def watch(context: click.Context, settings: Settings, rollout_id: str, timeout: float) -> None:
    """Follow a rollout line by line until it ends or waits; changes nothing."""
    from fleet.rollout.controller import driver
    from fleet.rollout.engine import exit_of

    begin, seen = time.monotonic(), 0
    with settings.record() as record:
        while True:
            view = record.rollout(rollout_id)
            for event in record.events(seen, 1000, rollout_id=rollout_id):
                seen = event.id
                _tell(event)
            if driver(view, time.time()) is None or (timeout and time.monotonic() - begin > timeout):
                break
            time.sleep(WATCH_S)
    context.exit(exit_of(view.state))


def _ask(verb: str, help_line: str, *, consent: bool) -> click.Command:
    """Make the verb that asks a rollout for *verb*."""

    @click.argument("rollout_id")
    @_check
    @_yes
    @pass_settings
    @click.pass_context
    def ask(context: click.Context, settings: Settings, rollout_id: str, *, check: bool, yes: bool) -> None:
        from fleet.rollout.controller import driver
        from fleet.rollout.states import VERBS

        with settings.record() as record:
            view = record.rollout(rollout_id)
            if check:
                possible = view.state in VERBS[verb].states
                narrate(
                    f"{rollout_id} is {view.state}: {verb} " + ("is possible" if possible else "would change nothing")
                )
                return
            if consent:
                _consent(f"{verb} {rollout_id} ({view.program}, {view.state})", yes=yes)
            request = record.request(rollout_id, verb, settings.actor)
        if driver(view, time.time()) is not None:  # one that died holds its claim, and takes no request
            narrate(f"asked {view.controller}: {verb} {rollout_id} (request {request})", quiet=settings.quiet)
            return
        context.exit(_drive(settings, rollout_id))

    ask.__doc__ = help_line
    return rollout.command(verb)(ask)


# verb, what help says, whether it needs --yes off a terminal
_ASKED = (
    ("pause", "Start no new step; what runs keeps running and is watched.", False),
    ("resume", "Go on after a pause.", False),
    ("promote", "Go on to the next wave now, past a bake or an inconclusive gate.", True),
    ("halt", "Stop, and leave hosts as they are.", False),
    ("retry", "Try the failed and unreachable hosts again.", True),
    ("rollback", "Undo it on every host, widest wave first; needs no gate.", True),
    ("abort", "End a rollout that is not running; hosts stay as they are.", True),
)
for _verb, _line, _consented in _ASKED:
    _ask(_verb, _line, consent=_consented)


def executors(settings: Settings, record: Any) -> Any:
    """Return the factory of ways to the agents of this home's hosts."""
    from fleet.rollout.execute.ssh import agent_executors

    return agent_executors(record.definitions(), settings.artefacts())


def _drive(settings: Settings, rollout_id: str, *, adopt: bool = False) -> int:
    """Drive until it ends or waits; returns the exit code."""
    from fleet.rollout.engine import exit_of, run_rollout

    with settings.record() as record:
        factory = executors(settings, record)
    narrate(
        f"{rollout_id}: driving; Ctrl-C stops between two hosts, `corollout rollout go` goes on", quiet=settings.quiet
    )
    follow: Callable[[Any], None] = (lambda _event: None) if settings.quiet else _tell
    state = run_rollout(settings.home, rollout_id, executor_factory=factory, on_event=follow, adopt=adopt)
    narrate(f"{rollout_id}: {state}", quiet=settings.quiet)
    if exit_of(state) == EXIT_WAITS:
        narrate(f"it waits for a person: `corollout rollout status {rollout_id}`", quiet=settings.quiet)
    return exit_of(state)


def _tell(event: Any) -> None:
    if event.before is not None and event.before == event.after:
        return  # a touch of the row, not a change of state
    change = f"{event.before or '·'} → {event.after}" if event.after else ""
    parts = [time.strftime("%H:%M:%S", time.gmtime(event.at)), event.verb, event.host, change, event.detail]
    narrate("  ".join(str(p) for p in parts if p))


def _consent(what: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise NeedsYes(f"{what}: not a terminal to ask at")
    click.confirm(f"{what}?", abort=True, err=True)


def _summary(view: Any) -> dict[str, Any]:
    return {
        "id": view.id, "program": view.program, "state": view.state, "wave": view.wave, "reason": view.reason,
        "created": _when(view.created_at), "plan": view.plan_id, "controller": view.controller,
    }  # fmt: skip


def _counts(steps: Any) -> str:
    return ", ".join(f"{n} {state}" for state, n in sorted(steps.items()))


def _gate(gate: Any) -> str:
    return "" if not gate else str(gate.get("answer", ""))


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at))
