"""Kernels on disk, however they came: what a kernel is here, and the folders they are kept in.

A folder of the store has ``vmlinuz``, ``config``, ``provenance.json`` and, where they are to be had, ``System.map``,
``modules/`` and ``vmlinux.btf``. It appears whole or not at all; a link beside the store names the newest of its kind.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from btf.archive.kernel_image import read_kernel_image
from btf.fault import EXIT_USAGE, Fault
from fleet.lab.apt import KEYRING

SCHEMA = "corollout.kernel/1"


class KernelUnknown(Fault):
    """Not the name of a kernel that can be fetched, and not a file."""

    code = "COR-LAB-015"
    exit = EXIT_USAGE
    remedy = "`corollout lab kernels` lists the names; add /ARCHITECTURE for another than amd64, or give a vmlinuz."


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
class Origin:
    """Where packages come from: None = the mirror of this machine's own apt, looked up when needed."""

    mirror: str | None = None
    keyring: Path = KEYRING
    say: Callable[[str], None] = field(default=lambda _line: None)


def told_of(folder: Path) -> Mapping[str, Any] | None:
    """Return what a folder of the store says of its kernel, None when there is none."""
    try:
        told = json.loads((folder / "provenance.json").read_bytes())
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) else None


def kept(name: str, folder: Path, told: Mapping[str, Any]) -> Kernel:
    """Return the kernel of a folder of the store, under the name it was asked for by."""
    image = next(p for p in told["packages"] if p["name"] == told["image"])
    modules, config = folder / "modules", folder / "config"
    return Kernel(
        name=name,
        vmlinuz=folder / "vmlinuz",
        release=told["release"],
        arch=told["arch"],
        modules=modules if modules.is_dir() else None,
        config=config if config.exists() else None,
        package=image["name"],
        version=image["version"],
        sha256=image["sha256"],
    )


def kernel_btf(kernel: Kernel) -> bytes | None:
    """Return the BTF of a kernel: that inside its image, unpacked once where the cache can keep it, or, for one that
    carries none, what was made beside it when it was built; None when there is neither.

    Raises what ``btf.archive.kernel_image`` raises for a file that is no kernel.
    """
    beside = kernel.vmlinuz.parent / "vmlinux.btf" if kernel.package else None
    if beside and beside.exists():
        return beside.read_bytes() or None
    data = read_kernel_image(kernel.vmlinuz.read_bytes()).btf
    if beside:
        with contextlib.suppress(OSError):
            fresh = beside.with_name(f".{beside.name}.{os.getpid()}.{threading.get_ident()}")
            fresh.write_bytes(data or b"")
            fresh.replace(beside)
    return data


def point(link: Path, folder: Path) -> None:
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
