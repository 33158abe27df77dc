"""``corollout kernels``: the kernel builds at hand and in the fleet, their BTF, and BTF brought from elsewhere.

All of it works on the archive alone; a record, when there is one, adds which hosts run what.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from btf.fault import EXIT_NO, EXIT_USAGE, Fault
from fleet.cli import kernel_sources
from fleet.cli.output import Progress, emit, emit_document, narrate, output_option
from fleet.cli.settings import Settings, pass_settings

if TYPE_CHECKING:
    from btf.archive.archive import Archive, Entry
    from btf.archive.importing import Brought
    from fleet.compatibility.check import KernelBtf
    from fleet.record import Record
    from fleet.record.views import KernelView


class KernelUnknown(Fault):
    """No kernel build of that id."""

    code = "COR-CLI-012"
    exit = EXIT_USAGE
    remedy = "`corollout kernels list -o wide` shows full ids; BTF serves exactly one build, so name it whole."


class NothingToImport(Fault):
    """Files that hold no BTF, as far as their names say."""

    code = "COR-CLI-022"
    exit = EXIT_USAGE
    remedy = "Name .btf, .btf.tar.xz, .ko, vmlinuz or vmlinux files, or folders that have some."


_OUTCOMES = {"added": "added", "already": "already there", "without": "without BTF", "refused": "refused"}
_TELLING = frozenset({"added", "refused"})


@click.group()
def kernels() -> None:
    """The kernel builds of the archive and the fleet, and their BTF."""


@contextlib.contextmanager
def _record(settings: Settings) -> Iterator[Record | None]:
    """Open the record when there is one."""
    if settings.has_record():
        with settings.record() as record:
            yield record
    else:
        yield None


@kernels.command("list")
@output_option
@pass_settings
def list_kernels(settings: Settings, output: str) -> None:
    """List kernel builds, most hosts first: those that hosts run, and those whose BTF is in the archive."""
    archive = settings.archive()
    with _record(settings) as record:
        views = record.kernels() if record else []
    rows = _rows(archive.list(), views, counted=record is not None)
    columns = {"release": "release", "arch": "arch", "hosts": "hosts", "btf": "btf", "from": "source", "os": "os"}
    wide = {"id": "id", "version": "version", "near, and not it": "near"}
    emit("kernels", rows, columns, output, wide=wide, key="kernels")


def _rows(entries: Sequence[Entry], views: Iterable[KernelView], *, counted: bool) -> list[dict[str, Any]]:
    from btf.archive.archive import KernelName
    from btf.archive.near_misses import near_misses

    known = {e.kernel_id: e for e in entries}
    rows = []
    for view in views:
        entry = known.pop(view.id, None)
        name = KernelName(view.release, view.version, view.arch)
        near = [] if entry else near_misses(entries, name)
        rows.append(_row(view.id, name, view.os_name, entry, hosts=view.hosts, near=near))
    hosts = 0 if counted else None
    rows += [_row(e.kernel_id, e.name, e.name.distribution, e, hosts=hosts, near=[]) for e in known.values()]
    return sorted(rows, key=lambda row: (-(row["hosts"] or 0), row["release"], row["id"]))


def _row(
    id_: str, name: Any, os_name: str, entry: Entry | None, *, hosts: int | None, near: list[str]
) -> dict[str, Any]:
    return {
        "id": id_, "release": name.release, "version": name.version, "arch": name.arch, "os": os_name, "hosts": hosts,
        "exact": entry.exact if entry else None, "btf_sha256": entry.sha256 if entry else None,
        "btf": entry.sha256[:12] if entry else "", "source": entry.source if entry else "",
        "how": entry.how if entry else None, "at": entry.at if entry else None, "near": near,
    }  # fmt: skip


@kernels.command("show")
@click.argument("kernel_id", metavar="KERNEL")
@output_option
@pass_settings
def show_kernel(settings: Settings, kernel_id: str, output: str) -> None:
    """Show one kernel build: its BTF and who gave it, its modules, which programs fit, and the hosts that run it.

    KERNEL is an id, the start of one, or a release, as long as only one kernel is meant.
    """
    archive = settings.archive()
    with _record(settings) as record:
        rows = _rows(archive.list(), record.kernels() if record else [], counted=record is not None)
        found = [r for r in rows if r["id"] == kernel_id] or [
            r for r in rows if kernel_id and (r["release"] == kernel_id or r["id"].startswith(kernel_id))
        ]
        if len(found) != 1:
            raise KernelUnknown(f"{len(found)} kernels are called {kernel_id!r}")
        (row,) = found
        hosts = _hosts(record, row["id"]) if record else []
    entry = archive.entry(row["id"])
    modules = [{"module": m.module, "sha256": m.sha256, "source": m.source} for m in archive.modules(entry.sha256)] if (
        entry
    ) else []  # fmt: skip
    programs = list(_programs(settings, kernel_sources.from_entry(archive, entry))) if entry else []
    if output in ("json", "jsonl"):
        emit_document("kernel", {"kernel": row, "modules": modules, "programs": programs, "hosts": hosts})
        return
    click.echo(f"{row['release'] or 'unnamed'} {row['arch']}  {row['id']}\n{row['version']}".rstrip())
    click.echo(f"BTF {entry.sha256}, {entry.size} bytes, from {entry.source}" if entry else "no BTF in the archive")
    for words in row["near"]:
        click.echo(f"  the archive has {words}")
    if modules:
        click.echo(f"modules: {', '.join(m['module'] for m in modules)}")
    if programs:
        emit("kernel", programs, {"program": "program", "verdict": "verdict", "because": "because"}, output)
    if hosts:
        emit("kernel", hosts, {"host": "name", "reach": "reach", "variants": "variants"}, output)


def _hosts(record: Record, kernel_id: str) -> list[dict[str, Any]]:
    from fleet.record.views import HostFilter

    views = record.hosts(HostFilter(kernel_id=kernel_id), limit=100_000)
    return [
        {"name": v.name, "reach": v.reach, "variants": dict(v.variants), "verdicts": dict(v.verdicts)} for v in views
    ]


def _programs(settings: Settings, kernel: KernelBtf) -> Iterator[dict[str, Any]]:
    """Check every program's CO-RE build against *kernel*, by its BTF alone."""
    from btf.objects.elf_object import read_object
    from fleet.compatibility.check import check_object
    from probes.catalogue import ArtefactMissing

    for name, program in sorted(settings.catalogue().items()):
        row = program.variant("core")
        with contextlib.suppress(ArtefactMissing):
            obj = read_object(program.build("core").files["object"].read_bytes())
            check = check_object(name, obj, kernel, optional=row.optional_programs if row else ())
            reasons = (*check.reasons, *(r for p in check.programs for r in p.reasons))
            because = next((r.detail for r in reasons if r.answer.value in ("no", "blocked")), "")
            yield {"program": name, "verdict": check.verdict.value, "because": because}


