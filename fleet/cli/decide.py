"""``corollout explain`` and ``report``: what was decided and why."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
import msgspec

from btf.fault import EXIT_NO, EXIT_USAGE, Fault
from fleet.cli.output import emit, emit_document, output_option
from fleet.cli.settings import Settings, pass_settings
from fleet.compatibility.unlock import bootstrap
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
        if command := bootstrap(choice.unlocks):
            lines.append(f"  packages by Ansible: {command} -i INVENTORY --limit {choice.host}")
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
