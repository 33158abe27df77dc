"""``corollout plan``: freeze what would be carried out, and show it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fleet.cli.hosts import selected
from fleet.cli.output import emit_document, narrate, output_option, table
from fleet.cli.settings import Settings, pass_settings
from probes.catalogue import find_program

# What a plan may change of a program's budget → the largest number a host's agent takes.
_LIMITS = {"cpu_percent": 6400.0, "ns_per_event": 1e9, "memory_mib": 65536.0, "loss_percent": 100.0}


def _limits(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, float]:
    found = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            found[name] = float(number)
            fits = 0 <= found[name] <= _LIMITS[name]
        except (ValueError, KeyError):
            fits = False
        if not fits:
            bounds = ", ".join(f"{known} up to {most:g}" for known, most in _LIMITS.items())
            raise click.BadParameter(f"{text!r} is no limit: NAME=NUMBER, {bounds}")
    return found


@click.command()
@click.argument("program")
@click.option("--where", default="", help="Only hosts that this selector matches.")
@click.option(
    "--policy",
    "policies",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    help="NetworkPolicy YAML for net-policy; may be repeated.",
)
@click.option("--audit", is_flag=True, help="Policies count and report, and let everything pass.")
@click.option(
    "--controller",
    "controllers",
    multiple=True,
    metavar="CIDR",
    help="Where hosts are managed from; their SSH stays open to it whatever policies say.",
)
@click.option("--scope", type=click.Choice(["host", "netns", "cgroup"]), help="Default: the program's first.")
@click.option(
    "--budget",
    "limits",
    multiple=True,
    metavar="NAME=NUMBER",
    callback=_limits,
    help=f"Another limit than the program's, for slower hosts: {', '.join(_LIMITS)}.",
)
@click.option("--waves", default="5,25,100", show_default=True, help="Rising percentages of feasible hosts.")
@click.option("--canary-bake", type=float, help="Seconds to watch wave 0.")
@click.option("--bake", type=float, help="Seconds to watch each later wave.")
@click.option("--parallel", type=click.IntRange(1, 512), help="Hosts at a time.")
@click.option("--try-unknown", is_flag=True, help="Let one canary per kernel build try where evidence is missing.")
@click.option("--check", is_flag=True, help="Show the plan; do not keep it.")
@output_option
@pass_settings
def plan(
    settings: Settings, program: str, where: str, policies: tuple[Path, ...], controllers: tuple[str, ...],
    scope: str | None, limits: dict[str, float], waves: str, canary_bake: float | None, bake: float | None,
    parallel: int | None, output: str, *, audit: bool, try_unknown: bool, check: bool,
) -> None:  # fmt: skip
    """Freeze who gets which build of PROGRAM in which wave. `corollout rollout start` takes the plan's id."""
    from fleet.prepare import Wishes, prepare
    from fleet.rollout.settings import WaveSettings

    given: dict[str, Any] = {"canary_bake_s": canary_bake, "bake_s": bake, "parallel": parallel}
    wave_settings = WaveSettings(
        percents=_percents(waves), try_unknown=try_unknown, **{k: v for k, v in given.items() if v is not None}
    )
    wishes = Wishes(
        settings=wave_settings, policies=tuple(p.read_bytes() for p in policies), audit=audit,
        controllers=controllers, scope=scope, limits=limits,
    )  # fmt: skip
    with settings.record() as record:
        found = find_program(program, settings.catalogue())
        made = prepare(record, settings.archive(), settings.artefacts(), found, selected(record, where), wishes)
        if not check:
            record.save_plan(made, actor=settings.actor)
    if output in ("json", "jsonl"):
        emit_document("plan", made.document())
        return
    rows = [[w.number, w.name, h.host, h.variant, h.build[7:19], f"{w.bake_s:g}"] for w in made.waves for h in w.hosts]
    click.echo(table(rows, ["wave", "name", "host", "variant", "build", "bake s"]), nl=False)
    if made.skipped:
        click.echo(
            "\n" + table([[s.host, s.code, s.detail] for s in made.skipped], ["left out", "why", "detail"]), nl=False
        )
    narrate(f"plan {made.id}" + ("" if check else f": `corollout rollout start {made.id}`"), quiet=settings.quiet)


def _percents(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of percentages", param_hint="--waves") from None
