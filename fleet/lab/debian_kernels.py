"""Debian's kernels: fetched as packages by series and architecture, checked, unpacked once and kept.

    kernel = fetch(wanted("debian:6.12"), cache=Path("…/kernels"), origin=Origin())

In the cache:

    debian-6.12-amd64 → store/PACKAGE_VERSION_ARCHITECTURE/    vmlinuz, config, System.map, modules/, provenance.json
    apt/trixie-amd64/                                          an apt of our own (``fleet.lab.apt``)

Nothing is booted or loaded here.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from btf.fault import Fault, printable
from fleet.lab.apt import Apt, MirrorSilent, Package, PackageUnknown
from fleet.lab.kernel_store import (
    SCHEMA,
    Kernel,
    KernelUnknown,
    KernelUnusable,
    Origin,
    kept,
    point,
    scratch_folder,
    told_of,
)
from fleet.lab.mirror import debian_mirror

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


class SeriesGone(Fault):
    """The suite has another series of kernels by now."""

    code = "COR-LAB-016"
    remedy = "Ask for `debian:sid`, whatever it has, or keep the cache that has the older one."


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


def wanted(name: str) -> Wanted:
    """Parse ``debian:SERIES[/ARCHITECTURE]``. Raises KernelUnknown."""
    match = _NAME.fullmatch(name)
    row = Wanted(match["series"], match["arch"] or "amd64") if match else None
    if row is None or row.series not in SUITES or row.architecture not in ARCHITECTURES:
        raise KernelUnknown(f"{name}: no such kernel")
    return row


def cached(row: Wanted, *, cache: Path) -> Kernel | None:
    """Return the kernel if it is in the cache."""
    folder = row.link(cache).resolve()
    told = told_of(folder)
    return kept(row.name, folder, told) if told else None


def fetch(row: Wanted, *, cache: Path, origin: Origin, refresh: bool = False) -> Kernel:
    """Return the kernel *row*, from the cache or else fetched; *refresh* asks the mirror for a newer one."""
    if not refresh and (kernel := cached(row, cache=cache)) is not None:
        return kernel
    apt = apt_of(row, cache=cache, origin=origin)
    with apt.locked():
        if not refresh and (kernel := cached(row, cache=cache)) is not None:
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
    point(row.link(cache), folder)
    return kept(row.name, folder, json.loads((folder / "provenance.json").read_bytes()))


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
    for part in ("vmlinuz", "config", "System.map"):
        # Up to 6.12 in /boot; later beside the modules. A System.map of a few bytes only says where to get it.
        for place in (tree / "boot" / f"{part}-{release}", tree / "boot" / part, modules / part):
            if place.is_file() and (part != "System.map" or place.stat().st_size > 1 << 16):
                place.rename(whole / part)
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