@kernels.command("import")
@click.argument("paths", metavar="FILE|DIR...", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--for", "kernel_id", help="Give the BTF to exactly this kernel build; you vouch that it is the same.")
@click.option("--check", is_flag=True, help="Read and match everything; keep nothing.")
@output_option
@pass_settings
@click.pass_context
def import_btf(
    context: click.Context, settings: Settings, paths: tuple[Path, ...], kernel_id: str | None, output: str,
    *, check: bool,
) -> None:  # fmt: skip
    """Bring BTF into the archive: kernel images, modules, raw BTF, .btf.tar.xz, or a tree of them as BTFHub has it.

    A file that names its kernel serves exactly that build. What is known by a release's name only is kept as such and
    serves no host until --for gives it to a build. Exit code 3: some file was refused; the others are imported.
    """
    from btf.archive.importing import Importer, files_under

    archive = settings.archive()
    if kernel_id is not None:
        if any(p.is_dir() for p in paths):
            raise click.UsageError("--for takes files: a folder has BTF of many kernels")
        kernel_id = _vouched(settings, archive, kernel_id)
    files = list(files_under(paths))
    if not files:
        raise NothingToImport(f"no BTF, module or kernel under {', '.join(map(str, paths))}")
    importer = Importer(archive, kernel_id=kernel_id, check=check)
    progress = Progress("imported" if not check else "checked", len(files), quiet=settings.quiet or len(files) < 2)
    done = []
    for path in files:
        brought = importer.bring(path)
        if brought.fault and len(files) == 1:
            raise brought.fault
        done.append(brought)
        progress.step(f"{path.name}: {brought.fault or brought.outcome}")
    if not check:
        _tell_record(settings, done)
    counts = Counter(b.outcome for b in done)
    narrate(", ".join(f"{n} {_OUTCOMES[o]}" for o, n in sorted(counts.items())), quiet=settings.quiet)
    rows = [
        _brought(b) for b in done if output in ("json", "jsonl") or b.outcome in ("added", "refused") or len(done) == 1
    ]
    columns = {"outcome": "outcome", "file": "file", "kernel": "kernel", "what": "what", "because": "because"}
    emit("kernels-import", rows, columns, output, wide={"btf": "sha256", "types": "types"}, key="files")
    if counts["refused"]:
        context.exit(EXIT_NO)


def _brought(brought: Brought) -> dict[str, Any]:
    fault = brought.fault
    return {
        "file": str(brought.path), "outcome": brought.outcome, "kernel": brought.kernel_id, "what": brought.subject,
        "sha256": brought.sha256, "types": brought.types,
        "code": fault.code if fault else None, "because": fault.message if fault else "",
    }  # fmt: skip


def _vouched(settings: Settings, archive: Archive, wanted: str) -> str:
    """Return the only kernel id, of the record or the archive, that is *wanted* or starts so."""
    with _record(settings) as record:
        known = {k.id for k in record.kernels()} if record else set()
    known |= {e.kernel_id for e in archive.list() if e.exact}
    found = {wanted} & known or {id_ for id_ in known if id_.startswith(wanted)}
    if len(found) == 1:
        return found.pop()
    raise KernelUnknown(f"{len(found)} kernels of the fleet and the archive are called {wanted!r}")


def _tell_record(settings: Settings, done: Iterable[Brought]) -> None:
    """Let the record know of BTF for kernels that its hosts run."""
    with _record(settings) as record:
        ids = {k.id for k in record.kernels()} if record else set()
        for brought in done:
            if record and brought.kernel_id in ids and brought.types and not brought.subject.startswith("module "):
                record.record_kernel_btf(brought.kernel_id, brought.sha256)


@kernels.command("diff")
@click.argument("old", metavar="A")
@click.argument("new", metavar="B")
@click.option("--type", "names", multiple=True, help="Show this struct, union, enum, typedef or function; repeatable.")
@click.option("--for", "obj", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="Only what the relocations of this object ask, and the types they name.")  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="Every change, and not only how many.")
@click.option("-o", "--output", type=click.Choice(("table", "json")), default="table", show_default=True,
              help="Format of the answer.")  # fmt: skip
@pass_settings
@click.pass_context
def diff(
    context: click.Context, settings: Settings, old: str, new: str, names: tuple[str, ...], obj: Path | None,
    output: str, *, everything: bool,
) -> None:  # fmt: skip
    """Say what differs between the types of kernels A and B: ids, releases, BTF files, images, or `running`.

    Exit code 0: no difference in what was asked; 3: there is one; with --for only what the object loses counts.
    """
    from fleet.cli.kernel_diff import compare, render

    archive = settings.archive()
    found = compare(kernel_sources.find(archive, old), kernel_sources.find(archive, new), names=names, path=obj,
                    everything=everything)  # fmt: skip
    if output == "json":
        emit_document("kernel-diff", found.document())
    else:
        click.echo("\n".join(render(found)))
    if found.differs:
        context.exit(EXIT_NO)
