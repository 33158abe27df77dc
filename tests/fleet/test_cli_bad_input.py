"""Bad input through the command line: one line with a code, one with a remedy, the right exit code, nothing lost."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from fleet.cli.main import run
from fleet.record import open_record
from probes.catalogue import OURS

OBJECT = OURS / "tcp_flow" / "core.bpf.o"
Run = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture
def corollout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def typed(*arguments: str | Path, home: Path = tmp_path / "home") -> tuple[int, str, list[str]]:
        with pytest.raises(SystemExit) as ended:
            run(["--home", str(home), *map(str, arguments)])
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err.splitlines()

    assert typed("init")[0] == 0
    return typed


def refused(answer: tuple[int, str, list[str]], code: str, exit_code: int) -> str:
    """Check that *answer* is one clear refusal and return its line."""
    status, out, err = answer
    assert out == ""
    assert len(err) == 2, err
    assert err[0].startswith(f"{code}"), err
    assert err[1].startswith("  → "), err
    assert status == exit_code, err
    return err[0]


MALFORMED = {
    "garbage": b"\x00\xff\x9f not toml",
    "no host": b"[[hots]]\nname = 'a'\n",
    "no name": b"[[host]]\naddress = '10.0.0.1'\n",
    "bad name": b"[[host]]\nname = 'a b; rm'\n",
    "bad port": b"[[host]]\nname = 'a'\nport = 70000\n",
    "twice": b"[[host]]\nname = 'a'\n[[host]]\nname = 'a'\n",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_inventory_changes_nothing(corollout: Run, tmp_path: Path, name: str) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text("[[host]]\nname = 'kept'\naddress = '127.0.0.1'\n")
    bad.write_bytes(MALFORMED[name])
    assert corollout("hosts", "import", good)[0] == 0
    refused(corollout("hosts", "import", bad, "--kind", "toml"), "COR-INV-", 2)
    assert "kept" in corollout("hosts", "list")[1]


def test_a_malformed_manifest_names_file_key_and_the_nearest(corollout: Run, tmp_path: Path) -> None:
    folder = tmp_path / "programs" / "mine"
    folder.mkdir(parents=True)
    (folder / "program.toml").write_text('nmae = "mine"\n')
    line = refused(corollout("--programs", folder.parent, "programs", "list"), "COR-PRG-001", 2)
    assert "program.toml" in line
    assert "'nmae'" in line
    assert "'name'" in line


def test_a_malformed_policy_is_refused_before_any_plan(corollout: Run, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("kind: NetworkPolicy\nspec: [")
    refused(corollout("plan", "net-policy", "--policy", policy), "COR-POL-", 2)
    assert corollout("rollout", "plans", "-o", "json")[1].count('"id"') == 0


@pytest.mark.parametrize("size", [0, 3, 64, 4000])
def test_a_broken_object(corollout: Run, tmp_path: Path, size: int) -> None:
    broken = tmp_path / "broken.bpf.o"
    broken.write_bytes(OBJECT.read_bytes()[:size])
    refused(corollout("check", broken), "COR-BTF-", 2)


@pytest.mark.parametrize("size", [0, 10, 5000])
def test_a_truncated_btf(corollout: Run, tmp_path: Path, size: int) -> None:
    truncated = tmp_path / "vmlinux"
    truncated.write_bytes(Path("/sys/kernel/btf/vmlinux").read_bytes()[:size])
    refused(corollout("check", OBJECT, "--btf", truncated), "COR-BTF-", 2)


def test_a_record_of_a_newer_corollout_is_left_alone(corollout: Run, tmp_path: Path) -> None:
    database = tmp_path / "home" / "fleet.db"
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = database.read_bytes()
    line = refused(corollout("hosts", "list"), "COR-REC-", 2)
    assert "newer" in line
    assert database.read_bytes() == before


def test_a_record_that_is_none(corollout: Run, tmp_path: Path) -> None:
    database = tmp_path / "home" / "fleet.db"
    for path in database.parent.glob("fleet.db*"):
        path.unlink()
    database.write_bytes(b"\x7fELF nothing of the kind" * 100)
    refused(corollout("hosts", "list"), "COR-REC-", 2)


def test_a_locked_record_is_told_and_nothing_is_lost(
    corollout: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.record.open_record", partial(open_record, busy_s=0.2))
    hosts = tmp_path / "hosts.toml"
    hosts.write_text("[[host]]\nname = 'a'\naddress = '127.0.0.1'\n")
    holder = sqlite3.connect(tmp_path / "home" / "fleet.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    refused(corollout("hosts", "import", hosts), "COR-REC-", 1)
    holder.execute("ROLLBACK")
    holder.close()
    assert corollout("hosts", "import", hosts)[0] == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.lab
def test_a_full_disk_keeps_what_was_committed(corollout: Run, tmp_path: Path, small_disk: Path) -> None:
    assert corollout("init", home=small_disk)[0] == 0
    few, many = tmp_path / "few.toml", tmp_path / "many.toml"
    few.write_text("[[host]]\nname = 'kept'\naddress = '127.0.0.1'\n")
    many.write_text("".join(f"[[host]]\nname = 'h{n}'\naddress = '127.0.0.1'\n" for n in range(9000)))
    assert corollout("hosts", "import", few, home=small_disk)[0] == 0
    line = refused(corollout("hosts", "import", many, home=small_disk), "COR-REC-", 1)
    assert "full" in line
    rows = corollout("hosts", "list", "-o", "jsonl", home=small_disk)[1].splitlines()
    assert len(rows) == 1, "all of it or nothing"
