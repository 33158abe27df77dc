"""The shipped agent: the same bytes from the same sources, Python 3.6, standard library only."""

from __future__ import annotations

import ast
import io
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from agent_host import FALLBACK, AgentHost

from probes.agent.zipapp import build_agent

SHIPPED = {n: d for z in [zipfile.ZipFile(io.BytesIO(build_agent()))] for n in z.namelist() for d in [z.read(n)]}
PYTHONS = sorted(
    {
        str(path)
        for pattern in ("/usr/bin", "/usr/local/bin", "/opt/*/bin", "/root/.pyenv/versions/3*/bin")
        for folder in Path("/").glob(pattern[1:])
        for path in folder.glob("python3.*")
        if path.name.removeprefix("python3.").isdigit() and int(path.name.removeprefix("python3.")) >= 6
    }
    | {sys.executable}
)


def test_the_bytes_are_reproducible() -> None:
    assert build_agent() == build_agent()
    assert "__main__.py" in SHIPPED and "probes/agent/main.py" in SHIPPED and "probes/agent/zipapp.py" not in SHIPPED


@pytest.mark.parametrize("name", sorted(n for n in SHIPPED if n.startswith("probes/")))
def test_sources_are_python_3_6_and_import_only_the_standard_library(name: str) -> None:
    tree = ast.parse(SHIPPED[name], feature_version=(3, 6))
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    names.discard("bcc")  # imported on purpose where a BCC build is asked for
    ours = {n for n in names if n.split(".")[0] in ("probes", "inventory")}
    assert all(n.split(".")[0] in sys.stdlib_module_names for n in names - ours), names
    assert all(n.startswith(("probes.agent", "inventory.collector")) for n in ours), ours
    assert "dataclasses" not in names and "__future__" not in names


@pytest.mark.parametrize("python", PYTHONS)
def test_it_works_on_every_python_here(python: str, tmp_path: Path) -> None:
    host = AgentHost(tmp_path, python=python)
    try:
        host.stage(FALLBACK.encode())
        host.applied(host.spec(), 1)
        assert host.when(lambda row: row["sample"])["state"] == "running"
        assert host.records("--limit", "1")
        assert host.run("remove", "--program", "sample-trace", "--token", "2")[0] == 0
        assert host.marks() == []
    finally:
        assert host.close() == []


def test_facts_are_the_collectors_document(tmp_path: Path) -> None:
    from inventory.facts import parse_facts

    agent = tmp_path / "agent.pyz"
    agent.write_bytes(build_agent())
    python = shutil.which("python3", path="/usr/bin") or sys.executable
    done = subprocess.run([python, str(agent), "facts"], capture_output=True, timeout=120, check=True)
    assert json.loads(done.stdout)["schema"] == "corollout.facts/1"
    assert parse_facts(done.stdout).kernel_id
