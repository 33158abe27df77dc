"""What a person may ask of a rollout: each verb writes a request, and drives only when nobody else does."""

from __future__ import annotations

import time
from pathlib import Path

import click

from fleet.cli.drive import check_option, chosen_way, consent, drive, way_options, yes_option
from fleet.cli.output import narrate
from fleet.cli.settings import Settings, pass_settings


def _ask(verb: str, help_line: str, *, consented: bool) -> click.Command:
    """Make the verb that asks a rollout for *verb*."""

    @click.argument("rollout_id")
    @way_options
    @check_option
    @yes_option
    @pass_settings
    @click.pass_context
    def ask(
        context: click.Context, settings: Settings, rollout_id: str, via: str | None, ansible_inventory: Path | None, *,
        check: bool, yes: bool,
    ) -> None:  # fmt: skip
        from fleet.rollout.controller import driver
        from fleet.rollout.states import VERBS

        way = chosen_way(via, ansible_inventory)
        with settings.record() as record:
            view = record.rollout(rollout_id)
            if check:
                possible = view.state in VERBS[verb].states
                narrate(
                    f"{rollout_id} is {view.state}: {verb} " + ("is possible" if possible else "would change nothing")
                )
                return
            if consented:
                consent(f"{verb} {rollout_id} ({view.program}, {view.state})", yes=yes)
            request = record.request(rollout_id, verb, settings.actor)
        if driver(view, time.time()) is not None:  # one that died holds its claim, and takes no request
            narrate(f"asked {view.controller}: {verb} {rollout_id} (request {request})", quiet=settings.quiet)
            return
        context.exit(drive(settings, rollout_id, way=way))

    ask.__doc__ = help_line
    return click.command(verb)(ask)


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
ASKS = [_ask(verb, line, consented=consented) for verb, line, consented in _ASKED]
