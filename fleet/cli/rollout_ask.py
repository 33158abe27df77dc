"""What a person may ask of a rollout: each verb writes a request, and drives only when nobody else does."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from btf.fault import EXIT_NO
from fleet.cli.drive import check_option, chosen_way, consent, drive, way_options, yes_option
from fleet.cli.output import narrate
from fleet.cli.settings import Settings, pass_settings
from fleet.rollout.machine.verbs import ARGUMENTS, VERBS, check_request


def _options(verb: str, command: Callable[..., None]) -> Callable[..., None]:
    """Give *command* one option for each argument that *verb* takes."""
    kinds: dict[str, dict[str, Any]] = {"wave": {"type": int}, "all": {"is_flag": True}, "skip_bake": {"is_flag": True}}
    for name in reversed(VERBS[verb].takes):
        row = ARGUMENTS[name]
        more = kinds.get(name, {"multiple": True} if row.many else {})
        command = click.option(f"--{name.replace('_', '-')}", name, help=row.help, **more)(command)
    return command


def _ask(verb: str, help_line: str, *, consented: bool) -> click.Command:
    """Make the verb that asks a rollout for *verb*."""

    @click.argument("rollout_id")
    @way_options
    @check_option
    @yes_option
    @pass_settings
    @click.pass_context
    def ask(
        context: click.Context, settings: Settings, /, rollout_id: str, via: str | None,
        ansible_inventory: Path | None, *, check: bool, yes: bool, **said: Any,
    ) -> None:  # fmt: skip
        from fleet.rollout.driving.controller import driver

        way = chosen_way(via, ansible_inventory)
        arguments = check_request(verb, said)
        with settings.record() as record:
            view = record.rollout(rollout_id)
            if check:
                from fleet.rollout.machine.answers import rehearse

                outcome = rehearse(record, rollout_id, verb, settings.actor, arguments)
                narrate(f"{rollout_id} is {view.state}; {verb} would be answered: {outcome}")
                return
            if consented:
                consent(f"{verb} {rollout_id} ({view.program}, {view.state})", yes=yes)
            request = record.request(rollout_id, verb, settings.actor, **arguments)
        if driver(view, time.time()) is not None:  # one that died holds its claim, and takes no request
            narrate(f"asked {view.controller}: {verb} {rollout_id} (request {request})", quiet=settings.quiet)
            return
        code = drive(settings, rollout_id, way=way)
        with settings.record() as record:
            outcome = next((r.outcome or "" for r in record.requests(rollout_id) if r.id == request), "")
        narrate(f"{verb} {rollout_id}: {outcome}", quiet=settings.quiet)
        context.exit(EXIT_NO if outcome.startswith("refused") else code)

    ask.__doc__ = help_line
    return click.command(verb)(_options(verb, ask))


# verb, what help says, whether it needs --yes off a terminal
_ASKED = (
    ("approve", "Let a rollout start whose policy asks for approval.", True),
    ("deny", "Do not let it start; it ends there.", False),
    ("pause", "Start no new step; what runs keeps running and is watched.", False),
    ("resume", "Go on after a pause, a halt or a freeze.", False),
    ("promote", "Go on to the next wave now, past a bake or an inconclusive gate; or without bakes.", True),
    ("freeze", "Leave hosts exactly as they are: no step, no undoing.", False),
    ("halt", "Stop, and leave hosts as they are: what bakes is failed by hand; or only a kernel build.", False),
    ("retry", "Try the failed and unreachable hosts again, or those named.", True),
    ("rollback", "Undo it, widest wave first, without a gate: everywhere, or the part that is named.", True),
    ("abort", "End a rollout that is not running; hosts stay as they are.", True),
    ("reconcile", "Look at every host of it again: carry out pending reverts, apply again what was lost.", True),
)
ASKS = [_ask(verb, line, consented=consented) for verb, line, consented in _ASKED]
