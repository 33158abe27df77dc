"""``corollout lab``: namespaced hosts with real differences on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from fleet.cli.output import emit, narrate, output_option
from fleet.cli.settings import Settings, pass_settings
from fleet.lab.namespaces import Lab

_number = click.option(
    "--number", type=click.IntRange(0, 255), default=77, show_default=True, help="Which lab: 198.18.N.0/24."
)


@click.group()
def lab() -> None:
    """Eight hosts that differ as real fleets do: no BTF, seccomp, no Python, a changed key, silence."""


@lab.command()
@_number
@click.option("--check", is_flag=True, help="Say what would be started; start nothing.")
@output_option
@pass_settings
def up(settings: Settings, number: int, output: str, *, check: bool) -> None:
    """Start the lab and print its inventory; `corollout hosts import` reads the file."""
    room = Lab(_folder(settings, number), number)
    if not check:
        inventory = room.up(lambda line: narrate(line, quiet=settings.quiet))
        narrate(f"lab: import it with `corollout hosts import {inventory}`", quiet=settings.quiet)
    rows = [{"name": h.name, "address": room.address(h), "traits": list(h.traits)} for h in room.hosts]
    emit("lab", rows, {"name": "name", "address": "address", "traits": "traits"}, output)


@lab.command()
@_number
@click.option("--check", is_flag=True, help="Say what is there; stop nothing.")
@pass_settings
def down(settings: Settings, number: int, *, check: bool) -> None:
    """Stop the lab and remove everything it made; also after an interrupted run."""
    room = Lab(_folder(settings, number), number)
    if check:
        narrate(f"lab {number}: " + (", ".join(room.standing()) or "nothing is there"))
    else:
        room.down()


def _folder(settings: Settings, number: int) -> Path:
    return settings.home / f"lab-{number}"
