"""Real distribution kernels by name: fetched as packages, checked, unpacked once and kept.

    kernel = fetch("debian:6.12", cache=Path("…/kernels"))
    kernel.vmlinuz, kernel.release, kernel.arch, kernel.modules

A name is ``debian:SERIES`` or ``debian:SERIES/ARCHITECTURE``, or the path of a ``vmlinuz``. In the cache:

    debian-6.12-amd64 → store/PACKAGE_VERSION_ARCHITECTURE/    vmlinuz, config, System.map, modules/, provenance.json
    apt/trixie-amd64/                                          an apt of our own (``fleet.lab.apt``)

A folder of the store appears whole or not at all. Nothing is booted or loaded here.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from btf.archive.kernel_image import read_kernel_image
from btf.fault import EXIT_USAGE, Fault, printable
from fleet.lab.apt import KEYRING, Apt, MirrorSilent, Package, PackageUnknown
from fleet.lab.mirror import debian_mirror

SCHEMA = "corollout.kernel/1"

# series → suite. What the stable suites have now stays in their pools; `sid` moves on, so its series is not promised.
SUITES: Mapping[str, str] = {
    "5.10": "bullseye",
    "6.1": "bookworm",
    "6.12": "trixie",
    "7.2": "sid",
    "sid": "sid",
}
# Debian's word for an architecture → (uname's word, the package that depends on the newest kernel)
ARCHITECTURES: Mapping[str, tuple[str, str]] = {
    "amd64": ("x86_64", "linux-image-cloud-amd64"),
    "arm64": ("aarch64", "linux-image-cloud-arm64"),
    "armhf": ("armv7l", "linux-image-armmp"),
    "ppc64el": ("ppc64le", "linux-image-powerpc64le"),
    "riscv64": ("riscv64", "linux-image-riscv64"),
    "s390x": ("s390x", "linux-image-s390x"),
}
# What is worth listing; every series of every architecture can be asked for.
NAMES = (*(f"debian:{series}" for series in SUITES), "debian:6.12/arm64", "debian:6.1/s390x")
# A kernel is one package (up to 6.12) or several of one version; `linux-base`, without a version, is something else.
_PARTS = re.compile(r"linux-(image|binary|modules|base)-\d")
_NAME = re.compile(r"debian:(?P<series>[\w.]+)(?:/(?P<arch>\w+))?")


class KernelUnknown(Fault):
    """Not the name of a kernel that can be fetched, and not a file."""

    code = "COR-LAB-015"
    exit = EXIT_USAGE
    remedy = "`corollout lab kernels` lists the names; add /ARCHITECTURE for another than amd64, or give a vmlinuz."


class SeriesGone(Fault):
    """The suite has another series of kernels by now."""

    code = "COR-LAB-016"
    remedy = "Ask for `debian:sid`, whatever it has, or keep the cache that has the older one."


class KernelUnusable(Fault):
    """What was fetched or named is not a kernel as we know it."""

    code = "COR-LAB-017"
    remedy = "Report the package named; another name of `corollout lab kernels` may serve."


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel on disk. ``arch`` is uname's word; ``modules`` is the content of ``/lib/modules/RELEASE``."""

    name: str
    vmlinuz: Path
    release: str
    arch: str
    modules: Path | None = None
    config: Path | None = None
    package: str = ""
    version: str = ""
    sha256: str = ""  # of the package that has the image


@dataclass(frozen=True, slots=True)
class Wanted:
    """A row of what can be fetched."""

    series: str
    architecture: str = "amd64"

    @property
    def name(self) -> str:
        """As a user writes it."""
        return f"debian:{self.series}" + ("" if self.architecture == "amd64" else f"/{self.architecture}")

    @property
    def suite(self) -> str:
        """Where it is looked for."""
        return SUITES[self.series]

    @property
    def machine(self) -> str:
        """The architecture in uname's word."""
        return ARCHITECTURES[self.architecture][0]

    @property
    def package(self) -> str:
        """The package that depends on the newest kernel."""
        return ARCHITECTURES[self.architecture][1]

    def link(self, cache: Path) -> Path:
        """The link to what was last fetched."""
        return cache / f"debian-{self.series}-{self.architecture}"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where packages come from: None = the mirror of this machine's own apt, looked up when needed."""

    mirror: str | None = None
    keyring: Path = KEYRING
    say: Callable[[str], None] = field(default=lambda _line: None)


