"""What proof guests of another architecture are made of: Debian's packages for it, and the runner by a cross compiler.

    base("aarch64", cache=…, origin=…)      an initramfs.Base, for guests under that architecture's emulator

In the cache, ``guest-ARCH → store/guest-ARCH_RECIPE/``; the recipe covers the runner's source. Packages come through
an apt of our own for that architecture, unpacked and never installed: this machine's dpkg hears nothing of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from btf.fault import EXIT_USAGE, Fault, printable
from fleet.lab.apt import Apt, MirrorSilent, PackageUnknown
from fleet.lab.debian_kernels import apt_of, wanted
from fleet.lab.initramfs import Base, Entry, assemble, link, plain_file
from fleet.lab.kernel_store import Kernel, KernelUnknown, Origin, point, scratch_folder
from probes.catalogue import RUNNER

_RECIPE = 1  # to be raised when guests must be made again although packages and sources are the same
_PYTHON = "python3.11"  # of the suite below
_PACKAGES = (
    *("busybox-static", f"{_PYTHON}-minimal", f"lib{_PYTHON}-minimal", f"lib{_PYTHON}-stdlib"),
    *("libc6", "zlib1g", "libexpat1", "libffi8", "libbz2-1.0", "liblzma5"),  # what that Python is linked with
    *("libbpf-dev", "libelf-dev", "zlib1g-dev"),  # what the runner is
)
_LIBRARIES = ("ld-", "libc.", "libm.", "libz.", "libexpat.", "libffi.", "libbz2.", "liblzma.")
_LEFT_OUT = (
    "asyncio",
    "distutils",
    "email",
    "http",
    "lib2to3",
    "multiprocessing",
    "pydoc_data",
    "test",
    "unittest",
    "xml",
)
_FLAGS = ("-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-static")


class ForeignUnbuildable(Fault):
    """The parts of a guest for another architecture could not be made."""

    code = "COR-LAB-024"
    exit = EXIT_USAGE
    remedy = "`apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross`; only guests for arm64 need them."


@dataclass(frozen=True, slots=True)
class Foreign:
    """One architecture: the kernel whose suite has its packages, the compiler, the folder of its libraries."""

    source: str
    compiler: str
    triplet: str


# uname's word for the architecture → its row
FOREIGN: Mapping[str, Foreign] = {
    "aarch64": Foreign("debian:6.1/arm64", "aarch64-linux-gnu-gcc", "aarch64-linux-gnu"),
}


def base(arch: str, *, cache: Path, origin: Origin | None = None) -> Base:
    """Return what guests of *arch* start from, made once. Raises ForeignUnbuildable, or what fetching raises."""
    row = FOREIGN.get(arch)
    if row is None:
        raise KernelUnknown(f"no guest can be made for {arch}", remedy=f"Guests are made for {', '.join(FOREIGN)}.")
    tree = _tree(arch, row, cache.absolute(), origin or Origin())
    return assemble(arch, (tree / "bin/busybox").read_bytes(), (tree / "bin/bpfrun").read_bytes(), _python(row, tree))


def bases(kernels: Iterable[Kernel], *, cache: Path, origin: Origin | None = None) -> dict[str, Base]:
    """Return what guests start from, for each architecture among *kernels* that is not this machine's."""
    archs = {kernel.arch for kernel in kernels} - {os.uname().machine}
    return {arch: base(arch, cache=cache, origin=origin) for arch in sorted(archs)}


def _tree(arch: str, row: Foreign, cache: Path, origin: Origin) -> Path:
    """Return the folder of unpacked packages with the runner in it, from the cache or else made."""
    sources = sorted(RUNNER.parent.glob("*.[ch]"))
    told = repr((_RECIPE, _PACKAGES, _FLAGS, row, [path.read_bytes() for path in sources]))
    store = cache / "store"
    folder = store / f"guest-{arch}_{hashlib.sha256(told.encode()).hexdigest()[:12]}"
    if folder.exists():
        return folder
    if shutil.which(row.compiler) is None:
        raise ForeignUnbuildable(f"{row.compiler} is not on this machine")
    store.mkdir(parents=True, exist_ok=True)
    apt = apt_of(wanted(row.source), cache=cache, origin=origin)
    with apt.locked():
        if folder.exists():
            return folder
        with scratch_folder(store) as scratch:
            tree = scratch / "tree"
            _unpack(apt, scratch / "debs", tree)
            apt.say(f"guest for {arch}: compiling the runner")
            library = tree / "usr/lib" / row.triplet
            _run(
                *(row.compiler, *_FLAGS, f"-I{tree / 'usr/include'}", "-o", str(tree / "bin/bpfrun")),
                *(str(path) for path in sources if path.suffix == ".c"),
                *(f"-L{library}", "-lbpf", "-lelf", "-lz"),
            )
            tree.rename(folder)
    point(cache / f"guest-{arch}", folder)
    return folder


def _unpack(apt: Apt, debs: Path, tree: Path) -> None:
    debs.mkdir()
    try:
        packages = [apt.show(name) for name in _PACKAGES]
        files = apt.download(packages, debs)
    except (PackageUnknown, MirrorSilent):
        apt.update()
        packages = [apt.show(name) for name in _PACKAGES]
        files = apt.download(packages, debs)
    for deb in files:
        _run("dpkg-deb", "-x", str(deb), str(tree))
    told = [{"name": p.name, "version": p.version, "sha256": p.sha256} for p in packages]
    (tree / "packages.json").write_text(json.dumps(told, indent=2) + "\n")


def _python(row: Foreign, tree: Path) -> dict[str, Entry]:
    """The interpreter, its libraries, and the library of Python less what nobody here imports."""
    found = {"usr/bin/python3": link(_PYTHON)}
    files = [tree / "usr/bin" / _PYTHON, *(tree / "lib").glob("ld-*")]
    for folder in (tree / "lib" / row.triplet, tree / "usr/lib" / row.triplet):
        files += [path for path in folder.glob("*.so*") if path.name.startswith(_LIBRARIES)]
    library = tree / "usr/lib" / _PYTHON
    for path in library.rglob("*"):
        top = path.relative_to(library).parts[0]
        if path.suffix in (".py", ".so") and top not in _LEFT_OUT and not path.name.startswith("_test"):
            files.append(path)
    for path in files:
        name = str(path.relative_to(tree))
        if path.is_symlink():
            found[name] = Entry(stat.S_IFLNK | 0o777, os.fsencode(path.readlink()))
        else:
            found[name] = plain_file(path.read_bytes(), mode=0o755)
    return found


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise ForeignUnbuildable(f"{command[0]}: {printable(done.stderr.strip() or 'it failed without a word')}")
