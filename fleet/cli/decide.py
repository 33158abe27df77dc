"""``corollout explain``, ``report`` and ``plan``: what was decided, why, and what would follow from it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import msgspec

from btf.fault import EXIT_NO, EXIT_USAGE, Fault
from fleet.cli.hosts import selected
from fleet.cli.output import emit, emit_document, narrate, output_option, table
from fleet.cli.settings import Settings, pass_settings
from fleet.compatibility.verdict import Choice, Reason
from fleet.report.model import causes
from probes.catalogue import find_program

GLYPHS = {"fits": "●", "degraded": "▲", "blocked": "■", "refused": "✕", "unknown": "?"}


class NothingDecided(Fault):
    """No decision for that host and program."""

    code = "COR-CLI-013"
    exit = EXIT_USAGE
    remedy = "Scan the host first: `corollout hosts scan`."


@click.command()
@click.argument("subject", metavar="HOST|CODE")
@click.argument("program", required=False)
@click.option("--all", "everything", is_flag=True, help="Every requirement, not only those that decided.")
@output_option
@pass_settings
@click.pass_context
def explain(
    context: click.Context, settings: Settings, subject: str, program: str | None, output: str, *, everything: bool
) -> None:
    """Why HOST gets the variant of PROGRAM it gets: each variant, its requirements and their evidence.

    With an error code (COR-…) alone: what it means and what to do.
    """
    if program is None:
        _explain_code(subject, output)
        return
    with settings.record() as record:
        record.host(subject)
        choices = record.choices(find_program(program, settings.catalogue()).name, host=subject)
        view = record.host(subject)
    if not choices:
        reach = f"{view.reach_code}: {view.reach_detail}" if view.reach_code else view.reach
        raise NothingDecided(f"nothing is decided for {program} on {subject} ({reach})")
    choice = choices[0]
    if output in ("json", "jsonl"):
        emit_document("explain", {"choice": msgspec.to_builtins(choice)})
    else:
        click.echo(_in_words(choice, everything=everything), nl=False)
    if choice.variant is None:
        context.exit(EXIT_NO)


def _in_words(choice: Choice, *, everything: bool) -> str:
    lines = [f"{choice.host} · {choice.program}: {GLYPHS[choice.verdict]} {choice.summary}", ""]
    for assessment in choice.assessments:
        mark = "→" if assessment.variant == choice.variant else " "
        verdict = f"{GLYPHS[assessment.verdict]} {assessment.verdict} ({assessment.evidence})"
        lines.append(f"{mark} {assessment.variant}: {verdict}")
        if everything:
            lines += [_reason(reason, 0) for reason in assessment.reasons]
        else:
            lines += [_reason(cause.reason, cause.more) for cause in causes(assessment)]
            met = sum(r.answer == "yes" for r in assessment.reasons)
            lines.append(f"      {met} of {len(assessment.reasons)} requirements are met")
        if assessment.lost:
            lines.append(f"      does not give: {', '.join(assessment.lost)}")
    if choice.unlocks:
        lines += ["", "to get more: " + "; ".join(u.action for u in choice.unlocks)]
    return "\n".join(lines) + "\n"


def _reason(reason: Reason, more: int) -> str:
    optional = ", optional" if reason.requirement.optional else ""
    source = f" [{reason.source}]" if reason.source else ""
    others = f", and {more} more like it" if more else ""
    unlock = f"\n              unlock: {reason.unlock.action}" if reason.unlock else ""
    return f"      {reason.answer:<8}{reason.detail}{source} ({reason.evidence}{optional}){others}{unlock}"


def _explain_code(code: str, output: str) -> None:
    from fleet.cli.codes import all_codes

    codes = all_codes()
    if code not in codes:
        import difflib

        near = difflib.get_close_matches(code, codes, n=1, cutoff=0.7)
        raise click.UsageError(f"no error has the code {code}" + (f"; did you mean {near[0]}?" if near else ""))
    meaning = codes[code]
    if output in ("json", "jsonl"):
        emit_document("code", asdict(meaning))
    else:
        click.echo(f"{meaning.code}: {meaning.meaning}\n  → {meaning.remedy}\n  exit code {meaning.exit}")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Folder; default: reports/ in the home.")
@output_option
@pass_settings
def report(settings: Settings, out: Path | None, output: str) -> None:
    """Write one static page per kernel, an index and report.json; prints the paths."""
    from fleet.report.build import write_report
    from fleet.report.gather import gather

    folder = out or settings.home / "reports"
    with settings.record() as record:
        paths = write_report(gather(record, settings.catalogue()), folder)
    emit("report", [{"path": str(p)} for p in paths], {"path": "path"}, output)


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
