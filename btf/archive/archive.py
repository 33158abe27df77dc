"""A folder of kernel BTF, stored by content, compressed; found again by exact kernel build only.

    objects/ab/abcdef….btf.xz       the BTF, by its SHA-256
    kernels/<escaped id>.json       which kernel build has it, what that kernel calls itself, and who says so
    modules/<SHA-256>/<name>.json   which BTF a module has on the kernel whose own BTF has that digest

Every file appears whole or not at all. A near match is no match: BTF of another build relocates silently to wrong
offsets. An id that starts with ``name-`` is of BTF that is known by a release's name only, as public archives have it;
no host's kernel has such an id, so none is served by it unless a person gives it to a build.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import lzma
import math
import os
import re
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from btf.archive.btf_file import BtfUnreadable, read_btf_file, release_of_file
from btf.archive.module import KernelModule, parse_module
from btf.fault import EXIT_NO, Fault, printable
from btf.format.parse import MAX_BTF, BtfMalformed, parse_btf
from btf.format.types import Btf

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAX_NOTE = 64 * 1024
_HALF = ".new-"  # starts the name of what is not whole yet
_DAY_S = 86_400
_KEPT_PARSED = 8  # kernels whose parsed BTF stays in memory
NAMED_ONLY = "name-"
# How BTF came, by how much it says: a kernel's own word is not replaced by somebody else's.
HOW: Mapping[str, int] = {"btfhub": 0, "file": 1, "image": 2, "host": 2}
OWN = frozenset({"image", "host"})  # a kernel's own word


class ArchiveMissing(Fault):
    """The archive does not have what was asked for."""

    code = "COR-BTF-020"
    remedy = "`corollout kernels list` shows what is there; `corollout kernels import FILE` adds BTF."


class ArchiveDamaged(Fault):
    """A stored file is not what its name says."""

    code = "COR-BTF-021"
    remedy = "Remove the named file and fetch or import this kernel's BTF again."


class ArchiveUnwritable(Fault):
    """The archive's folder cannot be written."""

    code = "COR-BTF-022"
    remedy = "Make room, or correct the folder's owner and mode; nothing that was stored is lost."


class ArchiveContradicts(Fault):
    """The archive has another BTF for this kernel build, from a source that is not worse."""

    code = "COR-BTF-026"
    exit = EXIT_NO
    remedy = "One build has one BTF: find out which file is of another kernel; remove the note of the wrong one."


@dataclass(frozen=True, slots=True)
class KernelName:
    """What a kernel build calls itself: ``uname -r``, ``-v``, ``-m``; and whose it is. Empty where nobody said."""

    release: str = ""
    version: str = ""
    arch: str = ""
    distribution: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One kernel build and its BTF. ``source`` says who gave it, ``how`` in which way, ``at`` when, in Unix seconds.

    ``size`` in bytes, uncompressed; ``packed`` is the digest of the file it came in.
    """

    kernel_id: str
    sha256: str
    source: str
    size: int
    how: str = "file"
    at: float = 0.0
    name: KernelName = KernelName()
    packed: str = ""

    @property
    def exact(self) -> bool:
        """Whether the build is known, and not just a release's name."""
        return not self.kernel_id.startswith(NAMED_ONLY)

    @property
    def title(self) -> str:
        """The kernel as a person would call it."""
        version = f" {self.name.version.partition(' ')[0]}" if self.name.version else ""
        return f"{self.name.release}{version}" if self.name.release else self.kernel_id


@dataclass(frozen=True, slots=True)
class ModuleEntry:
    """The BTF of one module of the kernel whose BTF is *base*; ``size`` in bytes, uncompressed."""

    module: str
    base: str
    sha256: str
    source: str
    size: int
    at: float = 0.0


