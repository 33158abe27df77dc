"""``corollout check``: would this object load on that kernel? Reads files only: no host, record, network or root."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from btf.fault import EXIT_NO, EXIT_USAGE, EXIT_WAITS, Fault, printable
from fleet.cli.output import emit_document
from fleet.cli.settings import Settings, pass_settings

if TYPE_CHECKING:
    from fleet.compatibility.check import KernelBtf

RUNNING_BTF = Path("/sys/kernel/btf/vmlinux")


class NothingToCheck(Fault):
    """An object or kernel that is named is not there."""

    code = "COR-CLI-020"
    exit = EXIT_USAGE
    remedy = "Give the path of a .bpf.o or a program's name, and --btf FILE where this kernel shows no BTF of its own."


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a kernel's BTF comes from, before it is read."""

    data: bytes
    release: str | None


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
    *,
    relocations: bool,
    output: str,
) -> None:
    """Say for each OBJECT whether it would load on each kernel, and if not, which line asks for what is not there.

    Exit code 0: all fit; 3: some kernel refuses an object; 6: BTF alone cannot tell.
    """
    from btf.elf_object import read_object
    from fleet.compatibility.check import check_object, document

    read = [(name, read_object(data), optional) for name, data, optional in _objects(objects, settings)]
    kernels = [_kernel(source) for source in _sources(btf_files, kernel_ids, settings)]
    checks = [check_object(name, obj, kernel, optional=optional) for name, obj, optional in read for kernel in kernels]
    if output == "json":
        emit_document("check", document(checks, relocations=relocations))
    else:
        from fleet.cli.diagnostics import render

        click.echo("\n".join(render(checks, relocations=relocations)))
    verdicts = {c.verdict.value for c in checks}
    if verdicts & {"refused", "blocked"}:
        context.exit(EXIT_NO)
    if "unknown" in verdicts:
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


def _sources(files: tuple[Path, ...], kernel_ids: tuple[str, ...], settings: Settings) -> Iterator[_Source]:
    from btf.archive import read_btf_file, release_of_file

    for path in files:
        running = path == RUNNING_BTF
        yield _Source(read_btf_file(path), platform.release() if running else release_of_file(path))
    archive = settings.archive() if kernel_ids else None
    for wanted in kernel_ids:
        assert archive is not None
        sha256 = archive.for_kernel(wanted)
        if sha256 is None:
            raise NothingToCheck(
                f"the archive has no BTF of kernel {wanted!r}", remedy="`corollout kernels import` adds it."
            )
        yield _Source(archive.get(sha256), None)
    if not files and not kernel_ids:
        if not RUNNING_BTF.exists():
            raise NothingToCheck("this kernel shows no BTF, and no --btf was given")
        yield _Source(read_btf_file(RUNNING_BTF), platform.release())


def _kernel(source: _Source) -> KernelBtf:
    from btf.architecture import architecture
    from btf.parse import parse_btf
    from fleet.compatibility.check import KernelBtf

    btf = parse_btf(source.data)
    release = printable(source.release) if source.release else None
    return KernelBtf(btf, hashlib.sha256(source.data).hexdigest(), release, architecture(btf))
