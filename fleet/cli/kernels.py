"""``corollout kernels``: the kernel builds of the fleet, their BTF, and BTF brought from elsewhere."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from btf.fault import EXIT_USAGE, Fault
from fleet.cli.output import emit, emit_document, narrate, output_option
from fleet.cli.settings import Settings, pass_settings


class KernelUnknown(Fault):
    """No kernel build of that id."""

    code = "COR-CLI-012"
    exit = EXIT_USAGE
    remedy = "`corollout kernels list -o wide` shows full ids; BTF serves exactly one build, so name it whole."


@click.group()
def kernels() -> None:
    """The kernel builds of the fleet and their BTF."""


@kernels.command("list")
@output_option
@pass_settings
def list_kernels(settings: Settings, output: str) -> None:
    """List kernel builds, most hosts first."""
    with settings.record() as record:
        rows = [{**asdict(view), "btf": (view.btf_sha256 or "")[:12]} for view in record.kernels()]
    columns = {"release": "release", "arch": "arch", "hosts": "hosts", "btf": "btf", "os": "os_name"}
    emit("kernels", rows, columns, output, wide={"id": "id", "version": "version"}, key="kernels")


@kernels.command("show")
@click.argument("kernel_id")
@output_option
@pass_settings
def show_kernel(settings: Settings, kernel_id: str, output: str) -> None:
    """Show one kernel build: its hosts, and what was chosen for them. A unique start of the id is enough."""
    from fleet.record.views import HostFilter

    with settings.record() as record:
        found = [k for k in record.kernels() if k.id.startswith(kernel_id)]
        if len(found) != 1:
            raise KernelUnknown(f"{len(found)} kernels start with {kernel_id!r}")
        views = record.hosts(HostFilter(kernel_id=found[0].id), limit=100_000)
    rows = [
        {"name": v.name, "reach": v.reach, "variants": dict(v.variants), "verdicts": dict(v.verdicts)} for v in views
    ]
    if output in ("json", "jsonl"):
        emit_document("kernel", {"kernel": asdict(found[0]), "hosts": rows})
        return
    click.echo(f"{found[0].release} {found[0].arch}  {found[0].id}\n{found[0].version}")
    emit("kernel", rows, {"host": "name", "reach": "reach", "variants": "variants"}, output)


@kernels.command("import")
@click.argument("kernel_id")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--check", is_flag=True, help="Parse and match; keep nothing.")
@pass_settings
def import_btf(settings: Settings, kernel_id: str, file: Path, *, check: bool) -> None:
    """Give BTF to exactly the kernel build KERNEL_ID: raw BTF, or a .btf.tar.xz as archives of BTF hold them."""
    from btf.archive import read_btf_file
    from btf.parse import parse_btf

    data = read_btf_file(file)
    parsed = parse_btf(data)
    with settings.record() as record:
        known = {k.id for k in record.kernels()}
        if kernel_id not in known:
            raise KernelUnknown(f"no host runs kernel {kernel_id!r}")
        if not check:
            sha256 = settings.archive().put(data, kernel_id=kernel_id, source=f"file {file.name}")
            record.record_kernel_btf(kernel_id, sha256)
    narrate(f"{file.name}: {len(parsed)} types for {kernel_id}", quiet=settings.quiet)