def wanted(name: str) -> Wanted:
    """Parse ``debian:SERIES[/ARCHITECTURE]``. Raises KernelUnknown."""
    match = _NAME.fullmatch(name)
    row = Wanted(match["series"], match["arch"] or "amd64") if match else None
    if row is None or row.series not in SUITES or row.architecture not in ARCHITECTURES:
        raise KernelUnknown(f"{name}: no such kernel")
    return row


def cached(name: str, *, cache: Path) -> Kernel | None:
    """Return the kernel if it is in the cache, or a path; None when it must be fetched.

    Raises KernelUnknown, and what ``btf.archive.kernel_image`` raises for a file that is no kernel.
    """
    if not name.startswith("debian:"):
        return _local(Path(name))
    row = wanted(name)
    folder = row.link(cache)
    try:
        told = json.loads((folder / "provenance.json").read_bytes())
    except (OSError, ValueError):
        return None
    return _kernel(row, folder.resolve(), told)


def fetch(name: str, *, cache: Path, origin: Origin | None = None, refresh: bool = False) -> Kernel:
    """Return the kernel *name*, from the cache or else fetched; *refresh* asks the mirror for a newer one.

    Several processes may ask for the same kernel at once: one fetches, the others wait. Raises a Fault of this module,
    of ``fleet.lab.apt`` or of ``fleet.lab.mirror``.
    """
    origin, cache = origin or Origin(), cache.absolute()
    if not refresh and (kernel := cached(name, cache=cache)) is not None:
        return kernel
    row = wanted(name)
    apt = apt_of(row, cache=cache, origin=origin)
    with apt.locked():
        if not refresh and (kernel := cached(name, cache=cache)) is not None:
            return kernel
        # Lists at hand may serve; where they are missing or the pool has moved on since, fetch them once, look again.
        if not refresh:
            with contextlib.suppress(PackageUnknown, MirrorSilent, SeriesGone):
                return _install(row, apt, cache)
        apt.update()
        return _install(row, apt, cache)


def apt_of(row: Wanted, *, cache: Path, origin: Origin) -> Apt:
    """Return the apt of the suite and architecture that *row* comes from. Raises NoMirror."""
    return Apt(
        folder=cache / "apt" / f"{row.suite}-{row.architecture}",
        mirror=origin.mirror or os.environ.get("COROLLOUT_DEBIAN_MIRROR") or debian_mirror(),
        suite=row.suite,
        architecture=row.architecture,
        keyring=origin.keyring,
        say=origin.say,
    )


def kernel_btf(kernel: Kernel) -> bytes | None:
    """Return the BTF inside a kernel's image, None when it has none; unpacked once where the cache can keep it.

    Raises what ``btf.archive.kernel_image`` raises for a file that is no kernel.
    """
    kept = kernel.vmlinuz.parent / "vmlinux.btf" if kernel.package else None
    if kept and kept.exists():
        return kept.read_bytes() or None
    data = read_kernel_image(kernel.vmlinuz.read_bytes()).btf
    if kept:
        with contextlib.suppress(OSError):
            fresh = kept.with_name(f".{kept.name}.{os.getpid()}.{threading.get_ident()}")
            fresh.write_bytes(data or b"")
            fresh.replace(kept)
    return data


def _install(row: Wanted, apt: Apt, cache: Path) -> Kernel:
    parts = _parts(apt, row)
    image = next(p for p in parts if p.name.startswith(("linux-image-", "linux-binary-")) and p.size > 1 << 20)
    if row.series[0].isdigit() and not re.match(re.escape(row.series) + r"\.", image.version):
        raise SeriesGone(f"{row.suite} has {image.version}, not {row.series}")
    store = cache / "store"
    store.mkdir(parents=True, exist_ok=True)
    folder = store / f"{image.name}_{image.version}_{row.architecture}"
    if not folder.exists():
        apt.say(f"{row.name}: {image.name} {image.version}, {sum(p.size for p in parts) / 1e6:.0f} MB")
        with scratch_folder(store) as scratch:
            told = _unpack(apt, row, parts, image, scratch)
            (scratch / "whole" / "provenance.json").write_text(json.dumps(told, indent=2) + "\n")
            (scratch / "whole").rename(folder)
    _point(row.link(cache), folder)
    return _kernel(row, folder, json.loads((folder / "provenance.json").read_bytes()))


