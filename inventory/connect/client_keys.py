"""The key a person logs in with, read once while its file stays the same: a fleet is logged in to with one."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import paramiko


def client_key(path: Path) -> paramiko.PKey | None:
    """Return the private key of *path*, with the certificate that lies beside it.

    None for a file that is not there, has a passphrase or is of another kind: then the library tries, and says why.
    """
    return _read(path, _state(path), _state(Path(f"{path}-cert.pub")))


def _state(path: Path) -> tuple[int, int] | None:
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_mtime_ns, seen.st_ino


@lru_cache(maxsize=64)
def _read(path: Path, _key: object, _certificate: object) -> paramiko.PKey | None:
    try:
        return paramiko.PKey.from_path(path)
    except Exception:  # whatever it is: the login is tried all the same, and names it
        return None
