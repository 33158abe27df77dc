"""``corollout policy``: compile network policies for the fleet, and ask them about one connection, before any host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from btf.fault import EXIT_NO
from fleet.cli.output import emit, emit_document, output_option
from fleet.cli.settings import Settings, pass_settings

_files = click.argument("files", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True)
_columns = {
    "host": "host",
    "id": "id",
    "dir": "dir",
    "action": "action",
    "cidr": "cidr",
    "proto": "proto",
    "port": "port",
    "origin": "origin",
}


@click.group()
def policy() -> None:
    """Compile network policies and ask them questions."""


@policy.command("compile")
@_files
@click.option("--host", "only", help="Only this host's table.")
@output_option
@pass_settings
def compile_files(settings: Settings, files: tuple[Path, ...], only: str | None, output: str) -> None:
    """Show the table that each host would get."""
    tables = _tables(settings, files)
    shown = {name: table for name, table in tables.items() if only in (None, name)}
    if output in ("json", "jsonl"):
        emit_document("policy", {"tables": shown})
        return
    rows = [{"host": name, **rule} for name, table in shown.items() for rule in table["rules"]]
    rows += [
        {"host": name, "dir": side, "action": action, "origin": "default"}
        for name, table in shown.items()
        for side, action in table["default"].items()
    ]
    emit("policy", sorted(rows, key=lambda r: (r["host"], r["dir"], r.get("id", 1 << 30))), _columns, output)


@policy.command("ask")
@_files
@click.option("--host", "name", required=True, help="The host that is asked.")
@click.option("--direction", type=click.Choice(["ingress", "egress"]), default="ingress", show_default=True)
@click.option("--remote", required=True, help="The other end's address.")
@click.option("--proto", type=click.Choice(["tcp", "udp", "sctp", "icmp"]), default="tcp", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), help="The destination port.")
@pass_settings
@click.pass_context
def ask(
    context: click.Context, settings: Settings, files: tuple[Path, ...], name: str, direction: str, remote: str,
    proto: str, port: int | None,
) -> None:  # fmt: skip
    """Would this connection pass? Says which rule decides; exit code 3 for no."""
    from fleet.policy import explain, judge

    with settings.record() as record:
        record.host(name)
    table = _tables(settings, files)[name]
    action, _rule = judge(table, direction, remote, proto, port)
    click.echo(explain(table, direction, remote, proto, port))
    if action != "allow":
        context.exit(EXIT_NO)


def _tables(settings: Settings, files: tuple[Path, ...]) -> dict[str, dict[str, Any]]:
    from fleet.policy import compile_policy, parse_policies

    documents = [document for file in files for document in parse_policies(file.read_bytes())]
    with settings.record() as record:
        hosts = list(record.definitions().values())
    return compile_policy(documents, hosts, audit=False)
