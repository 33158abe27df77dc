"""``corollout check``: would this object load on that kernel? Reads files only: no host, record, network or root."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from btf.fault import EXIT_NO, EXIT_USAGE, EXIT_WAITS, Fault
from fleet.cli.output import emit_document, narrate
from fleet.cli.settings import Settings, pass_settings


class NothingToCheck(Fault):
    """An object or kernel that is named is not there."""

    code = "COR-CLI-020"
    exit = EXIT_USAGE
    remedy = "Give the path of a .bpf.o or a program's name, and --btf FILE where this kernel shows no BTF of its own."


@click.command()
@click.argument("objects", metavar="OBJECT|PROGRAM...", nargs=-1, required=True)
@click.option(
    "--btf",
    "btf_files",
    type=click.Path(path_type=Path),
    multiple=True,
    help="BTF of a kernel: raw, ELF, or an archive's .btf.tar.xz; may be repeated. Default: the running kernel.",
)
@click.option(
    "--kernel", "kernel_ids", multiple=True, help="A kernel build whose BTF is in the archive; may be repeated."
)
@click.option(
    "--image",
    "images",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A kernel image: vmlinuz, vmlinux, Image, EFI zboot; may be repeated.",
)
@click.option("--installed", is_flag=True, help="Every kernel installed here that could boot next.")
@click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path("/"),
    help="With --installed: where the system is mounted whose kernels are meant.  [default: /]",
)
@click.option("--relocations", is_flag=True, help="Every CO-RE relocation: where, what, and what becomes of it.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(("table", "json")),
    default="table",
    show_default=True,
    help="Format of the answer.",
)
@pass_settings
@click.pass_context
def check(
    context: click.Context,
    settings: Settings,
    objects: tuple[str, ...],
    btf_files: tuple[Path, ...],
    kernel_ids: tuple[str, ...],
    images: tuple[Path, ...],
    *,
    installed: bool,
    root: Path,
    relocations: bool,
    output: str,
) -> None:
    """Say for each OBJECT whether it would load on each kernel, and if not, which line asks for what is not there.

    Exit code 0: all fit; 3: some kernel refuses an object; 6: BTF alone cannot tell, or an
    installed kernel has none.
    """
    from btf.elf_object import read_object
    from fleet.cli import kernel_sources
    from fleet.compatibility.check import check_object, document

    read = [(name, read_object(data), optional) for name, data, optional in _objects(objects, settings)]
    unread: list[Fault] = []
    kernels = list(kernel_sources.installed(root, unread)) if installed else []
    if not installed or btf_files or kernel_ids or images:
        kernels += kernel_sources.chosen(btf_files, kernel_ids, images, settings.archive())
    for fault in unread:
        narrate(f"{fault.code}: {fault.message}", quiet=settings.quiet)
    if not kernels:
        raise kernel_sources.NoSuchKernel(f"no kernel with BTF is installed under {root}")
    checks = [check_object(name, obj, kernel, optional=optional) for name, obj, optional in read for kernel in kernels]
    if output == "json":
        emit_document("check", document(checks, relocations=relocations))
    else:
        from fleet.cli.diagnostics import render

        click.echo("\n".join(render(checks, relocations=relocations)))
    verdicts = {c.verdict.value for c in checks}
    if verdicts & {"refused", "blocked"}:
        context.exit(EXIT_NO)
    if "unknown" in verdicts or unread:
        context.exit(EXIT_WAITS)


def _objects(names: tuple[str, ...], settings: Settings) -> Iterator[tuple[str, bytes, tuple[str, ...]]]:
    """Yield (name, bytes, programs it can do without); a name that is no file is a program of the catalogue."""
    from btf.elf_object import MAX_OBJECT

    for name in names:
        path = Path(name)
        optional: tuple[str, ...] = ()
        if not path.is_file() and "/" not in name:
            program = settings.catalogue().get(name)
            if program is None:
                raise NothingToCheck(f"{name!r} is neither a file nor a program")
            path = program.build("core").files["object"]
            row = program.variant("core")
            optional = row.optional_programs if row else ()
        try:
            with path.open("rb") as file:
                yield name, file.read(MAX_OBJECT + 1), optional
        except OSError as error:
            raise NothingToCheck(f"{name}: {error.strerror}") from None
