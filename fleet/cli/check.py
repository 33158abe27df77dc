"""``corollout check``: would this object load on that kernel? Reads files only: no host, record, network or root."""

from __future__ import annotations

import json
from collections.abc import Iterator
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from btf.fault import EXIT_NO, EXIT_USAGE, EXIT_WAITS, Fault
from fleet.cli.output import emit_document, narrate
from fleet.cli.settings import Settings, pass_settings

if TYPE_CHECKING:
    from btf.format.types import Btf
    from fleet.compatibility.check import ObjectCheck


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
    help="BTF of a kernel: raw, ELF, an archive's .btf.tar.xz, or a folder of such, which is gone through in the order "
    "of its paths with numbers by value; may be repeated. Default: the running kernel.",
)
@click.option(
    "--kernel", "kernel_ids", multiple=True, help="A kernel build whose BTF is in the archive; may be repeated."
)
@click.option(
    "--module", "modules", multiple=True,
    help="With --kernel: a module that is loaded there and whose BTF is in the archive; may be repeated. Of the running"
    " kernel's all loaded ones count.",
)  # fmt: skip
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
@click.option(
    "--symbols",
    type=click.Path(path_type=Path),
    help="The one kernel's own list of functions: /proc/kallsyms, System.map or available_filter_functions. "
    "For the running kernel it is looked at by itself.",
)
@click.option(
    "--built-on",
    type=click.Path(path_type=Path),
    help="BTF of the kernel the objects were made for: signatures and unions that changed since are warned of, too.",
)
@click.option("--relocations", is_flag=True, help="Every CO-RE relocation: where, what, and what becomes of it.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(("table", "json", "jsonl")),
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
    modules: tuple[str, ...],
    images: tuple[Path, ...],
    *,
    installed: bool,
    root: Path,
    symbols: Path | None,
    built_on: Path | None,
    relocations: bool,
    output: str,
) -> None:
    """Say for each OBJECT whether it would load on each kernel, and if not, which line asks for what is not there.

    Exit code 0: all fit; 3: some kernel refuses an object; 6: BTF alone cannot tell, or an
    installed kernel has none.
    """
    from btf.objects.elf_object import read_object
    from fleet.cli import kernel_sources
    from fleet.compatibility.check import check_object

    if modules and not kernel_ids:
        raise click.UsageError("--module goes with --kernel")
    read = [(name, read_object(data), optional) for name, data, optional in _objects(objects, settings)]
    reference = kernel_sources.from_file(built_on).btf if built_on else None
    unread: list[Fault] = []
    kernels = kernel_sources.installed(root, unread) if installed else iter(())
    if not installed or btf_files or kernel_ids or images:
        named = kernel_sources.chosen(btf_files, kernel_ids, images, settings.archive(), unread, modules)
        kernels = chain(kernels, named)
    written = _WRITERS[output](relocations=relocations, reference=reference)
    verdicts: set[str] = set()
    if symbols:
        kernels = kernel_sources.with_symbols(kernels, symbols)
    for kernel in kernels:  # one after the other: a folder may hold more kernels than memory does
        for number, (name, obj, optional) in enumerate(read):
            checked = check_object(name, obj, kernel, optional=optional)
            written.add(number, checked)
            verdicts.add(checked.verdict.value)
    for fault in unread:
        narrate(f"{fault.code}: {fault.message}", quiet=settings.quiet)
    if not verdicts:
        raise kernel_sources.NoSuchKernel("no kernel with BTF is there")
    written.end()
    if verdicts & {"refused", "blocked"}:
        context.exit(EXIT_NO)
    if "unknown" in verdicts or unread:
        context.exit(EXIT_WAITS)


class _Written:
    """What is written of the checks, which come kernel by kernel, in the order objects × kernels."""

    def __init__(self, *, relocations: bool, reference: Btf | None) -> None:
        self._relocations, self._reference = relocations, reference
        self._kept: list[tuple[int, Any]] = []

    def add(self, number: int, check: ObjectCheck) -> None:
        """Keep what is needed of *check*, of object *number*."""
        self._kept.append((number, self._made(check)))

    def end(self) -> None:
        """Write."""
        raise NotImplementedError

    def _in_order(self) -> list[Any]:
        return [made for _, made in sorted(self._kept, key=lambda pair: pair[0])]

    def _made(self, check: ObjectCheck) -> Any:
        from fleet.compatibility.check_document import result

        return result(check, relocations=self._relocations, reference=self._reference)


class _Json(_Written):
    def end(self) -> None:
        emit_document("check", {"results": self._in_order()})


class _JsonLines(_Written):
    """A line as soon as it is known, kernel by kernel."""

    def add(self, _number: int, check: ObjectCheck) -> None:
        click.echo(json.dumps({"schema": "corollout.check/1", **self._made(check)}))

    def end(self) -> None:
        pass


class _Page(_Written):
    def end(self) -> None:
        from fleet.cli.check_page import painter, render

        for line in render(self._in_order(), painter()):
            click.echo(line, color=True)

    def _made(self, check: ObjectCheck) -> Any:
        from fleet.cli.check_page import row

        return row(check, relocations=self._relocations, reference=self._reference)


_WRITERS: dict[str, type[_Written]] = {"table": _Page, "json": _Json, "jsonl": _JsonLines}


def _objects(names: tuple[str, ...], settings: Settings) -> Iterator[tuple[str, bytes, tuple[str, ...]]]:
    """Yield (name, bytes, programs it can do without); a name that is no file is a program of the catalogue."""
    from btf.objects.elf_object import MAX_OBJECT

    for name in names:
        path = Path(name)
        optional: tuple[str, ...] = ()
        if not path.is_file() and "/" not in name:
            programs = settings.catalogue()
            program = programs.get(name)
            if program is None:
                near = get_close_matches(name, programs, n=1)
                hint = f", did you mean {near[0]!r}?" if near else ""
                raise NothingToCheck(f"{name!r} is neither a file nor a program{hint}")
            path = program.build("core").files["object"]
            row = program.variant("core")
            optional = row.optional_programs if row else ()
        try:
            with path.open("rb") as file:
                yield name, file.read(MAX_OBJECT + 1), optional
        except OSError as error:
            raise NothingToCheck(f"{name}: {error.strerror}") from None
