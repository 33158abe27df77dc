"""``corollout lab``: namespaced hosts with real differences on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from fleet.cli.output import emit, narrate, output_option
from fleet.cli.settings import Settings, pass_settings
from fleet.lab import kernels as kernel_room
from fleet.lab.apt import KEYRING
from fleet.lab.namespaces import Lab

_number = click.option(
    "--number", type=click.IntRange(0, 255), default=77, show_default=True, help="Which lab: 198.18.N.0/24."
)


@click.group()
def lab() -> None:
    """Hosts that differ as real fleets do, on this machine; and real kernels to prove programs on."""


@lab.command()
@_number
@click.option("--check", is_flag=True, help="Say what would be started; start nothing.")
@output_option
@pass_settings
def up(settings: Settings, number: int, output: str, *, check: bool) -> None:
    """Start the lab and print its inventory; `corollout hosts import` reads the file."""
    room = Lab(_folder(settings, number), number)
    if not check:
        inventory = room.up(lambda line: narrate(line, quiet=settings.quiet))
        narrate(f"lab: import it with `corollout hosts import {inventory}`", quiet=settings.quiet)
    rows = [{"name": h.name, "address": room.address(h), "traits": list(h.traits)} for h in room.hosts]
    emit("lab", rows, {"name": "name", "address": "address", "traits": "traits"}, output)


@lab.command()
@_number
@click.option("--check", is_flag=True, help="Say what is there; stop nothing.")
@pass_settings
def down(settings: Settings, number: int, *, check: bool) -> None:
    """Stop the lab and remove everything it made; also after an interrupted run."""
    room = Lab(_folder(settings, number), number)
    if check:
        narrate(f"lab {number}: " + (", ".join(room.standing()) or "nothing is there"))
    else:
        room.down()


@lab.command()
@click.argument("names", nargs=-1, metavar="[NAME]…")
@click.option("--cache", type=click.Path(path_type=Path), envvar="COROLLOUT_KERNELS", help="Folder of fetched kernels.")
@click.option("--mirror", help="Debian's archive; the one of this machine's apt unless given.")
@click.option("--keyring", type=click.Path(path_type=Path), default=KEYRING, show_default=True, help="Debian's keys.")
@click.option("--refresh", is_flag=True, help="Ask the mirror for a newer one, also when there is one.")
@click.option("--check", is_flag=True, help="Say what is there and what would be fetched; fetch nothing.")
@output_option
@pass_settings
def kernels(
    settings: Settings,
    names: tuple[str, ...],
    cache: Path | None,
    mirror: str | None,
    keyring: Path,
    output: str,
    *,
    refresh: bool,
    check: bool,
) -> None:
    """Fetch distribution kernels by name (debian:6.12, debian:sid/arm64, a vmlinuz); without a name, list them."""
    folder = cache or kernels_folder(settings)

    def say(line: str) -> None:
        narrate(f"kernels: {line}", quiet=settings.quiet)

    origin = kernel_room.Origin(mirror=mirror, keyring=keyring, say=say)
    rows = []
    for name in names or kernel_room.NAMES:
        kernel = kernel_room.cached(name, cache=folder)
        if names and not check and (kernel is None or refresh):
            kernel = kernel_room.fetch(name, cache=folder, origin=origin, refresh=refresh)
        rows.append(_kernel_row(name, kernel))
    columns = {"name": "name", "there": "there", "release": "release", "arch": "arch", "from": "source"}
    emit("lab-kernels", rows, columns, output, wide={"vmlinuz": "vmlinuz", "sha256": "sha256"})


def _kernel_row(name: str, kernel: kernel_room.Kernel | None) -> dict[str, object]:
    if kernel is None:
        row = kernel_room.wanted(name)
        return {"name": name, "there": False, "source": f"{row.package} of {row.suite}", "arch": row.machine}
    source = f"{kernel.package} {kernel.version}".strip() or "a file"
    facts = {"release": kernel.release, "arch": kernel.arch, "source": source, "sha256": kernel.sha256}
    return {"name": name, "there": True, **facts, "vmlinuz": str(kernel.vmlinuz), "modules": str(kernel.modules or "")}


def kernels_folder(settings: Settings) -> Path:
    """Where fetched kernels are kept unless told otherwise."""
    return settings.home / "kernels"


def _folder(settings: Settings, number: int) -> Path:
    return settings.home / f"lab-{number}"
