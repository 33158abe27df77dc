"""``corollout rollout start``: from a plan to a rollout, when the plan still is true."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fleet.cli.drive import check_option, chosen_way, consent, drive, hand_over, way_options, yes_option
from fleet.cli.output import narrate, table
from fleet.cli.plan_files import find_plan, show_differences
from fleet.cli.settings import Settings, pass_settings
from probes.catalogue import find_program

if TYPE_CHECKING:
    from fleet.record import Record
    from fleet.rollout.planning.plan import Plan


@click.command()
@click.argument("plan")
@click.option(
    "--replan", is_flag=True, help="Plan the same again for the hosts as they are now, and show what differs."
)
@click.option("--detach", is_flag=True, help="Leave it to the workers (`corollout worker`) instead of driving it.")
@way_options
@yes_option
@check_option
@pass_settings
@click.pass_context
def start(
    context: click.Context, settings: Settings, plan: str, via: str | None, ansible_inventory: Path | None, *,
    replan: bool, detach: bool, yes: bool, check: bool,
) -> None:  # fmt: skip
    """Start the rollout of PLAN, an id or a file, and drive it.

    A plan that was changed, whose hosts changed since, or whose artefacts are gone is refused.
    """
    from fleet.prepare import require_artefacts
    from fleet.rollout.planning.changes import summary
    from fleet.rollout.planning.stale import refuse_stale

    way = chosen_way(via, ansible_inventory)
    with settings.record() as record:
        made = find_plan(record, plan)
        if replan:
            before, made = made, _again(settings, record, made)
            show_differences(before, made)
        else:
            refuse_stale(made, record.current())
        artefacts = settings.artefacts(record)
        named = require_artefacts(made, artefacts)
        if check:
            rows = [[w.number, w.name, len(w.hosts), f"{w.bake_s:g}", w.window or made.settings.window]
                    for w in made.waves]  # fmt: skip
            click.echo(table(rows, ["wave", "name", "hosts", "bake s", "window"]), nl=False)
            narrate(f"{made.program}: {summary(made)}", quiet=settings.quiet)
            return
        consent(f"start {made.program} on {len(made.hosts)} hosts in {len(made.waves)} waves", yes=yes)
        record.save_plan(made, actor=settings.actor)
        if settings.server is not None:  # whoever carries it may be on another machine
            for digest in named:
                record.share_artefact(digest, artefacts.get(digest))
        rollout_id = record.create_rollout(made.id, settings.actor)
        if detach:
            hand_over(settings, record, rollout_id, way)
            return
    context.exit(drive(settings, rollout_id, way=way))


def _again(settings: Settings, record: Record, made: Plan) -> Plan:
    """Plan with the same settings and wishes for the hosts as they are now."""
    from fleet.prepare import prepare, wishes_of

    program = find_program(made.program, settings.catalogue())
    return prepare(record, settings.archive(), settings.artefacts(), program, made.settings, wishes_of(made))
