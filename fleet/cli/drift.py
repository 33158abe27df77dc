"""``corollout drift``: hosts as they are held against what they should run; keeps the leases of what is wanted."""

from __future__ import annotations

import time
from typing import Any

import click

from btf.fault import EXIT_NO, EXIT_UNREACHABLE
from fleet.cli.drive import executors
from fleet.cli.hosts import selected
from fleet.cli.output import Progress, emit, narrate, output_option
from fleet.cli.settings import Settings, pass_settings

_COLUMNS = {
    "host": "host", "program": "program", "kind": "kind", "wanted": "wanted", "seen": "seen", "since": "since",
    "mend": "mend", "detail": "detail",
}  # fmt: skip


@click.command()
@click.option("--where", default="", help="Only hosts that this selector matches.")
@click.option("--parallel", default=32, show_default=True, type=click.IntRange(1, 512), help="Hosts at a time.")
@click.option("--every", "every_s", type=click.FloatRange(1, 86_400), help="Look again every so many seconds.")
@click.option("--foreign", is_flag=True, help="Also tell of BPF programs that are not ours.")
@click.option("--recorded", is_flag=True, help="Show what the last looks found; ask no host.")
@output_option
@pass_settings
@click.pass_context
def drift(
    context: click.Context, settings: Settings, where: str, parallel: int, every_s: float | None, output: str,
    *, foreign: bool, recorded: bool,
) -> None:  # fmt: skip
    """Which hosts do not run what they should? Exit code 3 when some do not, 4 when some could not be asked.

    Every look also extends the leases of programs that are wanted: with --every this is what keeps tracing programs on.
    """
    while True:
        away = [] if recorded else look(settings, where, parallel)
        rows = _rows(settings, where, foreign=foreign)
        emit("drift", rows, _COLUMNS, output, wide={"last seen": "last_seen"})
        for host, fault in away:
            narrate(f"{host}: not asked: {fault.code}: {fault.message}", quiet=settings.quiet)
        if every_s is None:
            break
        time.sleep(every_s)
    if any(row["kind"] != "foreign" for row in rows):
        context.exit(EXIT_NO)
    if away:
        context.exit(EXIT_UNREACHABLE)


def look(settings: Settings, where: str, parallel: int) -> list[tuple[str, Any]]:
    """Look at every host that should run something, or did; returns those that could not be asked, with the fault."""
    from fleet.rollout.drift.patrol import patrol

    with settings.record() as record:
        wanted = set(selected(record, where))
        noted = {view.difference.host for view in record.drift()}
        names = sorted(wanted & (set(record.assigned_hosts()) | noted | set(record.touched_hosts())))
        progress = Progress("drift", len(names), quiet=settings.quiet)
        looks = patrol(
            record, names, record.definitions(), executors(settings, record), parallel=parallel,
            on_look=lambda found: progress.step(found.host),
        )  # fmt: skip
        return [(found.host, found.fault) for found in looks if found.fault is not None]


def _rows(settings: Settings, where: str, *, foreign: bool) -> list[dict[str, Any]]:
    from fleet.rollout.drift.compare import KINDS

    with settings.record() as record:
        views = record.drift()
        wanted = set(selected(record, where)) if where else {v.difference.host for v in views}
    return [
        {
            "host": d.host, "program": d.program, "kind": d.kind, "wanted": d.wanted, "seen": d.seen,
            "detail": d.detail, "since": _when(v.first_seen), "last_seen": _when(v.last_seen),
            "mend": KINDS[d.kind].mend if d.kind in KINDS else "",
        }
        for v in views
        if (d := v.difference).host in wanted and (foreign or d.kind != "foreign")
    ]  # fmt: skip


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at))
