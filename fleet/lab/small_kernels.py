"""Small kernels: built from a distribution's own source package, once, when somebody asks for one.

    kernel = fetch(kind("small:no-bpf"), cache=Path("…/kernels"), origin=Origin())

In the cache, ``small-KIND → store/small-KIND_VERSION_RECIPE/``, where RECIPE is a digest of configuration and of
what is changed in the source. The source comes through the apt of its suite, the compiler is this machine's. It takes
five to ten minutes and no root.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from btf.fault import EXIT_USAGE, Fault, printable
from fleet.lab.apt import Apt, MirrorSilent, Package, PackageUnknown
from fleet.lab.debian_kernels import apt_of, wanted
from fleet.lab.kernel_store import SCHEMA, Kernel, Origin, kept, point, scratch_folder, told_of
from fleet.lab.small_kinds import Edit, Kind

_RECIPE = 1  # to be raised when kernels must be built again although their rows are the same
_JOBS = 2
_TOLD_EVERY_S = 15.0
# Command → package; the last is for kinds whose types are made from DWARF. Only building needs them.
_TOOLS = {
    "make": "make",
    "gcc": "gcc",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "tar": "tar",
    "xz": "xz-utils",
    "pahole": "dwarves",
}
# The same source and compiler make the same image, whoever builds it, so its build-id is the same everywhere.
_ENVIRONMENT = {
    "LC_ALL": "C",
    "KBUILD_BUILD_USER": "lab",
    "KBUILD_BUILD_HOST": "corollout",
    "KBUILD_BUILD_TIMESTAMP": "2024-01-01",
    "KBUILD_BUILD_VERSION": "1",
}


class SmallUnbuildable(Fault):
    """A small kernel could not be built."""

    code = "COR-LAB-018"
    exit = EXIT_USAGE
    remedy = "`apt-get install make gcc flex bison bc xz-utils dwarves`; it takes 2 GB of the cache's disk for a while."


def cached(row: Kind, *, cache: Path) -> Kernel | None:
    """Return the kernel if it is in the cache and was built as its row says now."""
    folder = _link(row, cache).resolve()
    told = told_of(folder)
    return kept(_name(row), folder, told) if told and told.get("recipe") == recipe(row) else None


def fetch(row: Kind, *, cache: Path, origin: Origin, refresh: bool = False) -> Kernel:
    """Return the kernel *row*, from the cache or else built; *refresh* asks the mirror for newer source."""
    if not refresh and (kernel := cached(row, cache=cache)) is not None:
        return kernel
    _need_tools(row)
    store = cache / "store"
    store.mkdir(parents=True, exist_ok=True)
    with (store / f".small-{row.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not refresh and (kernel := cached(row, cache=cache)) is not None:
            return kernel
        with scratch_folder(store) as scratch:
            apt = apt_of(wanted(row.series), cache=cache, origin=origin)
            source, archive = _source(row, apt, scratch, refresh=refresh)
            folder = store / f"small-{row.name}_{source.version}_{recipe(row)}"
            if not folder.exists():
                told = _build(row, archive, scratch, origin.say) | {"packages": [_told(source)], "image": source.name}
                (scratch / "whole" / "provenance.json").write_text(json.dumps(told, indent=2) + "\n")
                (scratch / "whole").rename(folder)
            point(_link(row, cache), folder)
        return kept(_name(row), folder, told_of(folder) or {})


def recipe(row: Kind) -> str:
    """Return the digest of what a kind's kernel is built as."""
    return hashlib.sha256(repr((_RECIPE, row.config, row.edits, row.package)).encode()).hexdigest()[:12]


def _name(row: Kind) -> str:
    return f"small:{row.name}"


def _link(row: Kind, cache: Path) -> Path:
    return cache / f"small-{row.name}"


def _told(source: Package) -> dict[str, Any]:
    return {k: v for k, v in asdict(source).items() if k != "depends"}


def _need_tools(row: Kind) -> None:
    missing = [tool for tool in _TOOLS if (tool != "pahole" or row.btf) and shutil.which(tool) is None]
    if missing:
        packages = " ".join(_TOOLS[tool] for tool in missing)
        raise SmallUnbuildable(
            f"{_name(row)}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not on this machine",
            remedy=f"`apt-get install {packages}`; only building small kernels needs them.",
        )


