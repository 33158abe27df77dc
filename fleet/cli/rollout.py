"""``corollout rollout``: carry out a plan, follow it, and say what should happen to it.

The process that runs ``start`` or ``go`` drives the rollout until it ends or waits. Every other verb writes a request;
whoever drives takes it, and when nobody does, this process takes over for as long as that needs.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from fleet.cli.drive import check_option, chosen_way, drive, way_options
from fleet.cli.output import narrate
from fleet.cli.rollout_ask import ASKS
from fleet.cli.rollout_look import LOOKS, counts
from fleet.cli.rollout_policy import rollout_policy
from fleet.cli.rollout_start import start
from fleet.cli.settings import Settings, pass_settings


@click.group()
def rollout() -> None:
    """Carry out a plan: start, watch, pause, halt, roll back."""


@rollout.command()
@click.argument("rollout_id")
@click.option("--adopt", is_flag=True, help="Go on from the record alone what another version of the engine began.")
@click.option("--hold", is_flag=True, help="Stay while it is paused or frozen: watch on, and keep leases.")
@way_options
@check_option
@pass_settings
@click.pass_context
def go(
    context: click.Context, settings: Settings, rollout_id: str, via: str | None, ansible_inventory: Path | None, *,
    adopt: bool, hold: bool, check: bool,
) -> None:  # fmt: skip
    """Drive a rollout on from where it is: after a crash, a reboot or Ctrl-C; undo what waits for hosts to be back."""
    way = chosen_way(via, ansible_inventory)
    if check:
        with settings.record() as record:
            steps = Counter(step.state for step in record.steps(rollout_id))
            narrate(f"{rollout_id} is {record.rollout(rollout_id).state}: {counts(steps)}")
        return
    context.exit(drive(settings, rollout_id, adopt=adopt, hold=hold, way=way))


for _command in (start, *LOOKS, *ASKS, rollout_policy):
    rollout.add_command(_command)
