"""Plans as files: written with their digest, read back, shown; a plan is named by its id or by its file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from btf.fault import EXIT_USAGE, Fault
from fleet.cli.output import narrate, table

if TYPE_CHECKING:
    from fleet.record import Record
    from fleet.rollout.planning.plan import Plan

MAX_BYTES = 1 << 30


class PlanUnreadable(Fault):
    """A plan's file cannot be read or written."""

    code = "COR-PLN-012"
    exit = EXIT_USAGE
    remedy = "Name a file that `corollout plan --out FILE` wrote, or a plan's id: `corollout rollout plans`."


def find_plan(record: Record, name: str) -> Plan:
    """Return the plan that *name* is the file or the id of; raises PlanUnreadable, PlanMalformed, NotInRecord."""
    from fleet.rollout.planning.plan import read_plan

    path = Path(name)
    if not path.is_file():
        return read_plan(record.plan_text(name))
    try:
        if path.stat().st_size > MAX_BYTES:
            raise PlanUnreadable(f"{path} is larger than {MAX_BYTES} bytes")
        return read_plan(path.read_bytes())
    except OSError as error:
        raise PlanUnreadable(f"{path}: {error.strerror}") from None


def write_plan(plan: Plan, path: Path) -> None:
    """Write *plan* to *path*: all of it or nothing."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(plan.text() + b"\n")
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise PlanUnreadable(f"{path}: {error.strerror}") from None


def show_plan(plan: Plan) -> None:
    """Print who gets what in which wave, what that changes, and who is left out."""
    controls = set(plan.controls)
    rows = [
        [w.number, w.name, h.host, h.change, h.variant, h.build[7:19], _short(h.runs), f"{w.bake_s:g}",
         "control" if h.host in controls else ""]
        for w in plan.waves for h in w.hosts
    ]  # fmt: skip
    headings = ["wave", "name", "host", "change", "variant", "build", "runs", "bake s", "until then"]
    click.echo(table(rows, headings), nl=False)
    if plan.skipped:
        left = [[s.host, s.code, s.detail, _short(s.runs)] for s in plan.skipped]
        click.echo("\n" + table(left, ["left out", "why", "detail", "goes on running"]), nl=False)


def show_differences(before: Plan, after: Plan, output: str = "table") -> bool:
    """Print how *after* differs from *before*; returns whether it does. As a document: in place of nothing else."""
    from fleet.rollout.planning.changes import differences

    found = list(differences(before, after))
    if output in ("table", "wide") and found:
        rows = [[d.host, d.what, d.before, d.after] for d in found]
        click.echo(table(rows, ["host", "what", before.id, after.id]), nl=False)
    narrate(f"{len(found)} hosts are planned otherwise than in {before.id}" if found else f"as planned in {before.id}")
    return bool(found)


def _short(runs: str) -> str:
    variant, _, build = runs.partition(" ")
    return f"{variant} {build[7:19]}".strip()
