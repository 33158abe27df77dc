"""``corollout pin``, ``unpin`` and ``pins``: hosts that plans leave as they are, or give one variant."""

from __future__ import annotations

import time
from dataclasses import asdict

import click

from fleet.cli.output import emit, narrate, output_option
from fleet.cli.settings import Settings, pass_settings
from probes.catalogue import find_program
from probes.manifest import LADDER


@click.command()
@click.argument("host")
@click.argument("program")
@click.option("--variant", type=click.Choice(LADDER), help="Plans give it this one where its verdict allows.")
@click.option("--reason", default="", help="Why; plans and the audit repeat it.")
@click.option("--check", is_flag=True, help="Say what would change; change nothing.")
@pass_settings
def pin(settings: Settings, host: str, program: str, variant: str | None, reason: str, *, check: bool) -> None:
    """Hold HOST to what it runs of PROGRAM: plans leave it out until `corollout unpin`."""
    from fleet.survey import decide

    found = find_program(program, settings.catalogue())
    what = f"{host} to {variant}" if variant else f"{host} as it is"
    with settings.record() as record:
        record.host(host)
        if not check:
            record.pin(host, program, variant=variant, reason=reason, actor=settings.actor)
            decided = decide(record, settings.archive(), [found], hosts=[host]) if variant else []
            verdicts = [a.verdict.value for c in decided for a in c.assessments if a.variant == variant]
            what += f" ({', '.join(verdicts) or 'not decided'} there)" if variant else ""
    narrate(f"pin: {'would hold' if check else 'holds'} {what} for {program}", quiet=settings.quiet)


@click.command()
@click.argument("host")
@click.argument("program")
@click.option("--check", is_flag=True, help="Say what would change; change nothing.")
@pass_settings
def unpin(settings: Settings, host: str, program: str, *, check: bool) -> None:
    """Let plans decide for HOST and PROGRAM again."""
    with settings.record() as record:
        if check:
            held = any(p.host == host for p in record.pins(program))
            narrate(f"unpin: {host} is {'' if held else 'not '}pinned for {program}")
            return
        record.unpin(host, program, actor=settings.actor)
    narrate(f"unpin: plans decide for {host} and {program} again", quiet=settings.quiet)


@click.command()
@output_option
@pass_settings
def pins(settings: Settings, output: str) -> None:
    """List pinned hosts, by program and host."""
    with settings.record() as record:
        rows = [{**asdict(p), "since": time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(p.at))} for p in record.pins()]
    columns = {"program": "program", "host": "host", "variant": "variant", "reason": "reason", "by": "actor",
               "since": "since"}  # fmt: skip
    emit("pins", rows, columns, output, key="pins")
