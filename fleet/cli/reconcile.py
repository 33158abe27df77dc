"""``corollout reconcile``: mend what drifted, by rollouts like any other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import click

from btf.fault import EXIT_NO, EXIT_UNREACHABLE
from fleet.cli.drift import look
from fleet.cli.drive import check_option, consent, drive, executors, yes_option
from fleet.cli.hosts import selected
from fleet.cli.output import emit, narrate, output_option
from fleet.cli.settings import Settings, pass_settings

if TYPE_CHECKING:
    from fleet.reconcile import Mends

_COLUMNS = {"host": "host", "program": "program", "kind": "kind", "mend": "mend", "plan": "plan", "why": "why"}


@click.command()
@click.option("--where", default="", help="Only hosts that this selector matches.")
@click.option("--parallel", default=32, show_default=True, type=click.IntRange(1, 512), help="Hosts at a time.")
@click.option(
    "--swap", type=click.Choice(["never", "upgrade", "any"]), default="upgrade", show_default=True,
    help="Which change of variant a changed kernel may bring.",
)  # fmt: skip
@click.option("--remove", is_flag=True, help="Also remove programs that no rollout put there.")
@yes_option
@check_option
@output_option
@pass_settings
@click.pass_context
def reconcile(
    context: click.Context, settings: Settings, where: str, parallel: int, swap: str, output: str, *, remove: bool,
    yes: bool, check: bool,
) -> None:  # fmt: skip
    """Look at every host, decide anew where kernels changed, and bring back what should run, with canaries and gates.

    Hosts of a rollout that has not ended are left to it. Exit code 3 when something is left.
    """
    away = look(settings, where, parallel)
    mends = _mends(settings, where, parallel, swap=swap, remove=remove)
    emit("reconcile", _rows(mends), _COLUMNS, output)
    for host, fault in away:
        narrate(f"{host}: not asked: {fault.code}: {fault.message}", quiet=settings.quiet)
    codes = [] if check else _carry_out(settings, mends, yes=yes)
    if any(codes):
        context.exit(max(codes))
    if mends.left or (check and (mends.plans or mends.removals)):
        context.exit(EXIT_NO)
    if away:
        context.exit(EXIT_UNREACHABLE)


def _mends(settings: Settings, where: str, parallel: int, *, swap: str, remove: bool) -> Mends:
    from fleet.reconcile import decide_anew, mend
    from inventory.connect import open_connection

    catalogue, archive = settings.catalogue(), settings.archive()
    with settings.record() as record:
        wanted = set(selected(record, where))
        differences = [d for v in record.drift() if (d := v.difference).host in wanted]
        changed = sorted({d.host for d in differences if d.kind == "kernel-changed"})
        if changed:
            known = record.definitions()
            narrate(f"{len(changed)} hosts run another kernel: scanning and deciding anew", quiet=settings.quiet)
            decide_anew(
                record, archive, catalogue.values(), changed, parallel=parallel,
                connect=lambda host: open_connection(host, hosts=known),
            )  # fmt: skip
        return mend(
            record, archive, settings.artefacts(), catalogue, differences, swap=cast("Any", swap), remove=remove
        )  # fmt: skip


def _carry_out(settings: Settings, mends: Mends, *, yes: bool) -> list[int]:
    """Remove, then roll out plan by plan; returns exit codes."""
    from fleet.reconcile import remove as remove_from

    codes = []
    if mends.removals:
        consent(f"remove {len(mends.removals)} programs", yes=yes)
        with settings.record() as record:
            faults = remove_from(record, executors(settings, record), mends.removals, settings.actor)
        for fault in faults:
            narrate(f"not removed: {fault}", quiet=settings.quiet)
        codes += [fault.exit for fault in faults]
    for plan in mends.plans:
        if not plan.hosts:
            continue
        consent(f"roll {plan.program} out again on {len(plan.hosts)} hosts in {len(plan.waves)} waves", yes=yes)
        with settings.record() as record:
            record.save_plan(plan, actor=settings.actor)
            rollout_id = record.create_rollout(plan.id, settings.actor)
        codes.append(drive(settings, rollout_id))
    return codes


def _rows(mends: Mends) -> list[dict[str, Any]]:
    planned = [
        {"host": h.host, "program": plan.program, "kind": "", "mend": f"apply {h.variant}", "plan": plan.id, "why": ""}
        for plan in mends.plans
        for h in plan.hosts
    ]
    skipped = [
        {"host": s.host, "program": plan.program, "kind": "", "mend": "", "plan": "", "why": f"{s.code}: {s.detail}"}
        for plan in mends.plans
        for s in plan.skipped
    ]
    removed = [
        {"host": host, "program": program, "kind": "extra", "mend": "remove", "plan": "", "why": ""}
        for host, program in mends.removals
    ]
    left = [
        {"host": d.host, "program": d.program, "kind": d.kind, "mend": "", "plan": "", "why": one.why}
        for one in mends.left
        if (d := one.difference)
    ]
    return sorted(planned + skipped + removed + left, key=lambda row: (row["host"], row["program"], row["kind"]))
