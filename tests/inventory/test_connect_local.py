"""This machine as a host, and reading known_hosts."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inventory.connect import errors, open_connection
from inventory.connect.known_hosts import load_known_hosts, parse_known_hosts
from inventory.host import Host

HERE = Host("here", connection="local")


def run(command: str, **how: object):  # type: ignore[no-untyped-def]
    with open_connection(HERE, hosts={}) as connection:
        return connection.run(command, **how)  # type: ignore[arg-type]


def test_streams_and_status_come_back() -> None:
    done = run("cat; echo trouble >&2; exit 7", stdin=b"in" * 1_000_000)
    assert (done.status, done.stdout, done.stderr) == (7, b"in" * 1_000_000, b"trouble\n")


def test_a_command_that_does_not_end_is_killed_with_its_children(tmp_path: Path) -> None:
    with pytest.raises(errors.CommandTimeout):
        run(f"(sleep 1000 & echo $! >{tmp_path}/pid; wait)", timeout=0.5)
    stat = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")
    for _ in range(100):  # it is killed, not waited for: whose child it is is init's
        if not stat.exists() or stat.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    raise AssertionError(f"the child lives on: {stat.read_text()}")


def test_a_gigabyte_is_cut_at_the_limit() -> None:
    done = run("head -c 1000000000 /dev/zero", limit=100_000)
    assert (done.truncated, len(done.stdout), done.status) == (True, 100_000, -1)


def test_a_background_child_that_holds_the_streams_does_not_hold_us() -> None:
    done = run("sleep 1000 & echo $!", timeout=20)
    subprocess.run(["kill", done.stdout.decode().strip()], check=True)
    assert done.status == 0


def test_a_command_that_ignores_its_input_is_no_error() -> None:
    assert run("exec 0<&-; echo fine", stdin=b"x" * 4_000_000).stdout == b"fine\n"


KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIJ8TPhZPFjZq0fPGT+cD+bM9T2CqXWbuzAf6nCFJXZqX"


@pytest.mark.parametrize(
    ("names", "address", "port", "found"),
    [
        ("web1", "web1", 22, True),
        ("web1", "WEB1", 22, True),
        ("web1", "web2", 22, False),
        ("web1", "web1", 2222, False),
        ("[web1]:2222", "web1", 2222, True),
        ("a,web1,b", "web1", 22, True),
        ("*.example", "web1.example", 22, True),
        ("*.example,!web1.example", "web1.example", 22, False),
        ("[10.0.0.?]:2222", "10.0.0.7", 2222, True),
        ("[10.0.0.?]:2222", "10.0.0.77", 2222, False),
        ("[w]eb1*", "web1", 22, False),
        ("|1|garbage", "web1", 22, False),
        ("|1|!|!", "web1", 22, False),
    ],
)
def test_names_match_as_openssh_matches_them(names: str, address: str, port: int, found: bool) -> None:
    known = parse_known_hosts([f"{names} ssh-ed25519 {KEY} comment"])
    assert bool(known.keys(address, port)) is found


def test_a_name_hashed_by_openssh_is_found(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(f"[web1]:2222 ssh-ed25519 {KEY}\n")
    subprocess.run(["ssh-keygen", "-H", "-f", str(file)], check=True, capture_output=True)
    assert "web1" not in file.read_text()
    assert load_known_hosts(file).keys("web1", 2222)
    assert not load_known_hosts(file).keys("web1", 22)


def test_certificate_authorities_and_broken_lines_give_no_key() -> None:
    lines = [f"@cert-authority web1 ssh-ed25519 {KEY}", "web1 ssh-ed25519", "web1 ssh-ed25519 !!!", "# web1", ""]
    assert not parse_known_hosts(lines).keys("web1", 22)


@given(st.lists(st.text(max_size=60), max_size=8))
def test_any_text_is_read_without_an_error(lines: list[str]) -> None:
    parse_known_hosts(lines).keys("web1", 22)
