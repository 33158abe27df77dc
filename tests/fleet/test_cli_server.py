"""The same verbs on a record that is on a server, and what becomes of its password."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pg_server import Server

from fleet.cli.main import run
from fleet.record import open_record
from fleet.record.place import masked

SECRET = "correct-horse"


def corollout(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        run(list(arguments))
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


@pytest.fixture
def database(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """An address with a password; the server trusts whoever comes over its socket."""
    url = postgres.database().replace("fleet@", f"fleet:{SECRET}@")
    monkeypatch.setenv("COROLLOUT_DATABASE", url)
    return url


def test_verbs_work_on_a_server_as_on_a_file(database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    hosts = tmp_path / "hosts.toml"
    hosts.write_text('[[host]]\nname = "web-1"\nconnection = "local"\n[host.labels]\nzone = "east"\n')
    assert corollout("--home", str(home), "hosts", "list", capsys=capsys)[0] == 2  # there is none yet
    said = ""
    for arguments in (["init"], ["init"], ["hosts", "import", str(hosts)], ["hosts", "list"], ["rollout", "list"],
                      ["worker", "--zone", "east", "--check"], ["kernels", "list"], ["doctor"]):  # fmt: skip
        code, out, err = corollout("--home", str(home), *arguments, capsys=capsys)
        assert code == 0 or arguments == ["doctor"], err
        said += out + err
    assert "web-1" in said
    assert masked(database) in said
    assert SECRET not in said
    assert not (home / "fleet.db").exists()
    assert all(SECRET.encode() not in path.read_bytes() for path in home.rglob("*") if path.is_file())


def test_a_password_as_an_argument_is_refused(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--database", database, "hosts", "list"], ["worker", "--database", database]):
        code, out, err = corollout(*arguments, capsys=capsys)
        assert (code, out) == (2, "")
        assert err.startswith("COR-CLI-016: ")
        assert "COROLLOUT_DATABASE" in err
        assert SECRET not in err
    assert corollout("--database", "mysql://x", "hosts", "list", capsys=capsys)[2].startswith("COR-REC-013: ")


def test_a_worker_of_the_command_line_lives_and_leaves(database: str, tmp_path: Path) -> None:
    open_record(database, create=True).close()
    command = [sys.executable, "-c", "from fleet.cli.main import run; run()", "--home", str(tmp_path), "worker"]
    command += ["--zone", "east"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment) as process:
        try:
            with open_record(database) as record:
                end = time.monotonic() + 120
                while not record.workers() and process.poll() is None:
                    assert time.monotonic() < end
                    time.sleep(0.1)
                assert [w.zones for w in record.workers()] == [("east",)]
                arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes()
                process.send_signal(signal.SIGTERM)
                said = process.communicate(timeout=60)[0]
                assert process.returncode == 0, said
                assert record.workers() == []
                events = " ".join(str(e) for e in record.events())
        finally:
            process.kill()
    logs = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert SECRET.encode() not in said + arguments + logs + events.encode()
