"""Read OpenSSH known_hosts files: which keys a host may show, and which were revoked. Never writes one.

paramiko's reader compares every line with every other and knows no ``@revoked``, so a file of a large fleet would take
minutes and a revoked key would pass. Certificate authorities are not supported: such a host counts as unknown.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from inventory.connect.errors import KeyUnusable

MAX_FILE = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class KnownKey:
    """One key of the file: its type and the key's wire form."""

    type: str
    blob: bytes
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class KnownHosts:
    """The entries of one or more files: plain names by look-up, hashed names and patterns by trial."""

    by_name: dict[str, list[KnownKey]] = field(default_factory=dict)
    by_trial: list[tuple[str, KnownKey]] = field(default_factory=list)

    def keys(self, address: str, port: int) -> tuple[KnownKey, ...]:
        """Return the keys for *address* and *port*, in file order for each kind of name."""
        name = address.lower() if port == 22 else f"[{address.lower()}]:{port}"
        tried = [key for names, key in self.by_trial if _matches(names, name)]
        return (*self.by_name.get(name, ()), *tried)


def _matches(names: str, name: str) -> bool:
    """Tell whether the first field of a line names *name*; a negated pattern that matches excludes the line."""
    if names.startswith("|1|"):
        try:
            _, _, salt, digest = names.split("|")
            seen = hmac.new(base64.b64decode(salt), name.encode(), hashlib.sha1).digest()
            return hmac.compare_digest(seen, base64.b64decode(digest))
        except ValueError:
            return False
    hit = False
    for pattern in names.lower().split(","):
        # Only * and ? are special in OpenSSH; the brackets of "[host]:port" are not.
        if fnmatch.fnmatchcase(name, pattern.lstrip("!").replace("[", "[[]")):
            if pattern.startswith("!"):
                return False
            hit = True
    return hit


def parse_known_hosts(lines: Iterable[str]) -> KnownHosts:
    """Parse lines of known_hosts; a line that cannot be understood is left out, as OpenSSH does."""
    known = KnownHosts()
    for line in lines:
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        marker = fields.pop(0) if fields[0].startswith("@") else ""
        if marker not in ("", "@revoked") or len(fields) < 3:
            continue
        try:
            key = KnownKey(fields[1], base64.b64decode(fields[2], validate=True), marker == "@revoked")
        except (binascii.Error, ValueError):
            continue
        names = fields[0]
        if names.startswith("|") or any(sign in names for sign in "*?!"):
            known.by_trial.append((names, key))
        else:
            for name in names.lower().split(","):
                known.by_name.setdefault(name, []).append(key)
    return known


def load_known_hosts(path: Path) -> KnownHosts:
    """Read *path*; a file that is not there holds no keys. Raises KeyUnusable when it cannot be read."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return KnownHosts()
    except OSError as error:
        raise KeyUnusable(f"{path}: {error.strerror}") from None
    return _cached(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8)
def _cached(path: Path, _mtime_ns: int, size: int) -> KnownHosts:
    if size > MAX_FILE:
        raise KeyUnusable(f"{path}: larger than {MAX_FILE} bytes")
    try:
        return parse_known_hosts(path.read_text(encoding="utf-8", errors="replace").splitlines())
    except OSError as error:
        raise KeyUnusable(f"{path}: {error.strerror}") from None