def _parts(apt: Apt, row: Wanted) -> list[Package]:
    """The packages that make up the newest kernel: those of the metapackage's dependencies that carry a version."""
    parts: dict[str, Package] = {}
    queue = [row.package]
    while queue:
        package = apt.show(queue.pop())
        if _PARTS.match(package.name):
            parts[package.name] = package
        queue += [d for d in package.depends if _PARTS.match(d) and d not in parts]
    if not any(p.size > 1 << 20 for p in parts.values()):
        raise KernelUnusable(f"{row.package} of {row.suite} leads to no kernel package")
    return [parts[name] for name in sorted(parts)]


def _unpack(apt: Apt, row: Wanted, parts: list[Package], image: Package, scratch: Path) -> dict[str, Any]:
    """Fetch and unpack *parts*; lay what we keep into ``scratch/whole``; return the provenance."""
    tree, debs, whole = scratch / "tree", scratch / "debs", scratch / "whole"
    for folder in (tree, debs, whole):
        folder.mkdir()
    for deb in apt.download(parts, debs):
        done = subprocess.run(["dpkg-deb", "-x", str(deb), str(tree)], capture_output=True, check=False)
        if done.returncode:
            raise KernelUnusable(f"{deb.name}: {printable(done.stderr.decode(errors='replace'))}")
        deb.unlink()
    releases = [p for root in ("lib/modules", "usr/lib/modules") for p in (tree / root).glob("*") if p.is_dir()]
    if len(releases) != 1:
        raise KernelUnusable(f"{image.name}: {len(releases)} folders of modules where one was expected")
    modules = releases[0]
    release = modules.name
    for kept in ("vmlinuz", "config", "System.map"):
        # Up to 6.12 in /boot; later beside the modules. A System.map of a few bytes only says where to get it.
        for place in (tree / "boot" / f"{kept}-{release}", tree / "boot" / kept, modules / kept):
            if place.is_file() and (kept != "System.map" or place.stat().st_size > 1 << 16):
                place.rename(whole / kept)
                break
    if not (whole / "vmlinuz").is_file():
        raise KernelUnusable(f"{image.name} has no vmlinuz")
    modules.rename(whole / "modules")
    return {
        "schema": SCHEMA,
        "name": row.name,
        "release": release,
        "arch": row.machine,
        "image": image.name,
        "suite": row.suite,
        "packages": [{k: v for k, v in asdict(p).items() if k != "depends"} for p in parts],
    }


def _kernel(row: Wanted, folder: Path, told: Mapping[str, Any]) -> Kernel:
    image = next(p for p in told["packages"] if p["name"] == told["image"])
    config = folder / "config"
    return Kernel(
        name=row.name,
        vmlinuz=folder / "vmlinuz",
        release=told["release"],
        arch=told["arch"],
        modules=folder / "modules",
        config=config if config.exists() else None,
        package=image["name"],
        version=image["version"],
        sha256=image["sha256"],
    )


def _local(vmlinuz: Path) -> Kernel:
    """A kernel image somewhere on this machine; modules and config where distributions put them, if there."""
    if not vmlinuz.is_file():
        raise KernelUnknown(f"{vmlinuz}: no such file, and no name of a kernel to fetch")
    image = read_kernel_image(vmlinuz.read_bytes())
    release = image.release or ""
    modules = [vmlinuz.parent / "modules", Path("/lib/modules") / release]
    configs = [vmlinuz.parent / "config", vmlinuz.parent / f"config-{release}"]
    return Kernel(
        name=str(vmlinuz),
        vmlinuz=vmlinuz,
        release=release,
        arch=image.arch or os.uname().machine,
        modules=next((m for m in modules if release and m.is_dir()), None),
        config=next((c for c in configs if c.is_file()), None),
    )


def _point(link: Path, folder: Path) -> None:
    """Let *link* mean *folder*, in one step."""
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()
    fresh.symlink_to(os.path.relpath(folder, link.parent))
    fresh.replace(link)


@contextlib.contextmanager
def scratch_folder(store: Path) -> Iterator[Path]:
    """A folder beside the store's, gone afterwards; what a killed process left more than a day ago goes too."""
    for left in store.glob(".part-*"):
        with contextlib.suppress(OSError):
            if left.stat().st_mtime < store.stat().st_mtime - 86_400:
                shutil.rmtree(left, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=".part-", dir=store))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
