"""``corollout worker``: carry rollouts for a zone, beside other workers on one database."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

import click

from fleet.cli.drive import check_option, executors
from fleet.cli.output import narrate
from fleet.cli.settings import Settings, pass_settings


@click.command()
@click.option("--zone", "zones", multiple=True, help="A zone to serve; may be repeated. Default: hosts without a zone.")
@click.option("--database", "server", metavar="URL", help="postgresql://…, as before the verb.")
@click.option("--takeover-after", type=click.FloatRange(20.0), default=60.0, show_default=True, metavar="SECONDS",
              help="A worker that was silent for so long is taken for dead.")  # fmt: skip
@click.option(
    "--per-jump", type=click.IntRange(1), default=8, show_default=True, help="Connections through one jump host."
)
@click.option("--per-zone", type=click.IntRange(1), default=64, show_default=True, help="Connections into one zone.")
@check_option
@pass_settings
def worker(
    settings: Settings, zones: tuple[str, ...], server: str | None, takeover_after: float, per_jump: int,
    per_zone: int, *, check: bool,
) -> None:  # fmt: skip
    """Work until told to stop: carry the steps of hosts in these zones, lead rollouts that nobody leads, and take over
    from workers that fell silent."""
    from fleet.rollout.driving.worker import run_worker
    from fleet.rollout.execute.budget import Budget

    settings = settings.at(server)
    served = sorted(set(zones)) or [""]
    budget = Budget(per_jump=per_jump, per_zone=per_zone)
    if check:
        with settings.record() as record:
            names = ", ".join(f"{w.id} for {', '.join(map(repr, w.zones))}" for w in record.workers()) or "nobody"
        narrate(f"worker: would serve {', '.join(map(repr, served))} at {settings.place}; there is {names}")
        return
    settings.require_home()
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run_worker(
        settings.home, served, lambda record, rollout: executors(settings, record, record.way(rollout), budget),
        database=settings.database, stop=stop, takeover_s=takeover_after, on_event=_tell(settings),
        say=lambda line: narrate(line, quiet=settings.quiet),
    )  # fmt: skip


def _tell(settings: Settings) -> Callable[[Any], None]:
    """Return what narrates events, a line each."""
    from fleet.cli.watch_log import log_event

    def tell(event: Any) -> None:
        if line := log_event(event):
            narrate(line, quiet=settings.quiet)

    return tell
