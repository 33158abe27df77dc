"""Real kernels by name: fetched as packages or built from a package's source, checked, unpacked once and kept.

    kernel = fetch("debian:6.12", cache=Path("…/kernels"))
    kernel.vmlinuz, kernel.release, kernel.arch, kernel.modules

A name is ``debian:SERIES`` or ``debian:SERIES/ARCHITECTURE`` (``debian_kernels``), ``small:KIND`` (``small_kernels``),
or the path of a ``vmlinuz``.
"""

from __future__ import annotations

import os
from pathlib import Path

from btf.archive.kernel_image import read_kernel_image
from fleet.lab import debian_kernels, small_kernels
from fleet.lab.debian_kernels import SUITES, wanted
from fleet.lab.kernel_store import Kernel, KernelUnknown, Origin
from fleet.lab.small_kinds import KINDS, kind

# What is worth listing; every series of every architecture can be asked for.
NAMES = (
    *(f"debian:{series}" for series in SUITES),
    *("debian:6.12/arm64", "debian:6.1/s390x"),
    *(f"small:{name}" for name in KINDS),
)


def cached(name: str, *, cache: Path) -> Kernel | None:
    """Return the kernel if it is in the cache, or a path; None when it must be fetched or built.

    Raises KernelUnknown, and what ``btf.archive.kernel_image`` raises for a file that is no kernel.
    """
    if name.startswith("debian:"):
        return debian_kernels.cached(wanted(name), cache=cache)
    if name.startswith("small:"):
        return small_kernels.cached(kind(name), cache=cache)
    return _local(Path(name))


def fetch(name: str, *, cache: Path, origin: Origin | None = None, refresh: bool = False) -> Kernel:
    """Return the kernel *name*, from the cache or else fetched or built; *refresh* asks the mirror for a newer one.

    Several processes may ask for the same kernel at once: one fetches, the others wait. Raises a Fault of the rooms
    above, of ``fleet.lab.apt`` or of ``fleet.lab.mirror``.
    """
    origin, cache = origin or Origin(), cache.absolute()
    if name.startswith("debian:"):
        return debian_kernels.fetch(wanted(name), cache=cache, origin=origin, refresh=refresh)
    if name.startswith("small:"):
        return small_kernels.fetch(kind(name), cache=cache, origin=origin, refresh=refresh)
    return _local(Path(name))


def source_of(name: str) -> tuple[str, str]:
    """Where a kernel that is not there would come from, in words, and its architecture in uname's word."""
    if name.startswith("small:"):
        row = kind(name)
        return f"built from {row.package} of {row.suite}: {row.summary}", "x86_64"
    debian = wanted(name)
    return f"{debian.package} of {debian.suite}", debian.machine


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
