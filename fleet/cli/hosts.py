"""``corollout init`` and ``hosts``: which hosts there are, and what each can really do."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import click

from btf.fault import EXIT_UNREACHABLE, EXIT_USAGE, Fault
from fleet.cli.output import Progress, emit, emit_document, narrate, output_option, table
from fleet.cli.settings import Settings, pass_settings

_COLUMNS = {"name": "name", "reach": "reach", "kernel": "release", "programs": "programs", "detail": "detail"}
_WIDE = {"zone": "zone", "arch": "arch", "os": "os", "kernel id": "kernel_id", "scanned": "scanned"}


class NothingSelected(Fault):
    """A selection matches no host."""

    code = "COR-CLI-011"
    exit = EXIT_USAGE
    remedy = "`corollout hosts list` shows names and labels."


@click.command()
@click.option("--check", is_flag=True, help="Say what would be made; make nothing.")
@pass_settings
def init(settings: Settings, *, check: bool) -> None:
    """Make a home: record, BTF archive, known_hosts. Safe to repeat."""
    from fleet.record import open_record

    if check:
        narrate(f"init: {settings.home} is there" if settings.has_record() else f"init: would make {settings.home}")
        return
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    open_record(settings.database, create=True).close()
    narrate(f"init: record at {settings.place}", quiet=settings.quiet)


@click.group()
def hosts() -> None:
    """Which hosts there are and what each can really do."""


@hosts.command("import")
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.option("--kind", type=click.Choice(["toml", "ansible", "ssh-config"]), help="Default: by the file's looks.")
@click.option("--check", is_flag=True, help="Say what would change; change nothing.")
@output_option
@pass_settings
def import_hosts(settings: Settings, source: Path, kind: str | None, output: str, *, check: bool) -> None:
    """Read hosts from a TOML file, an Ansible inventory or an ssh config. Nothing is removed."""
    from inventory.sources import load

    found = load(source, kind=cast("Any", kind))
    with settings.record() as record:
        if check:
            known = record.definitions()
            rows = [{"name": h.name, "change": _change(known.get(h.name), h)} for h in found]
        else:
            done = record.import_hosts(found, str(source), actor=settings.actor)
            rows = [
                {"name": name, "change": change}
                for change, names in (("added", done.added), ("changed", done.changed), ("unchanged", done.unchanged))
                for name in names
            ]
    emit("hosts-import", rows, {"name": "name", "change": "change"}, output)


@hosts.command("add")
@click.argument("name")
@click.option("--address", default="", help="Default: the name.")
@click.option("--port", default=22, show_default=True)
@click.option("--user", default="root", show_default=True)
@click.option("--key-file")
@click.option("--jump", help="Another host of the inventory to go through.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE")
@click.option("--check", is_flag=True, help="Check the host's definition; add nothing.")
@pass_settings
def add_host(settings: Settings, /, name: str, labels: tuple[str, ...], *, check: bool, **fields: Any) -> None:
    """Add one host by hand."""
    from inventory.host import Host

    pairs = dict(label.partition("=")[::2] for label in labels)
    host = Host(name=name, labels=pairs, **{**fields, "address": fields["address"] or name})
    if not check:
        with settings.record() as record:
            record.import_hosts([host], "by hand", actor=settings.actor)


@hosts.command("remove")
@click.argument("name")
@click.option("--check", is_flag=True, help="Say whether it is there; remove nothing.")
@pass_settings
def remove_host(settings: Settings, name: str, *, check: bool) -> None:
    """Forget a host; its audit stays. What runs on it keeps running: roll back first."""
    with settings.record() as record:
        if check:
            record.host(name)
        else:
            record.remove_host(name, actor=settings.actor)


@hosts.command("list")
@click.option("--where", default="", help='A selector: kernel~"5.4.*" and btf=no and not label:env=prod')
@output_option
@pass_settings
def list_hosts(settings: Settings, where: str, output: str) -> None:
    """List hosts with reach, kernel and what was chosen for each program."""
    with settings.record() as record:
        rows = [_row(view) for view in record.hosts_named(selected(record, where))]
    emit("hosts", rows, _COLUMNS, output, wide=_WIDE, key="hosts")


@hosts.command("show")
@click.argument("name")
@click.option("--facts", "only", default="", help="Only facts whose name starts with this.")
@output_option
@pass_settings
def show_host(settings: Settings, name: str, only: str, output: str) -> None:
    """Show one host with every fact and where it comes from."""
    with settings.record() as record:
        view, facts = record.host(name), record.facts(name)
    rows = [
        {"name": f.name, "answer": f.answer.value, "value": f.value, "errno": f.errno, "source": f.source, "raw": f.raw}
        for f in (facts.values() if facts else ())
        if f.name.startswith(only)
    ]
    if output in ("json", "jsonl"):
        emit_document("host", {"host": _row(view), "facts": rows})
        return
    click.echo(table([list(_row(view).values())[:5]], list(_row(view))[:5]))
    cells = [[r["name"], r["answer"], _short(r["value"]), r["errno"], r["source"]] for r in rows]
    click.echo(table(cells, ["fact", "answer", "value", "errno", "source"]), nl=False)


@hosts.command("scan")
@click.option("--where", default="", help="Only hosts that this selector matches.")
@click.option("--parallel", default=32, show_default=True, type=click.IntRange(1, 512), help="Hosts at a time.")
@click.option("--deadline", default=60.0, show_default=True, help="Seconds for one host.")
@click.option("--timeout", default=10.0, show_default=True, help="Seconds to connect.")
@click.option("--check", is_flag=True, help="Say which hosts would be asked; ask none.")
@output_option
@pass_settings
@click.pass_context
def scan_hosts(
    context: click.Context, settings: Settings, where: str, parallel: int, deadline: float, timeout: float,
    output: str, *, check: bool,
) -> None:  # fmt: skip
    """Ask hosts what they can really do, fetch each kernel's BTF once, and decide for every program."""
    from fleet.survey import decide, harvest, scan
    from inventory.connect import open_connection

    with settings.record() as record:
        known = record.definitions()
        names = selected(record, where)
        if not names:
            raise NothingSelected("no host matches" if where else "there are no hosts yet")
        if check:
            emit("hosts-scan", [{"name": n} for n in names], {"name": "name"}, output, key="hosts")
            return
        progress = Progress("scan", len(names), quiet=settings.quiet)

        def connect(host: Any) -> Any:
            return open_connection(host, hosts=known, timeout_s=timeout)

        begin = time.monotonic()
        outcomes = scan(
            record, [known[n] for n in names], connect=connect, parallel=parallel, deadline_s=deadline,
            on_outcome=lambda o: progress.step(f"{o.host.name}: {o.fault.message if o.fault else 'facts'}"),
        )  # fmt: skip
        archive = settings.archive()
        for kernel in harvest(record, archive, outcomes, connect=connect):
            what = f"from {kernel.host}" if kernel.sha256 else f"not from {kernel.host}: {kernel.fault}"
            narrate(f"btf {kernel.kernel_id[:12]}: {what}", quiet=settings.quiet)
        decided = decide(record, archive, settings.catalogue().values())
        narrate(f"decided {len(decided)} in {time.monotonic() - begin:.1f} s", quiet=settings.quiet)
        rows = [_row(view) for view in record.hosts_named(names)]
    emit("hosts-scan", rows, _COLUMNS, output, wide=_WIDE, key="hosts")
    if any(o.fault for o in outcomes):
        context.exit(EXIT_UNREACHABLE)


