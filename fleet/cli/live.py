"""``corollout status``, ``records`` and ``console``: hosts as they are now, asked through the agent."""

from __future__ import annotations

import importlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click

from btf.fault import EXIT_UNREACHABLE, Fault
from fleet.cli.drive import chosen_way, executors, way_options
from fleet.cli.hosts import selected
from fleet.cli.output import emit, narrate, output_option, table
from fleet.cli.settings import Settings, pass_settings
from probes.catalogue import find_program
from probes.records import RecordMalformed, parse_record


@click.command()
@click.option("--where", default="", help="Only hosts that this selector matches.")
@click.option("--parallel", default=32, show_default=True, type=click.IntRange(1, 512))
@way_options
@output_option
@pass_settings
@click.pass_context
def status(
    context: click.Context, settings: Settings, where: str, parallel: int, via: str | None,
    ansible_inventory: Path | None, output: str,
) -> None:  # fmt: skip
    """Ask every host that should run something what it really runs, what that costs and what it counted."""
    way = chosen_way(via, ansible_inventory)
    with settings.record() as record:
        wanted = set(selected(record, where))
        names = sorted({a.host for a in record.assignments()} & wanted)
        hosts, factory = record.definitions(), executors(settings, record, way)

    def ask(name: str) -> tuple[str, Any]:
        try:
            with factory(hosts[name]) as executor:
                return name, executor.status()
        except Fault as fault:
            return name, fault

    with ThreadPoolExecutor(max_workers=parallel) as pool:
        answers = list(pool.map(ask, names))
    rows = [row for name, answer in answers for row in _rows(name, answer)]
    columns = {
        "host": "host", "program": "program", "variant": "variant", "state": "state", "cpu %": "cpu_percent",
        "ns/event": "ns_per_event", "events": "events", "lost": "lost", "detail": "detail",
    }  # fmt: skip
    wide = {"memory": "memory_bytes", "token": "token", "build": "build"}
    emit("status", rows, columns, output, wide=wide, key="programs")
    if output in ("table", "wide"):
        counted = [[r["host"], *(c.get(k) for k in _COUNTED)] for r in rows for c in r["counters"]]
        if counted:
            click.echo("\n" + table(counted, ["host", *_COUNTED]), nl=False)
    if any(isinstance(answer, Fault) for _, answer in answers):
        context.exit(EXIT_UNREACHABLE)


_COUNTED = ("rule_id", "dir", "action", "packets", "bytes")


def _rows(name: str, answer: Any) -> list[dict[str, Any]]:
    if isinstance(answer, Fault):
        return [{"host": name, "state": "unreachable", "detail": f"{answer.code}: {answer.message}", "counters": []}]
    rows = []
    for entry in answer.get("programs") or []:
        sample = entry.get("sample") or {}
        rows.append(
            {
                "host": name, "program": entry.get("program"), "variant": entry.get("variant"),
                "state": entry.get("state"), "detail": entry.get("reason"), "token": entry.get("token"),
                "build": str(entry.get("build"))[:19], "counters": entry.get("counters") or [],
                **{k: sample.get(k) for k in ("cpu_percent", "ns_per_event", "events", "lost", "memory_bytes")},
                "applied": entry.get("applied"), "observed": entry.get("observed"),
            }
        )  # fmt: skip
    return rows


@click.command()
@click.argument("host")
@click.argument("program")
@click.option("--since", type=int, help="The first records after this sequence number; default: the newest.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000))
@click.option("-o", "--output", type=click.Choice(["table", "jsonl"]), default="table", show_default=True)
@pass_settings
def records(settings: Settings, host: str, program: str, since: int | None, limit: int, output: str) -> None:
    """Show what PROGRAM on HOST has seen, newest last."""
    shape = find_program(program, settings.catalogue()).manifest.record
    with settings.record() as record:
        definition, factory = record.host(host).host, executors(settings, record)
    with factory(definition) as executor:
        lines = executor.records(program, since=since, limit=limit)
    seen, refused = [], []
    for line in lines:
        try:
            seen.append(parse_record(line, program, shape))
        except RecordMalformed as fault:
            refused.append(fault)
    if refused:
        narrate(f"{len(refused)} lines are no records and are left out; the first: {refused[0]}", quiet=settings.quiet)
    if output == "jsonl":
        sys.stdout.writelines(json.dumps(r) + "\n" for r in seen)
        return
    left_out = {"v", "program", "host", "fidelity", "mono_ns", "ts_ns", "ts_open_ns", "comm", "netns", "cgroup"}
    keys = list(dict.fromkeys(k for r in seen for k in r if k not in left_out))
    click.echo(table([[r.get(k) for k in keys] for r in seen], keys or ["no records"]), nl=False)


@click.command()
@click.option("--read-only", is_flag=True, help="Without the keys that ask for changes.")
@pass_settings
def console(settings: Settings, *, read_only: bool) -> None:
    """Fleet, matrix and rollouts, live. It only reads the record and writes requests."""
    settings.require_home()  # a missing record is a plain error, not a console that flashes up
    # By name, so that the command line does not depend on the console's libraries.
    importlib.import_module("fleet.console.app").run_console(settings.database, read_only=read_only)
