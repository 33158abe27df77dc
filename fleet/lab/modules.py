"""Kernel modules out of a kernel's own package: found by name, unpacked, in the order in which they must be loaded."""

from __future__ import annotations

import gzip
import lzma
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

_MAX_MODULE = 64 << 20
# Ending of a module's file → how it is unpacked. What is packed otherwise (zstd) is left out: the guest says so.
_OPENERS: Mapping[str, Callable[[bytes], bytes]] = {".ko": bytes, ".ko.xz": lzma.decompress, ".ko.gz": gzip.decompress}
_DEPENDS = re.compile(rb"(?:\A|\0)depends=([\w,-]*)\0")


def load_order(folder: Path | None, names: Iterable[str]) -> list[tuple[str, bytes]]:
    """Return the modules *names* with those they depend on, each after what it needs: (name, bytes of the ``.ko``).

    *folder* is the content of ``/lib/modules/RELEASE``. What is not there is built in, or not to be had: left out.
    """
    at = _files(folder) if folder else {}
    done: dict[str, bytes] = {}

    def add(name: str, trail: frozenset[str]) -> None:
        name = name.replace("-", "_")
        path = at.get(name)
        if path is None or name in done or name in trail:
            return
        data = _unpacked(path)
        match = _DEPENDS.search(data)
        for needed in match[1].decode().split(",") if match and match[1] else ():
            add(needed, trail | {name})
        done[name] = data

    for name in names:
        add(name, frozenset())
    return list(done.items())


def _files(folder: Path) -> dict[str, Path]:
    found = {}
    for path in (folder / "kernel").rglob("*.ko*"):
        stem, _, _ = path.name.partition(".ko")
        if path.name.removeprefix(stem) in _OPENERS:
            found[stem.replace("-", "_")] = path
    return found


def _unpacked(path: Path) -> bytes:
    return _OPENERS[path.name[path.name.index(".ko") :]](path.read_bytes())[:_MAX_MODULE]