def selected(record: Any, where: str) -> list[str]:
    """Return the names of the hosts that the selector *where* matches, all when empty; sorted by name."""
    names: list[str] = record.host_names()
    if not where:
        return names
    from fleet.selection import matching

    chosen = matching(record, [where])[where]
    return [name for name in names if name in chosen]


def _row(view: Any) -> dict[str, Any]:
    chosen = [f"{p}={view.variants.get(p) or v}" for p, v in sorted(view.verdicts.items())]
    detail = f"{view.reach_code}: {view.reach_detail}" if view.reach_code else ""
    return {
        "name": view.name, "reach": view.reach, "release": view.release, "programs": chosen, "detail": detail,
        "zone": view.zone, "arch": view.arch, "os": view.os_name, "kernel_id": view.kernel_id,
        "scanned": _when(view.scanned_at), "boot_id": view.boot_id, "facts_digest": view.facts_digest,
        "reach_code": view.reach_code, "reach_detail": view.reach_detail,
        "verdicts": dict(view.verdicts), "variants": dict(view.variants), "labels": dict(view.host.labels),
    }  # fmt: skip


def _change(before: Any, after: Any) -> str:
    if before is None:
        return "added"
    return "unchanged" if before == after else "changed"


def _short(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _when(at: float | None) -> str:
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at))
