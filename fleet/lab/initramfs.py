"""Make an initramfs: files in, the bytes of a cpio archive out. The kernel unpacks several, one after the other.

:func:`base` is what every proof guest has: a static busybox, the runner, and this machine's own Python with just the
modules that the collector and the guest import. What guests of another architecture have is in ``fleet.lab.foreign``.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from btf.fault import EXIT_USAGE, Fault
from fleet.lab.machine import EMULATORS
from inventory.collector.bundle import collector_source
from probes.catalogue import RUNNER

BUSYBOX = "busybox"
GUEST = Path(__file__).parent / "guest.py"
_FOLDERS = ("dev", "job", "proc", "run", "sys", "tmp", "etc")
_CODECS = ("encodings.ascii", "encodings.idna", "encodings.latin_1")
_LEFT_OUT = ("_hashlib.", "_ssl.")  # hashlib does without OpenSSL, which is as large as the rest
# What an import of the named modules loads, with its compiled form; run isolated, without site-packages.
_LIST = """
import importlib, json, sys
for name in json.load(sys.stdin):
    try:
        importlib.import_module(name)
    except ImportError:
        pass
loaded = list(sys.modules.values())
print(json.dumps(sorted({f for m in loaded for n in ("__file__", "__cached__") if (f := getattr(m, n, None))})))
"""


class GuestUnbuildable(Fault):
    """This machine lacks a part that proof guests are made of."""

    code = "COR-LAB-020"
    exit = EXIT_USAGE
    remedy = "`make setup build` installs busybox-static and builds the runner."


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, folder or link of an archive: ``mode`` as in ``st_mode``, ``mtime`` in seconds."""

    mode: int
    data: bytes = b""
    mtime: int = 0


def cpio(entries: Mapping[str, Entry]) -> bytes:
    """Return an archive in the kernel's format ("newc"); folders that files lie in are added."""
    folders = {str(parent): Entry(stat.S_IFDIR | 0o755) for path in entries for parent in Path(path).parents}
    folders.pop(".", None)
    out = bytearray()
    every = {**dict(sorted(folders.items())), **entries}
    for number, (path, entry) in enumerate((*every.items(), ("TRAILER!!!", Entry(0))), 1):
        name = path.encode() + b"\0"
        # ino, mode, uid, gid, nlink, mtime, size, device major and minor, its own major and minor, name's size, check
        fields = (number, entry.mode, 0, 0, 1, entry.mtime, len(entry.data), 0, 0, 0, 0, len(name), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        out += b"\0" * (-len(out) % 4)
        out += entry.data
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


def plain_file(data: bytes, *, mode: int = 0o644, mtime: int = 0) -> Entry:
    """A file of an archive."""
    return Entry(stat.S_IFREG | mode, data, mtime)


def link(target: str) -> Entry:
    """A link of an archive."""
    return Entry(stat.S_IFLNK | 0o777, target.encode())


@dataclass(frozen=True, slots=True)
class Base:
    """What every proof guest of one architecture starts from: the archive, and the digest of the runner in it."""

    archive: bytes
    runner: str


@functools.cache
def base() -> Base:
    """Return what proof guests of this machine's architecture start from. Raises GuestUnbuildable."""
    busybox = shutil.which(BUSYBOX)
    if busybox is None or not _static(Path(busybox)):
        raise GuestUnbuildable("no static busybox is on this machine")
    if not RUNNER.exists():
        raise GuestUnbuildable(f"{RUNNER.name} is not built")
    entries = {}
    for path in _python():
        status = path.stat()
        entries[str(path).lstrip("/")] = plain_file(path.read_bytes(), mode=0o755, mtime=int(status.st_mtime))
    entries["usr/bin/python3"] = entries.get("usr/bin/python3") or link(str(_interpreter()))
    return assemble(os.uname().machine, Path(busybox).read_bytes(), RUNNER.read_bytes(), entries)


def assemble(arch: str, busybox: bytes, runner: bytes, python: Mapping[str, Entry]) -> Base:
    """Put the parts of a proof guest together; *python* has an interpreter at ``usr/bin/python3``."""
    entries = {folder: Entry(stat.S_IFDIR | 0o755) for folder in _FOLDERS}
    entries["bin/busybox"] = plain_file(busybox, mode=0o755)
    for applet in ("sh", "mount", "umount", "insmod", "ip", "true", "cat", "poweroff"):
        entries[f"bin/{applet}"] = link("busybox")
    entries["bin/bpfrun"] = plain_file(runner, mode=0o755)
    entries["etc/passwd"] = plain_file(b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
    entries["collector.py"] = plain_file(collector_source())
    entries["guest.py"] = plain_file(GUEST.read_bytes())
    entries["init"] = plain_file((_INIT % EMULATORS[arch].report).encode(), mode=0o755)
    return Base(cpio({**entries, **python}), hashlib.sha256(runner).hexdigest())


_INIT = """#!/bin/busybox sh
export PATH=/bin:/usr/bin PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0
mount -t devtmpfs none /dev
exec /usr/bin/python3 -I -S /guest.py </dev/null >/dev/%s 2>&1
"""


def _static(program: Path) -> bool:
    done = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False)
    return "=>" not in done.stdout


def _interpreter() -> Path:
    """The system's Python, which is stripped and small; else the one below this environment."""
    system = Path("/usr/bin/python3")
    return (system if system.exists() else Path(getattr(sys, "_base_executable", sys.executable))).resolve()


def _python() -> list[Path]:
    """The interpreter, what it imports for us, and the libraries of both."""
    interpreter = _interpreter()
    wanted = json.dumps([*_CODECS, *_imports(collector_source().replace(b"\\n", b"\n")), *_imports(GUEST.read_bytes())])
    done = subprocess.run(
        [str(interpreter), "-I", "-S", "-c", _LIST], input=wanted, capture_output=True, text=True, check=True
    )
    files = [
        Path(f) for f in json.loads(done.stdout) if Path(f).is_file() and not f.startswith(_LEFT_OUT, f.rfind("/") + 1)
    ]
    return sorted({interpreter, *files, *_libraries([interpreter, *(f for f in files if f.suffix == ".so")])})


def _imports(source: bytes) -> list[str]:
    """Top-level names in the import statements of a script."""
    lines = (line.split() for line in source.decode().splitlines())
    return sorted({w[1].split(".")[0] for w in lines if w[:1] in (["import"], ["from"]) and len(w) > 1} - {"inventory"})


def _libraries(programs: Iterable[Path]) -> set[Path]:
    found = set()
    for program in programs:
        done = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False)
        found |= {Path(word) for word in done.stdout.split() if word.startswith("/")}
    return {path for path in found if os.access(path, os.R_OK)}
