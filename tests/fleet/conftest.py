from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pg_server import Server
from scripted_hosts import plan_of
from scripted_rollout import Rollout


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


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Rollout]]:
    """Make rollouts on scripted hosts: of these waves, with these settings; three waves of six hosts by default."""
    made = []

    def begin(*waves: list[str], script: dict | None = None, **settings: Any) -> Rollout:
        chosen = waves or (["a"], ["b", "c"], ["d", "e", "f"])
        made.append(Rollout(tmp_path, plan_of(*chosen, **settings), script))
        return made[-1]

    yield begin
    for rollout in made:
        rollout.record.close()
