"""Files the controller makes for hosts, by SHA-256, in the home: what a plan names must be there when it runs."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from btf.fault import Fault


class ArtefactGone(Fault):
    """A plan names a file that is no longer in the home."""

    code = "COR-PLN-020"
    remedy = "Plan again: `corollout plan` makes it anew."


@dataclass(frozen=True, slots=True)
class Artefacts:
    """A folder of files named by their digest; writes are atomic, the same bytes are kept once."""

    root: Path

    def put(self, data: bytes) -> str:
        """Keep *data* and return its SHA-256."""
        digest = hashlib.sha256(data).hexdigest()
        path = self.root / digest
        if not path.exists():
            self.root.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.root)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                Path(name).rename(path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        return digest

    def path(self, digest: str) -> Path:
        """Return where the file is, or raise ArtefactGone."""
        path = self.root / digest
        if not path.exists():
            raise ArtefactGone(f"artefact {digest[:12]} is not in {self.root}")
        return path
