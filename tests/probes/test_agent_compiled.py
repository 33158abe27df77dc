"""The agent compiled once for a host's Python: made by what writes anyway, used by every start, and never needed."""

from __future__ import annotations

import os
import subprocess
import zlib
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from agent_host import FALLBACK, AgentHost, wait_for


@pytest.fixture
def host(tmp_path: Path) -> Iterator[AgentHost]:
    made = AgentHost(tmp_path)
    yield made
    assert made.close() == []


def compiled(host: AgentHost) -> list[Path]:
    return sorted(host.folder.glob("agent.pyz.*"))


def imported_from(host: AgentHost) -> str:
    """The interpreter's own words for where the agent came from."""
    told = subprocess.run(
        host.command("status"), env={**os.environ, "PYTHONVERBOSE": "1"}, capture_output=True, check=True
    ).stderr.decode(errors="replace")
    return next(line for line in told.splitlines() if line.startswith("import 'probes.agent.main'"))


def test_the_first_that_writes_compiles_and_every_start_uses_it(host: AgentHost) -> None:
    host.run("status")
    assert compiled(host) == [] and "agent.pyz/" in imported_from(host)  # asking writes nothing
    host.stage(FALLBACK.encode())
    (made,) = compiled(host)
    assert made.stat().st_mode & 0o777 == 0o600
    assert f"{made}/" in imported_from(host)
    before = made.stat().st_mtime_ns
    host.stage(b"another")
    assert made.stat().st_mtime_ns == before


def test_an_agent_whose_artefacts_are_there_compiles_when_it_applies(host: AgentHost) -> None:
    host.stage(FALLBACK.encode())
    compiled(host)[0].unlink()
    host.applied(host.spec(), 1)
    assert len(compiled(host)) == 1
    assert host.run("remove", "--program", "sample-trace", "--token", "2")[0] == 0


def test_what_it_starts_is_started_from_the_zipapp(host: AgentHost) -> None:
    host.stage(FALLBACK.encode())
    host.applied(host.spec(), 1)
    words = Path(f"/proc/{host.holder()['pid']}/cmdline").read_bytes().split(b"\0")
    assert str(host.agent).encode() in words
    wait_for(host.records)
    assert host.run("remove", "--program", "sample-trace", "--token", "2")[0] == 0


@pytest.mark.parametrize("data", [b"", b"PK\3\4 half", os.urandom(5000)])
def test_a_damaged_one_is_passed_over(data: bytes, host: AgentHost) -> None:
    host.stage(FALLBACK.encode())
    compiled(host)[0].write_bytes(data)
    assert host.run("status")[0] == 0
    assert "agent.pyz/" in imported_from(host)


def test_where_it_cannot_be_written_the_verb_does_its_work(host: AgentHost) -> None:
    long = host.agent.rename(host.folder / ("a" * 240 + ".pyz"))  # a name that leaves no room for a longer one
    stage = [host.python, str(long), "--state", str(host.state), "stage", sha256(b"some").hexdigest()]
    subprocess.run(stage, input=zlib.compress(b"some"), capture_output=True, check=True)
    assert list(host.folder.glob("a*.pyz*")) == [long]
