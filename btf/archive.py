"""A folder of kernel BTF, stored by content, compressed; found again by exact kernel build only.

    objects/ab/abcdef….btf.xz     the BTF, by its SHA-256
    kernels/<escaped id>.json     {"kernel", "sha256", "source", "bytes"}: which kernel build has it, and who says so

Every file appears whole or not at all. A near match is no match: BTF of another build relocates silently to wrong
offsets.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import re
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from btf.btf_file import BtfUnreadable, read_btf_file, release_of_file
from btf.fault import Fault
from btf.parse import MAX_BTF, BtfMalformed, parse_btf
from btf.types import Btf

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAX_NOTE = 64 * 1024
_KEPT_PARSED = 8  # kernels whose parsed BTF stays in memory


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


@dataclass(frozen=True, slots=True)
class Entry:
    """One kernel build and its BTF. ``source`` says who gave it; ``size`` in bytes, uncompressed."""

    kernel_id: str
    sha256: str
    source: str
    size: int


class Archive:
    """The archive under one folder, which is made when something is stored."""

    def __init__(self, root: Path) -> None:
        self._objects = root / "objects"
        self._kernels = root / "kernels"
        self._parsed: OrderedDict[str, Btf] = OrderedDict()

    def put(self, data: bytes, *, kernel_id: str, source: str) -> str:
        """Store the BTF of kernel build *kernel_id*, as given by *source*; return its SHA-256. Raise BtfMalformed."""
        parse_btf(data)
        sha256 = hashlib.sha256(data).hexdigest()
        path = self._object(sha256)
        if not path.exists():
            _write_whole(path, lzma.compress(data, preset=1))
        note = {"kernel": kernel_id, "sha256": sha256, "source": source, "bytes": len(data)}
        _write_whole(self._note(kernel_id), json.dumps(note, sort_keys=True).encode())
        return sha256

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
        entry = self._read(self._note(kernel_id))
        return entry.sha256 if entry and entry.kernel_id == kernel_id else None

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
        return sorted((e for e in map(self._read, notes) if e), key=lambda entry: entry.kernel_id)

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

    def _read(self, path: Path) -> Entry | None:
        try:
            with path.open("rb") as file:
                note = json.loads(file.read(_MAX_NOTE))
            entry = Entry(str(note["kernel"]), str(note["sha256"]), str(note["source"]), int(note["bytes"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return entry if _DIGEST.fullmatch(entry.sha256) else None


def _write_whole(path: Path, data: bytes) -> None:
    """Write beside, flush to the disk, rename: a reader or a crash sees the old file or the new one."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as file:
            temporary = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise ArchiveUnwritable(f"{path}: {error.strerror}") from None


__all__ = ["Archive", "ArchiveDamaged", "ArchiveMissing", "ArchiveUnwritable", "BtfMalformed", "BtfUnreadable",
           "Entry", "read_btf_file", "release_of_file"]  # fmt: skip
