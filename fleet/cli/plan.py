"""``corollout plan``: freeze what would be carried out, and show it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from btf.fault import EXIT_NO
from fleet.cli.output import narrate, output_option
from fleet.cli.plan_files import find_plan, show_differences, show_plan, write_plan
from fleet.cli.rollout_policy import policy_option, read_policy_file
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
@policy_option
@click.option(
    "--waves", metavar="LIST",
    help="Instead of the policy's: rising percentages of feasible hosts, counts (+3), zone:NAME. Default: 5,25,100.",
)  # fmt: skip
@click.option("--canary-bake", "canary_bake_s", type=float, help="Seconds to watch wave 0.")
@click.option("--bake", "bake_s", type=float, help="Seconds to watch each later wave.")
@click.option("--parallel", type=click.IntRange(1, 512), help="Hosts at a time.")
@click.option("--window", help='When hosts may be changed, for example "Mon-Fri 22:00-04:00 Europe/Berlin".')
@click.option("--exclude", metavar="SELECTOR", help="Leave these hosts out.")
@click.option("--controls", "control_hosts", type=click.IntRange(0), help="Hosts kept to compare with, per kernel.")
@click.option("--try-unknown", is_flag=True, help="Let one canary per kernel build try where evidence is missing.")
@click.option("--include-unchanged", is_flag=True, help="Plan hosts too that run exactly this already.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the plan to this file, too.")
@click.option("--diff", "other", metavar="PLAN", help="Show how it differs from this plan, by id or file.")
@click.option("--exit-code", is_flag=True, help="Exit with 3 when it changes a host; with --diff: when plans differ.")
@click.option("--check", is_flag=True, help="Show the plan; do not keep it.")
@output_option
@pass_settings
@click.pass_context
def plan(
    context: click.Context, settings: Settings, /, program: str, where: str, policies: tuple[Path, ...],
    controllers: tuple[str, ...], scope: str | None, limits: dict[str, float], policy_file: Path | None,
    waves: str | None, out: Path | None, other: str | None, output: str, *, audit: bool, exit_code: bool, check: bool,
    **given: Any,
) -> None:  # fmt: skip
    """Freeze who gets which build of PROGRAM in which wave, and show what that changes on each host.

    `corollout rollout start` takes the plan's id or its file. With --diff, PROGRAM may be a plan as well.
    """
    from fleet.prepare import Wishes, prepare
    from fleet.rollout.planning.changes import changes_anything, summary
    from fleet.rollout.planning.policy_file import settings_of

    set_here = {k: v for k, v in given.items() if v is not None and v is not False}
    if waves is not None:
        set_here["waves"] = _waves(waves)
    wave_settings = settings_of({**read_policy_file(policy_file), **set_here})
    wishes = Wishes(
        where=where, policies=tuple(p.read_bytes() for p in policies), audit=audit, controllers=controllers,
        scope=scope, limits=limits,
    )  # fmt: skip
    with settings.record() as record:
        before = find_plan(record, other) if other is not None else None
        catalogue = settings.catalogue()
        if before is not None and program not in catalogue:
            made, check = find_plan(record, program), True
        else:
            found = find_program(program, catalogue)
            made = prepare(record, settings.archive(), settings.artefacts(), found, wave_settings, wishes)
        if not check:
            record.save_plan(made, actor=settings.actor)
    if out is not None and not check:
        write_plan(made, out)
    changed = changes_anything(made)
    if output in ("json", "jsonl"):
        click.echo(made.text())
    elif before is None:
        show_plan(made)
    if before is not None:
        changed = show_differences(before, made, output)
    narrate(f"{made.program}: {summary(made)}", quiet=settings.quiet)
    narrate(f"plan {made.id}" + ("" if check else f": `corollout rollout start {made.id}`"), quiet=settings.quiet)
    if exit_code and changed:
        context.exit(EXIT_NO)


def _waves(text: str) -> list[dict[str, str]]:
    """``5,25,100`` are percentages; ``+3`` are three hosts more; all else is as in a rollout policy."""
    takes = [part.strip() for part in text.split(",")]
    if not all(takes):
        raise click.BadParameter(f"{text!r} is not a list of waves", param_hint="--waves")
    return [
        {"take": take[1:] if take.startswith("+") else f"{take}%" if take[0].isdigit() and take[-1] != "%" else take}
        for take in takes
    ]
