from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pg_server import Server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL of our own. In a folder with a short name, for its socket, that an unprivileged user reaches."""
    root = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        server = Server(root)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(root)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where a record may be: on either database, none made yet."""
    if request.param == "sqlite":
        return tmp_path / "fleet.db"
    return request.getfixturevalue("postgres").database()
