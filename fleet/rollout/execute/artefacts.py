"""The bytes a plan's specs name, kept by digest from the moment of planning: what is rolled out is what was planned."""

from __future__ import annotations

import hashlib
import os
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

from btf.fault import Fault


class ArtefactLost(Fault):
    """An artefact of a plan is no longer here, or is not what it was."""

    code = "COR-ROL-022"
    remedy = "Plan again: it keeps the artefacts anew. Hosts that have the artefact already are not affected."


class Artefacts:
    """A folder of files named by their SHA-256. *fetch* gets one that is not here from where it is shared, if it is."""

    def __init__(self, root: Path, *, fetch: Callable[[str], bytes | None] = lambda _: None) -> None:
        self.root = root
        self._fetch = fetch
        self._packed: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def put(self, data: bytes) -> str:
        """Keep *data*; returns its SHA-256. Atomic: a reader sees all of it or nothing."""
        digest = hashlib.sha256(data).hexdigest()
        path = self.root / digest
        if not path.exists():
            self.root.mkdir(parents=True, exist_ok=True)
            draft = self.root / f".{digest}.{os.getpid()}.{threading.get_ident()}"
            draft.write_bytes(data)
            draft.replace(path)
        return digest

    def get(self, digest: str) -> bytes:
        """Return the bytes, or raise ArtefactLost when they are gone or no longer hash to their name."""
        try:
            data = (self.root / digest).read_bytes()
        except OSError as error:
            shared = self._fetch(digest)
            if shared is None or self.put(shared) != digest:
                raise ArtefactLost(f"artefact {digest} is not in {self.root}: {error.strerror}") from None
            return shared
        if hashlib.sha256(data).hexdigest() != digest:
            raise ArtefactLost(f"artefact {digest} in {self.root} was changed")
        return data

    def packed(self, digest: str) -> bytes:
        """Return the bytes zlib-compressed; done once, however many hosts get them."""
        with self._lock:
            if digest not in self._packed:
                self._packed[digest] = zlib.compress(self.get(digest), 6)
            return self._packed[digest]
