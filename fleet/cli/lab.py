"""``corollout lab``: namespaced hosts with real differences on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from fleet.cli.output import emit, narrate, output_option
from fleet.cli.settings import Settings, pass_settings
from fleet.lab import kernels as kernel_room
from fleet.lab.apt import KEYRING
from fleet.lab.guests import GUESTS, Guest, GuestLab, guest
from fleet.lab.kernel_store import Kernel, Origin
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
    """Fetch kernels by name (debian:6.12, debian:sid/arm64), or build one (small:no-bpf); without a name, list them."""
    folder = cache or kernels_folder(settings)

    def say(line: str) -> None:
        narrate(f"kernels: {line}", quiet=settings.quiet)

    origin = Origin(mirror=mirror, keyring=keyring, say=say)
    rows = []
    for name in names or kernel_room.NAMES:
        kernel = kernel_room.cached(name, cache=folder)
        if names and not check and (kernel is None or refresh):
            kernel = kernel_room.fetch(name, cache=folder, origin=origin, refresh=refresh)
        rows.append(_kernel_row(name, kernel))
    columns = {"name": "name", "there": "there", "release": "release", "arch": "arch", "from": "source"}
    emit("lab-kernels", rows, columns, output, wide={"vmlinuz": "vmlinuz", "sha256": "sha256"})


@lab.group()
def guests() -> None:
    """Full distributions on their own kernels under emulation, as real SSH hosts: 5.10, 6.1, 6.12; no-bpf, no-btf."""


_cache = click.option(
    "--cache",
    type=click.Path(path_type=Path),
    envvar="COROLLOUT_KERNELS",
    help="Folder of fetched kernels and systems.",
)


def _each(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> list[Guest]:
    return list({one.name: one for one in map(guest, texts)}.values()) or list(GUESTS)


@guests.command("up")
@click.argument("which", nargs=-1, metavar="[SERIES[:PROFILE]]…", callback=_each)
@_cache
@click.option("--hours", default=4.0, show_default=True, help="After so long a guest ends by itself.")
@click.option("--check", is_flag=True, help="Say what would be started; start nothing.")
@output_option
@pass_settings
def guests_up(
    settings: Settings, which: list[Guest], cache: Path | None, hours: float, output: str, *, check: bool
) -> None:
    """Build what is not there yet (minutes, once), boot the guests instead of those that run, print the inventory."""
    room = _guest_lab(settings, which, cache, int(hours * 3600))
    if not check:
        inventory = room.up(lambda line: narrate(line, quiet=settings.quiet))
        narrate(f"lab: import it with `corollout hosts import {inventory}`", quiet=settings.quiet)
    rows = [
        {"name": g.name, "kernel": g.system.kernel, "profile": g.profile.name, "memory_mib": g.system.memory_mib}
        for g in which
    ]
    columns = {"name": "name", "kernel": "kernel", "profile": "profile", "memory (MiB)": "memory_mib"}
    emit("lab-guests", rows, columns, output)


@guests.command("down")
@click.option("--check", is_flag=True, help="Say what is there; stop nothing.")
@pass_settings
def guests_down(settings: Settings, *, check: bool) -> None:
    """End every guest and remove its files; also after an interrupted run. What was built stays in the cache."""
    room = _guest_lab(settings)
    if check:
        narrate("guests: " + (", ".join(room.standing()) or "nothing is there"))
    else:
        room.down()


@guests.command("list")
@output_option
@pass_settings
def guests_list(settings: Settings, output: str) -> None:
    """List the guests that run."""
    emit("lab-guests", [{"name": name} for name in _guest_lab(settings).standing()], {"name": "name"}, output)


def _guest_lab(
    settings: Settings, which: list[Guest] | None = None, cache: Path | None = None, life_s: int = 0
) -> GuestLab:
    folder = settings.home.absolute() / "lab-guests"
    return GuestLab(folder, cache or kernels_folder(settings), which or list(GUESTS), life_s=life_s)


def _kernel_row(name: str, kernel: Kernel | None) -> dict[str, object]:
    if kernel is None:
        words, arch = kernel_room.source_of(name)
        return {"name": name, "there": False, "source": words, "arch": arch}
    source = f"{kernel.package} {kernel.version}".strip() or "a file"
    facts = {"release": kernel.release, "arch": kernel.arch, "source": source, "sha256": kernel.sha256}
    return {"name": name, "there": True, **facts, "vmlinuz": str(kernel.vmlinuz), "modules": str(kernel.modules or "")}


def kernels_folder(settings: Settings) -> Path:
    """Where fetched kernels are kept unless told otherwise."""
    return settings.home / "kernels"


def _folder(settings: Settings, number: int) -> Path:
    return settings.home / f"lab-{number}"
