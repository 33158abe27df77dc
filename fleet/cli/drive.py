"""Driving a rollout from a command: consent, who reaches the hosts, narration line by line, the exit code."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import click

from btf.fault import EXIT_USAGE, EXIT_WAITS, Fault
from fleet.cli.output import narrate
from fleet.cli.settings import Settings

yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
check_option = click.option("--check", is_flag=True, help="Say what would happen; touch nothing.")


class NeedsYes(Fault):
    """A verb that changes hosts was given no consent."""

    code = "COR-CLI-014"
    exit = EXIT_USAGE
    remedy = "Add --yes, or --check to see what would happen."


def executors(settings: Settings, record: Any) -> Any:
    """Return the factory of ways to the agents of this home's hosts."""
    from fleet.rollout.execute.ssh import agent_executors

    return agent_executors(record.definitions(), settings.artefacts())


def drive(settings: Settings, rollout_id: str, *, adopt: bool = False) -> int:
    """Drive until it ends or waits; returns the exit code."""
    from fleet.rollout.engine import exit_of, run_rollout

    with settings.record() as record:
        factory = executors(settings, record)
    narrate(
        f"{rollout_id}: driving; Ctrl-C stops between two hosts, `corollout rollout go` goes on", quiet=settings.quiet
    )
    follow: Callable[[Any], None] = (lambda _event: None) if settings.quiet else tell
    state = run_rollout(settings.home, rollout_id, executor_factory=factory, on_event=follow, adopt=adopt)
    narrate(f"{rollout_id}: {state}", quiet=settings.quiet)
    if exit_of(state) == EXIT_WAITS:
        narrate(f"it waits for a person: `corollout rollout status {rollout_id}`", quiet=settings.quiet)
    return exit_of(state)


def tell(event: Any) -> None:
    """Narrate one audit row; one that changed no state is silent."""
    if event.before is not None and event.before == event.after:
        return  # a touch of the row, not a change of state
    change = f"{event.before or '·'} → {event.after}" if event.after else ""
    parts = [time.strftime("%H:%M:%S", time.gmtime(event.at)), event.verb, event.host, change, event.detail]
    narrate("  ".join(str(p) for p in parts if p))


def consent(what: str, *, yes: bool) -> None:
    """Return when a person agrees to *what*; raises NeedsYes where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise NeedsYes(f"{what}: not a terminal to ask at")
    click.confirm(f"{what}?", abort=True, err=True)
