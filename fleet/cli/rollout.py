"""``corollout rollout``: carry out a plan, follow it, and say what should happen to it.

The process that runs ``start`` or ``go`` drives the rollout until it ends or waits. Every other verb writes a request;
whoever drives takes it, and when nobody does, this process takes over for as long as that needs.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from fleet.cli.drive import check_option, chosen_way, consent, drive, way_options, yes_option
from fleet.cli.output import narrate, table
from fleet.cli.rollout_ask import ASKS
from fleet.cli.rollout_look import LOOKS, counts
from fleet.cli.settings import Settings, pass_settings


@click.group()
def rollout() -> None:
    """Carry out a plan: start, watch, pause, halt, roll back."""


@rollout.command()
@click.argument("plan_id")
@way_options
@yes_option
@check_option
@pass_settings
@click.pass_context
def start(
    context: click.Context, settings: Settings, plan_id: str, via: str | None, ansible_inventory: Path | None, *,
    yes: bool, check: bool,
) -> None:  # fmt: skip
    """Start the rollout of a saved plan and drive it; a plan whose hosts changed since is refused."""
    from fleet.rollout.plan import load_plan, refuse_stale

    way = chosen_way(via, ansible_inventory)
    with settings.record() as record:
        made = load_plan(record.plan(plan_id).document)
        current = {v.name: (v.kernel_id, v.facts_digest) for v in record.hosts_named([h.host for h in made.hosts])}
        refuse_stale(made, current)
        if check:
            rows = [[w.number, w.name, len(w.hosts), f"{w.bake_s:g}"] for w in made.waves]
            click.echo(table(rows, ["wave", "name", "hosts", "bake s"]), nl=False)
            return
        consent(f"start {made.program} on {len(made.hosts)} hosts in {len(made.waves)} waves", yes=yes)
        rollout_id = record.create_rollout(plan_id, settings.actor)
    context.exit(drive(settings, rollout_id, way=way))


@rollout.command()
@click.argument("rollout_id")
@click.option("--adopt", is_flag=True, help="Go on from the record alone what another version of the engine began.")
@way_options
@check_option
@pass_settings
@click.pass_context
def go(
    context: click.Context, settings: Settings, rollout_id: str, via: str | None, ansible_inventory: Path | None, *,
    adopt: bool, check: bool,
) -> None:  # fmt: skip
    """Drive a rollout on from where it is: after a crash, a reboot or Ctrl-C."""
    way = chosen_way(via, ansible_inventory)
    if check:
        with settings.record() as record:
            steps = Counter(step.state for step in record.steps(rollout_id))
            narrate(f"{rollout_id} is {record.rollout(rollout_id).state}: {counts(steps)}")
        return
    context.exit(drive(settings, rollout_id, adopt=adopt, way=way))


for _command in (*LOOKS, *ASKS):
    rollout.add_command(_command)