def _source(row: Kind, apt: Apt, scratch: Path, *, refresh: bool) -> tuple[Package, Path]:
    """Fetch the package of the source; return it and the archive inside."""
    with apt.locked():
        if refresh:
            apt.update()
        try:
            package, deb = _download(row, apt, scratch)
        except (PackageUnknown, MirrorSilent):
            apt.update()
            package, deb = _download(row, apt, scratch)
    _run(["dpkg-deb", "-x", str(deb), str(scratch / "package")], scratch)
    return package, scratch / "package" / "usr" / "src" / f"{row.package}.tar.xz"


def _download(row: Kind, apt: Apt, scratch: Path) -> tuple[Package, Path]:
    package = apt.show(row.package)
    apt.say(f"{_name(row)}: {package.name} {package.version}, {package.size / 1e6:.0f} MB")
    folder = scratch / "debs"
    folder.mkdir(exist_ok=True)
    return package, apt.download([package], folder)[0]


def _build(row: Kind, archive: Path, scratch: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Unpack, change, configure, compile; lay what is kept into ``scratch/whole``; return what is told of it."""
    tree, whole = scratch / "source", scratch / "whole"
    for folder in (tree, whole):
        folder.mkdir()
    say(f"{_name(row)}: unpacking the source")
    _run(["tar", "--extract", "--strip-components=1", f"--file={archive}", f"--directory={tree}"], scratch)
    for edit in row.edits:
        _edit(row, edit, tree)
    configure(row, tree)
    goals = ["vmlinux", "bzImage"] if row.btf else ["bzImage"]
    _run(["make", f"-j{_JOBS}", *goals], tree, _Teller(_name(row), say))
    release = (tree / "include/config/kernel.release").read_text(encoding="ascii").strip()
    for built, name in (("arch/x86/boot/bzImage", "vmlinuz"), (".config", "config"), ("System.map", "System.map")):
        (tree / built).rename(whole / name)
    if row.btf:
        say(f"{_name(row)}: types from DWARF")
        _run(["pahole", "-J", f"--btf_encode_detached={whole / 'vmlinux.btf'}", "vmlinux"], tree)
    return {"schema": SCHEMA, "name": _name(row), "release": release, "arch": "x86_64", "recipe": recipe(row)}


def _edit(row: Kind, edit: Edit, tree: Path) -> None:
    path = tree / edit.file
    text = path.read_text(encoding="utf-8")
    if text.count(edit.before) != 1:
        raise SmallUnbuildable(
            f"{_name(row)}: {edit.file} of {row.package} is not as expected",
            remedy="The source has moved on; the row in fleet/lab/small_kinds.py must follow.",
        )
    path.write_text(text.replace(edit.before, edit.after), encoding="utf-8")


def configure(row: Kind, tree: Path) -> None:
    """Configure *tree* with every option of *row* on, all others off; one that is lost is a SmallUnbuildable."""
    asked = tree / "asked.config"
    asked.write_text(row.config, encoding="ascii")
    _run(["make", "allnoconfig", f"KCONFIG_ALLCONFIG={asked}"], tree)
    has = set((tree / ".config").read_text(encoding="ascii").splitlines())
    lost = [line for line in row.config.splitlines() if line.startswith("CONFIG_") and line not in has]
    if lost:
        raise SmallUnbuildable(
            f"{_name(row)}: {row.package} does not take {', '.join(lost)}",
            remedy="An option it depends on is missing in fleet/lab/small_kernel.config.",
        )


class _Teller:
    """Tells now and then how many files are compiled."""

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self._name, self._say = name, say
        self._count, self._told = 0, time.monotonic()

    def __call__(self, line: str) -> None:
        self._count += line.lstrip().startswith(("CC ", "AS "))
        if time.monotonic() - self._told > _TOLD_EVERY_S:
            self._told = time.monotonic()
            self._say(f"{self._name}: {self._count} files compiled")


def _run(command: Sequence[str], inside: Path, tell: Callable[[str], None] = lambda _line: None) -> None:
    """Run a tool as one that gives way to all others; it and its children end when we are interrupted."""
    last: list[str] = []
    with subprocess.Popen(
        ["nice", "-n", "10", *command],
        cwd=inside,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_environment(os.environ),
        start_new_session=True,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                last = [*last[-200:], line.rstrip()]
                tell(line)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            raise
    if process.returncode:
        said = [line for line in last if "rror" in line] or last[-3:] or ["it failed without a word"]
        raise SmallUnbuildable(f"{command[0]}: {printable('; '.join(said[:5]))}")


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """What a build sees: nothing of the caller's own settings for make, the same names and dates everywhere."""
    own = {k: v for k, v in given.items() if k in ("PATH", "HOME", "TMPDIR")}
    return own | _ENVIRONMENT
