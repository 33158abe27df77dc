"""Driving a rollout from a command: consent, who reaches the hosts, narration, the exit code."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from btf.fault import EXIT_USAGE, EXIT_WAITS, Fault
from fleet.cli.output import narrate
from fleet.cli.settings import Settings
from fleet.cli.watch import narrated

yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
check_option = click.option("--check", is_flag=True, help="Say what would happen; touch nothing.")


def way_options(command: Any) -> Any:
    """Add the options that say how hosts are reached."""
    via = click.option(
        "--via",
        type=click.Choice(["ssh", "ansible"]),
        help="How hosts are reached; kept with the rollout. Default: ssh.",
    )
    inventory = click.option(
        "--ansible-inventory",
        type=click.Path(path_type=Path, exists=True),
        help="With --via ansible: your inventory, whose connection variables count.",
    )
    return via(inventory(command))


class NeedsYes(Fault):
    """A verb that changes hosts was given no consent."""

    code = "COR-CLI-014"
    exit = EXIT_USAGE
    remedy = "Add --yes, or --check to see what would happen."


class NoSuchWay(Fault):
    """An inventory for Ansible, and no Ansible."""

    code = "COR-CLI-015"
    exit = EXIT_USAGE
    remedy = "Add --via ansible, or leave --ansible-inventory away."


def chosen_way(via: str | None, inventory: Path | None) -> Any:
    """Return the way that was asked for, or None when nothing was; raises NoSuchWay."""
    from fleet.record.way_store import Way

    if inventory is not None and via != "ansible":
        raise NoSuchWay("--ansible-inventory is for --via ansible")
    return None if via is None else Way(via, str(inventory.absolute()) if inventory else None)


def executors(settings: Settings, record: Any, way: Any = None, budget: Any = None) -> Any:
    """Return the factory of ways to the agents of this home's hosts, over SSH unless *way* says otherwise.

    Connections stay within *budget*, by default one of its own.
    """
    if way is not None and way.via == "ansible":
        from fleet.rollout.execute.ansible import ansible_executors

        inventory = Path(way.inventory) if way.inventory else None
        return ansible_executors(
            record.definitions(), settings.artefacts(record), settings.home / "ansible", inventory=inventory
        )
    from fleet.rollout.execute.budget import Budget
    from fleet.rollout.execute.ssh import agent_executors

    hosts, room = record.definitions(), budget or Budget()
    return room.within(agent_executors(hosts, settings.artefacts(record), kept=room.kept), hosts)


def hand_over(settings: Settings, record: Any, rollout_id: str, way: Any = None) -> None:
    """Leave a new rollout to the workers, and say where nobody serves."""
    from fleet.rollout.driving.controller import alive

    if way is not None:
        record.set_way(rollout_id, way, settings.actor)
    record.request(rollout_id, "start", settings.actor)
    served = {zone for w in record.workers() if alive(w.id, w.silent_s) for zone in w.zones}
    narrate(
        f"{rollout_id}: left to the workers; `corollout rollout watch {rollout_id}` follows it", quiet=settings.quiet
    )
    for zone in record.rollout_zones(rollout_id):
        if zone not in served:
            narrate(f"{rollout_id}: no worker serves zone {zone!r} now: start `corollout worker --zone '{zone}'`")


def drive(settings: Settings, rollout_id: str, *, adopt: bool = False, hold: bool = False, way: Any = None) -> int:
    """Drive until it ends or waits, from now on by *way* if one is given; returns the exit code."""
    from fleet.rollout.driving.engine import run_rollout
    from fleet.rollout.states import exit_of, goes_on_by

    with settings.record() as record:
        if way is not None:
            record.set_way(rollout_id, way, settings.actor)
        factory = executors(settings, record, record.way(rollout_id))
    narrate(
        f"{rollout_id}: driving; Ctrl-C stops between two hosts, `corollout rollout go` goes on", quiet=settings.quiet
    )
    showing = nullcontext() if settings.quiet else narrated(settings, rollout_id, sys.stderr)
    with showing:
        state = run_rollout(
            settings.home, rollout_id, executor_factory=factory, adopt=adopt, hold=hold, database=settings.database
        )
    narrate(f"{rollout_id}: {state}", quiet=settings.quiet)
    with settings.record() as record:
        reason = record.rollout(rollout_id).reason
    code = exit_of(state, reason)
    if reason and code:
        narrate(f"{reason}; {goes_on_by(rollout_id, state, reason)}".rstrip("; "), quiet=settings.quiet)
    if code == EXIT_WAITS:
        narrate(f"it waits for a person: `corollout rollout status {rollout_id}`", quiet=settings.quiet)
    return code


def consent(what: str, *, yes: bool) -> None:
    """Return when a person agrees to *what*; raises NeedsYes where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise NeedsYes(f"{what}: not a terminal to ask at")
    click.confirm(f"{what}?", abort=True, err=True)