class Archive:
    """The archive under one folder, which is made when something is stored."""

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._objects = root / "objects"
        self._kernels = root / "kernels"
        self._modules = root / "modules"
        self._parsed: OrderedDict[str, Btf] = OrderedDict()
        self._clock = clock

    def put(
        self, data: bytes, *, kernel_id: str, source: str, how: str = "file", name: KernelName | None = None,
        packed: str = "",
    ) -> str:  # fmt: skip
        """Store the BTF of kernel build *kernel_id*, as given by *source*; return its SHA-256.

        Raise BtfMalformed, and ArchiveContradicts when the build has another BTF by a word that is worth as much.
        """
        parse_btf(data)
        sha256 = hashlib.sha256(data).hexdigest()
        row = Entry(kernel_id, sha256, source, len(data), how, self._clock(), name or KernelName(), packed)
        known = self.agree(row)
        if known and known.sha256 == sha256 and HOW[known.how] > HOW[how]:
            return sha256
        self._keep(sha256, data)
        note = {"kernel": kernel_id, "sha256": sha256, "source": source, "bytes": len(data), "how": how, "at": row.at}
        note |= {"packed": packed, **asdict(row.name)}
        _write_whole(self._note(kernel_id), json.dumps(note, sort_keys=True).encode())
        return sha256

    def agree(self, row: Entry) -> Entry | None:
        """Return what is known of the build that *row* is of; raise ArchiveContradicts when that counts as much."""
        known = self.entry(row.kernel_id)
        if known and known.sha256 != row.sha256 and (HOW[known.how] > HOW[row.how] or known.how in OWN):
            raise ArchiveContradicts(
                f"kernel {row.kernel_id} has BTF {known.sha256[:12]} from {known.source}; this is {row.sha256[:12]}"
            )
        return known

    def put_module(self, module: KernelModule, *, base: str, source: str) -> str:
        """Store the BTF of *module* for the kernel whose BTF has the digest *base*; return its SHA-256.

        Raise ModuleForeign when it is another kernel's, ArchiveMissing when there is no such base.
        """
        parse_module(module, self.btf(base))
        sha256 = hashlib.sha256(module.btf).hexdigest()
        self._keep(sha256, module.btf)
        note = {"module": module.name, "base": base, "sha256": sha256, "source": source, "bytes": len(module.btf),
                "at": self._clock()}  # fmt: skip
        _write_whole(self._modules / base / f"{module.name}.json", json.dumps(note, sort_keys=True).encode())
        return sha256

    def modules(self, base: str) -> list[ModuleEntry]:
        """Return the modules stored for the kernel whose BTF has the digest *base*, by name."""
        folder = self._modules / base
        found = map(_module_of, sorted(folder.glob("*.json")) if _DIGEST.fullmatch(base) and folder.is_dir() else [])
        return [m for m in found if m and m.base == base]

    def module_btf(self, entry: ModuleEntry) -> Btf:
        """Return the parsed BTF of a module, on top of its kernel's."""
        return parse_btf(self.get(entry.sha256), base=self.btf(entry.base))

    def get(self, sha256: str) -> bytes:
        """Return the BTF with this digest; raise ArchiveMissing or ArchiveDamaged."""
        path = self._object(sha256)
        try:
            with lzma.open(path) as file:
                data = file.read(MAX_BTF + 1)
        except FileNotFoundError:
            raise ArchiveMissing(f"no BTF with digest {sha256[:12]} is in the archive") from None
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise ArchiveDamaged(f"{path}: {error}") from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ArchiveDamaged(f"{path}: the content has another digest")
        return data

    def for_kernel(self, kernel_id: str) -> str | None:
        """Return the digest of the BTF of exactly this kernel build, or None."""
        entry = self.entry(kernel_id)
        return entry.sha256 if entry else None

    def entry(self, kernel_id: str) -> Entry | None:
        """Return what is noted of exactly this kernel build, or None."""
        entry = _entry_of(self._note(kernel_id))
        return entry if entry and entry.kernel_id == kernel_id else None

    def btf(self, sha256: str) -> Btf:
        """Return the parsed BTF with this digest; the last few stay in memory."""
        if sha256 in self._parsed:
            self._parsed.move_to_end(sha256)
        else:
            self._parsed[sha256] = parse_btf(self.get(sha256))
            if len(self._parsed) > _KEPT_PARSED:
                self._parsed.popitem(last=False)
        return self._parsed[sha256]

    def list(self) -> list[Entry]:
        """Return all entries by kernel id; unreadable notes are left out."""
        notes = sorted(self._kernels.glob("*.json")) if self._kernels.is_dir() else []
        return sorted((e for e in map(_entry_of, notes) if e), key=lambda entry: entry.kernel_id)

    def holds(self, sha256: str) -> bool:
        """Tell whether the BTF with this digest is stored."""
        return self._object(sha256).exists()

    def tidy(self) -> None:
        """Remove what writers that were killed more than a day ago left half-written; nothing refers to it."""
        for folder in (self._objects, self._kernels, self._modules):
            for left in folder.rglob(f"{_HALF}*"):
                with contextlib.suppress(OSError):
                    if left.stat().st_mtime < self._clock() - _DAY_S:
                        left.unlink()

    def _keep(self, sha256: str, data: bytes) -> None:
        path = self._object(sha256)
        if not path.exists():
            _write_whole(path, lzma.compress(data, preset=1))

    def _object(self, sha256: str) -> Path:
        if not _DIGEST.fullmatch(sha256):
            raise ArchiveMissing(f"{sha256!r} is not a digest")
        return self._objects / sha256[:2] / f"{sha256}.btf.xz"

    def _note(self, kernel_id: str) -> Path:
        # Dots too: an id may not climb out of the folder or hide in it.
        name = quote(kernel_id, safe="").replace(".", "%2E")
        if len(name) > 200:
            name = hashlib.sha256(kernel_id.encode("utf-8", "surrogateescape")).hexdigest()
        return self._kernels / f"{name}.json"


def _read_note(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        note = json.loads(file.read(_MAX_NOTE))
    if not isinstance(note, dict) or not _DIGEST.fullmatch(str(note["sha256"])):
        raise ValueError
    return note


def _time(note: dict[str, Any]) -> float:
    at = float(note.get("at", 0))
    if not math.isfinite(at):
        raise ValueError
    return at


def _entry_of(path: Path) -> Entry | None:
    try:
        note = _read_note(path)
        how = str(note.get("how", "file"))
        name = KernelName(
            *(printable(str(note.get(key, ""))) for key in ("release", "version", "arch", "distribution"))
        )
        return Entry(
            str(note["kernel"]), str(note["sha256"]), printable(str(note["source"])), int(note["bytes"]),
            how if how in HOW else "file", _time(note), name, str(note.get("packed", "")),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _module_of(path: Path) -> ModuleEntry | None:
    try:
        note = _read_note(path)
        return ModuleEntry(
            str(note["module"]), str(note["base"]), str(note["sha256"]), printable(str(note["source"])),
            int(note["bytes"]), _time(note),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _write_whole(path: Path, data: bytes) -> None:
    """Write beside, flush to the disk, rename: a reader or a crash sees the old file or the new one."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=_HALF, delete=False) as file:
            temporary = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise ArchiveUnwritable(f"{path}: {error.strerror}") from None


__all__ = ["Archive", "ArchiveContradicts", "ArchiveDamaged", "ArchiveMissing", "ArchiveUnwritable", "BtfMalformed",
           "BtfUnreadable", "Entry", "KernelName", "ModuleEntry", "read_btf_file",
           "release_of_file"]  # fmt: skip
