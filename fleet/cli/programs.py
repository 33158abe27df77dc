"""``corollout programs``: what can be rolled out, in which variants, at which budget."""

from __future__ import annotations

import click
import msgspec

from fleet.cli.output import emit, emit_document, output_option, table
from fleet.cli.settings import Settings, pass_settings
from probes.catalogue import ArtefactMissing, Program, find_program


@click.group()
def programs() -> None:
    """The programs at hand and what each needs."""


@programs.command("list")
@output_option
@pass_settings
def list_programs(settings: Settings, output: str) -> None:
    """List the catalogue: ours, and the folders given with --programs."""
    rows = [
        {
            "name": program.name,
            "kind": program.manifest.kind,
            "version": program.manifest.version,
            "variants": list(program.ladder),
            "scopes": list(program.manifest.scopes),
            "summary": program.manifest.summary,
            "folder": str(program.folder),
        }
        for program in sorted(settings.catalogue().values(), key=lambda p: p.name)
    ]
    columns = {"name": "name", "kind": "kind", "variants": "variants", "summary": "summary"}
    emit("programs", rows, columns, output, wide={"version": "version", "scopes": "scopes", "folder": "folder"})


@programs.command("show")
@click.argument("name")
@output_option
@pass_settings
def show_program(settings: Settings, name: str, output: str) -> None:
    """Show one program: variants with their digests, budget, what each variant does not give."""
    program = find_program(name, settings.catalogue())
    variants = [_variant(program, variant) for variant in program.ladder]
    if output in ("json", "jsonl"):
        emit_document("program", {"manifest": msgspec.to_builtins(program.manifest), "variants": variants})
        return
    manifest = program.manifest
    click.echo(f"{manifest.name} {manifest.version} ({manifest.kind}): {manifest.summary}")
    click.echo(
        f"budget: {manifest.budget.cpu_percent:g} % of one core, {manifest.budget.ns_per_event:g} ns per event, "
        f"{manifest.budget.memory_mib:g} MiB, {manifest.budget.loss_percent:g} % lost; then {manifest.budget.action}"
    )
    headings = ["variant", "build", "needs", "does not give"]
    click.echo(table([[v["variant"], v["build"], v["requires"], v["gaps"]] for v in variants], headings), nl=False)


def _variant(program: Program, name: str) -> dict[str, object]:
    row = program.variant(name)
    try:
        digest = program.build(name).digest[:19]
    except ArtefactMissing:
        digest = "not built"
    assert row is not None
    return {"variant": name, "build": digest, "requires": list(row.requires), "gaps": list(row.gaps)}
