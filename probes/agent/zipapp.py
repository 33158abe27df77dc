"""Build the host agent: one zipapp with the agent and the collector, the same bytes from the same sources.

This runs where Corollout runs, never on a host, and is not inside what it builds.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from probes.agent.compiled import START

_ROOT = Path(__file__).resolve().parents[2]
_FOLDERS = ("probes/agent", "inventory/collector")
_PACKAGES = ("probes", "inventory")
_DATE = (1980, 1, 1, 0, 0, 0)
_START = b"#!/usr/bin/env python3\n"
_MAIN = START.encode() + b"from probes.agent.main import run\n\nrun()\n"


def _members() -> dict[str, bytes]:
    found = {f"{package}/__init__.py": b"" for package in _PACKAGES}
    found["__main__.py"] = _MAIN
    for folder in _FOLDERS:
        for path in sorted((_ROOT / folder).glob("*.py")):
            if path != Path(__file__).resolve():
                found[f"{folder}/{path.name}"] = path.read_bytes()
    return found


def build_agent() -> bytes:
    """Return the zipapp's bytes: ``python3 agent.pyz VERB``, Python 3.6 and newer."""
    data = io.BytesIO()
    data.write(_START)
    with zipfile.ZipFile(data, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(_members().items()):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            entry.create_system = 3
            archive.writestr(entry, content)
    return data.getvalue()
