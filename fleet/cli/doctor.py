"""``corollout doctor`` and ``version``: is this machine ready, one line and a remedy each."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from btf.fault import EXIT_NO, printable
from fleet.cli.output import emit, emit_document, output_option
from fleet.cli.settings import Settings, pass_settings
from probes.catalogue import RUNNER, ArtefactMissing

_STANDS_ON = ("click", "paramiko", "sqlalchemy", "dbos", "textual", "ansible-core", "msgspec")
OK, WARN, BAD = "ok", "warn", "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor."""

    subject: str
    state: str
    detail: str
    remedy: str = ""


def _python(_settings: Settings) -> Finding:
    version = ".".join(str(n) for n in sys.version_info[:3])
    return Finding("python", OK, f"{version} at {sys.executable}")


def _packages(_settings: Settings) -> Finding:
    """Our import names exist on the package index: the four rooms must be ours and lie side by side."""
    import btf
    import fleet
    import inventory
    import probes

    roots = {Path(str(p.__file__)).parent.parent for p in (btf, fleet, inventory, probes)}
    if len(roots) == 1:
        return Finding("packages", OK, f"btf, inventory, probes and fleet are in {roots.pop()}")
    return Finding(
        "packages", BAD, "another distribution shadows a package of ours", "Install into an environment of its own."
    )


def _namesake(_settings: Settings) -> Finding:
    try:
        distribution = importlib.metadata.distribution("bcc")
    except importlib.metadata.PackageNotFoundError:
        return Finding("bcc", OK, "the package index's namesake is not installed here (hosts use their distribution's)")
    return Finding(
        "bcc", WARN, f"bcc {distribution.version} of the package index is another project", "pip uninstall bcc"
    )


def _runner(_settings: Settings) -> Finding:
    if not RUNNER.exists():
        return Finding("runner", BAD, "bpfrun is not built", "Run `make build`.")
    done = subprocess.run([str(RUNNER), "version"], capture_output=True, check=False, timeout=10)
    return Finding("runner", OK if done.returncode == 0 else BAD, printable(done.stdout.decode(errors="replace")))


def _objects(settings: Settings) -> Finding:
    missing, built = [], 0
    for program in settings.catalogue().values():
        for variant in program.ladder:
            try:
                program.build(variant)
                built += 1
            except ArtefactMissing as fault:
                missing.append(fault.message)
    if missing:
        return Finding("objects", BAD, "; ".join(missing), "Run `make build`.")
    return Finding("objects", OK, f"{built} builds of {len(settings.catalogue())} programs are there")


def _emulator(_settings: Settings) -> Finding:
    from fleet.lab.machine import EMULATORS

    found = [row.command for row in EMULATORS.values() if shutil.which(row.command)]
    if found:
        return Finding("emulator", OK, f"{', '.join(found)}: `corollout prove` can boot kernels")
    return Finding("emulator", WARN, "none is installed, so nothing can be proven", "Install qemu-system-x86.")


def _record(settings: Settings) -> Finding:
    if not settings.has_record():
        return Finding("record", WARN, f"none at {settings.place}", "Run `corollout init`.")
    with settings.record():
        return Finding("record", OK, settings.place)


def _agent(_settings: Settings) -> Finding:
    if not os.environ.get("SSH_AUTH_SOCK"):
        return Finding("ssh agent", WARN, "none is running", "Start one, or give hosts a key_file.")
    return Finding("ssh agent", OK, os.environ["SSH_AUTH_SOCK"])


def _space(settings: Settings) -> Finding:
    folder = settings.home if settings.home.exists() else Path("/")
    free = shutil.disk_usage(folder).free // 2**20
    return Finding(
        "space", OK if free > 200 else BAD, f"{free} MiB free at {folder}", "" if free > 200 else "Free space."
    )


CHECKS: tuple[Callable[[Settings], Finding], ...] = (
    _python,
    _packages,
    _namesake,
    _runner,
    _objects,
    _emulator,
    _record,
    _agent,
    _space,
)


@click.command()
@output_option
@pass_settings
@click.pass_context
def doctor(context: click.Context, settings: Settings, output: str) -> None:
    """Check this machine; exit code 3 when something must be mended first."""
    findings = [check(settings) for check in CHECKS]
    columns = {"subject": "subject", "state": "state", "detail": "detail", "remedy": "remedy"}
    emit("doctor", [asdict(f) for f in findings], columns, output)
    if any(f.state == BAD for f in findings):
        context.exit(EXIT_NO)


@click.command()
@output_option
def version(output: str) -> None:
    """Print versions."""
    ours = importlib.metadata.version("corollout")
    stands_on = {name: importlib.metadata.version(name) for name in _STANDS_ON}
    if output == "table":
        click.echo(f"corollout {ours}  (" + ", ".join(f"{n} {v}" for n, v in stands_on.items()) + ")")
    else:
        emit_document("version", {"corollout": ours, "stands_on": stands_on})
