"""Reaching hosts: a real sshd, and servers that misbehave."""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from own_sshd import keygen

from inventory.connect import errors, open_connection
from inventory.connect.wire import Wire
from inventory.host import Host

FOREVER = threading.Event()
Talker = Callable[[Callable[[socket.socket], None]], int]


def opened(host: Host, *others: Host, timeout_s: float = 10) -> Any:
    return open_connection(host, hosts={h.name: h for h in (host, *others)}, timeout_s=timeout_s)


def test_a_command_runs_and_its_streams_and_status_come_back(sshd: Any) -> None:
    with opened(sshd.host()) as connection:
        done = connection.run("cat; echo trouble >&2; exit 7", stdin=b"in and out")
        assert (done.status, done.stdout, done.stderr, done.truncated) == (7, b"in and out", b"trouble\n", False)


def test_a_large_input_travels_whole_and_both_ways_at_once(sshd: Any) -> None:
    data = os.urandom(5_000_000)
    with opened(sshd.host()) as connection:
        assert connection.run("cat", stdin=data, timeout=60).stdout == data


def test_a_command_that_ignores_its_input_is_no_error(sshd: Any) -> None:
    with opened(sshd.host()) as connection:
        done = connection.run("exec 0<&-; echo fine", stdin=b"x" * 4_000_000)
        assert (done.status, done.stdout) == (0, b"fine\n")


def test_an_unknown_key_is_refused_with_a_remedy(sshd: Any, tmp_path: Path) -> None:
    empty = tmp_path / "known_hosts"
    empty.write_text("")
    with pytest.raises(errors.HostKeyUnknown) as caught:
        opened(sshd.host(known_hosts=str(empty)))
    assert "SHA256:" in caught.value.message
    assert "known_hosts" in caught.value.advice
    assert empty.read_text() == ""


def test_a_changed_key_is_refused(new_sshd: Any) -> None:
    server = new_sshd()
    other = keygen(server.folder / "other_key")
    public = " ".join(other.with_suffix(".pub").read_text().split()[:2])
    server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {public}\n")
    with pytest.raises(errors.HostKeyChanged):
        opened(server.host())


def test_a_known_key_of_another_type_only_counts_as_changed(new_sshd: Any) -> None:
    server = new_sshd()
    other = keygen(server.folder / "other_key", "ecdsa")
    public = " ".join(other.with_suffix(".pub").read_text().split()[:2])
    server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {public}\n")
    with pytest.raises(errors.HostKeyChanged):
        opened(server.host())


def test_a_revoked_key_is_refused_also_beside_a_valid_entry(new_sshd: Any) -> None:
    server = new_sshd()
    line = server.known_hosts.read_text()
    server.known_hosts.write_text(f"{line}@revoked {line}")
    with pytest.raises(errors.HostKeyChanged, match="revoked"):
        opened(server.host())


def test_a_key_the_host_does_not_know_is_refused(sshd: Any, tmp_path: Path) -> None:
    mine = keygen(tmp_path / "mine")
    with pytest.raises(errors.AuthenticationFailed):
        opened(sshd.host(key_file=str(mine)))


def test_a_key_file_that_changes_is_read_again(sshd: Any, tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", keygen(tmp_path / "other")
    mine.write_bytes(other.read_bytes())
    with pytest.raises(errors.AuthenticationFailed):
        opened(sshd.host(key_file=str(mine)))
    mine.write_bytes(sshd.client_key.read_bytes())
    opened(sshd.host(key_file=str(mine))).close()


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_certificate_beside_the_key_lets_in(kind: str, new_sshd: Any, tmp_path: Path) -> None:
    server, authority, mine = new_sshd(), keygen(tmp_path / "ca"), tmp_path / "mine"
    # With a comment: the library cannot read each one without.
    keygen(mine, kind, comment="ann")
    (server.folder / "authorized_keys").write_text(f"cert-authority {authority.with_suffix('.pub').read_text()}")
    with pytest.raises(errors.AuthenticationFailed):
        opened(server.host(key_file=str(mine)))
    sign = ["ssh-keygen", "-q", "-s", str(authority), "-I", "ann", "-n", "root", str(mine.with_suffix(".pub"))]
    subprocess.run(sign, check=True)
    opened(server.host(key_file=str(mine))).close()


@pytest.mark.parametrize(("made", "said"), [("passphrase", "encrypted"), ("garbage", "not a valid")])
def test_a_key_that_cannot_be_read_is_named(made: str, said: str, sshd: Any, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    if made == "passphrase":
        keygen(mine, passphrase="secret")
    else:
        mine.write_text("no key\n")
    with pytest.raises(errors.KeyUnusable, match=f"{mine}: .*{said}"):
        opened(sshd.host(key_file=str(mine)))


def test_a_missing_key_file_is_named(sshd: Any, tmp_path: Path) -> None:
    with pytest.raises(errors.KeyUnusable, match="nothing_here"):
        opened(sshd.host(key_file=str(tmp_path / "nothing_here")))


def test_a_closed_port_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(errors.Unreachable) as caught:
        opened(Host("h", address="127.0.0.1", port=port))
    assert type(caught.value) is errors.Unreachable


def test_a_name_that_does_not_resolve_is_unreachable() -> None:
    with pytest.raises(errors.Unreachable):
        opened(Host("h", address="a..b"))


def test_a_silent_server_times_out(talker: Talker) -> None:
    port = talker(lambda _connection: None)  # accepts, keeps open, says nothing
    with pytest.raises(errors.ConnectTimeout, match="silent"):
        opened(Host("h", address="127.0.0.1", port=port), timeout_s=0.5)


def test_who_hangs_up_without_a_word_did_not_time_out(talker: Talker) -> None:
    port = talker(lambda connection: connection.shutdown(socket.SHUT_RDWR))
    with pytest.raises(errors.Unreachable, match="closed without a word") as caught:
        opened(Host("h", address="127.0.0.1", port=port), timeout_s=20)
    assert type(caught.value) is errors.Unreachable


def test_a_server_that_falls_silent_after_its_greeting_times_out(talker: Talker) -> None:
    port = talker(lambda connection: connection.sendall(b"SSH-2.0-slow\r\n"))
    with pytest.raises(errors.ConnectTimeout):
        opened(Host("h", address="127.0.0.1", port=port), timeout_s=0.5)


def test_a_server_that_drips_is_ended_by_the_whole_deadline(talker: Talker) -> None:
    def drip(connection: socket.socket) -> None:
        for _ in range(1000):
            connection.sendall(b"x\n")
            FOREVER.wait(0.05)

    started = time.monotonic()
    with pytest.raises(errors.Unreachable):
        opened(Host("h", address="127.0.0.1", port=talker(drip)), timeout_s=1)
    assert time.monotonic() - started < 30  # a hang, not a measurement


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n" * 400, os.urandom(65536), b"\x1b[2J" * 9000, b"\n" * 20000]
)
def test_what_is_no_ssh_server_is_named_as_such(talker: Talker, answer: bytes) -> None:
    with pytest.raises(errors.NotSsh) as caught:
        opened(Host("h", address="127.0.0.1", port=talker(lambda connection: connection.sendall(answer))))
    assert str(caught.value).isprintable()


def test_an_endless_greeting_is_cut_off(talker: Talker) -> None:
    def pour(connection: socket.socket) -> None:
        for _ in range(16_384):  # 1 GB, if it were read
            connection.sendall(b"y" * 65536)

    with pytest.raises(errors.NotSsh):
        opened(Host("h", address="127.0.0.1", port=talker(pour)), timeout_s=20)


def test_bytes_before_the_login_are_counted_and_cut_off() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire = Wire(ours)
        theirs.sendall(b"y" * 8000)
        assert len(wire.recv(65536)) == 8000
        theirs.sendall(b"y" * 8000)
        with pytest.raises(OSError, match="too much"):
            wire.recv(65536)


def test_a_greeting_may_be_followed_by_more_and_a_login_by_anything() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire = Wire(ours)
        theirs.sendall(b"welcome\nSSH-2.0-x\r\n" + b"y" * 20_000)
        assert len(wire.recv(65536)) > 20_000
        assert wire.greeted
        ours.settimeout(0.1)  # as paramiko does, and then looks ten times a second
        wire.trust()
        assert ours.gettimeout() == 5.0
        wire.heard = 1 << 40
        theirs.sendall(b"more")
        assert wire.recv(10) == b"more"


def test_garbage_after_a_good_greeting_is_a_fault(talker: Talker) -> None:
    port = talker(lambda connection: connection.sendall(b"SSH-2.0-x\r\n" + b"\xff" * 70000))
    with pytest.raises((errors.Unreachable, errors.Refused)):
        opened(Host("h", address="127.0.0.1", port=port), timeout_s=3)


def test_a_server_that_hangs_up_is_unreachable(talker: Talker) -> None:
    port = talker(lambda connection: connection.close())
    with pytest.raises(errors.Unreachable):
        opened(Host("h", address="127.0.0.1", port=port), timeout_s=5)


def test_a_gigabyte_is_cut_at_the_limit_and_the_connection_lives_on(sshd: Any) -> None:
    with opened(sshd.host()) as connection:
        done = connection.run("head -c 1000000000 /dev/zero", limit=100_000)
        assert done.truncated
        assert len(done.stdout) == 100_000
        assert connection.run("echo still here").stdout == b"still here\n"


def test_a_gigabyte_of_errors_is_cut_at_the_limit(sshd: Any) -> None:
    with opened(sshd.host()) as connection:
        done = connection.run("head -c 1000000000 /dev/zero >&2", limit=100_000)
        assert (done.truncated, len(done.stderr)) == (True, 100_000)


def test_terminal_escapes_come_back_as_bytes_and_are_never_part_of_a_fault(sshd: Any) -> None:
    with opened(sshd.host()) as connection:
        assert connection.run(r"printf '\033]0;owned\007'").stdout == b"\x1b]0;owned\x07"


def test_an_empty_answer_is_an_answer(sshd: Any) -> None:
    with opened(sshd.host()) as connection:
        done = connection.run("true")
        assert (done.status, done.stdout, done.stderr) == (0, b"", b"")


def test_a_command_that_does_not_end_times_out_and_the_connection_lives_on(sshd: Any) -> None:
    with opened(sshd.host()) as connection:
        with pytest.raises(errors.CommandTimeout):
            connection.run("sleep 1000", timeout=0.5)
        assert connection.run("echo ok").stdout == b"ok\n"


def test_a_background_child_that_holds_the_streams_does_not_hold_us(sshd: Any) -> None:
    with opened(sshd.host()) as connection:
        done = connection.run(
            "sleep 30 & echo done; kill_me=$!; (sleep 2; kill $kill_me) >/dev/null 2>&1 &", timeout=20
        )
        assert (done.status, done.stdout) == (0, b"done\n")


def test_a_connection_that_is_cut_in_the_middle_is_lost_not_failed(new_sshd: Any) -> None:
    connection = opened(new_sshd().host())
    with pytest.raises(errors.ConnectionLost):
        connection.run("kill -9 $PPID; sleep 30", timeout=20)
    with pytest.raises(errors.ConnectionLost):
        connection.run("true")
    connection.close()
    connection.close()


@pytest.mark.parametrize("behind", [False, True])
def test_a_host_that_lost_its_power_is_spoken_to_and_found_lost(
    behind: bool, new_sshd: Any, talker: Talker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It vanishes without a word, and back again it resets what it does not know: only one that speaks learns of it."""
    monkeypatch.setattr("inventory.connect.ssh._ALIVE_S", 0.2)
    monkeypatch.setattr("inventory.connect.wire._IDLE_S", 0.1)
    server, gone = new_sshd(), threading.Event()

    def relay(ours: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", server.port)) as theirs:
            while pair := select.select([ours, theirs], [], [])[0]:
                if gone.is_set() and ours in pair:
                    ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    ours.close()
                    return
                for one in pair:
                    data = one.recv(65536)
                    if not gone.is_set():
                        (theirs if one is ours else ours).sendall(data)

    port = talker(relay)
    server.known_hosts.write_text(server.known_hosts.read_text().replace(str(server.port), f"{port}", 1))
    bastion = new_sshd().host("bastion")
    with opened(server.host(port=port, jump="bastion" if behind else None), bastion) as connection:
        done: list[object] = []
        asking = threading.Thread(target=lambda: done.append(lost(connection)))
        asking.start()
        time.sleep(0.5)
        gone.set()
        asking.join(30)
        assert [type(each) for each in done] == [errors.ConnectionLost]


def lost(connection: Any) -> object:
    try:
        return connection.run("sleep 25", timeout=20)
    except errors.Unreachable as error:
        return error


def test_a_command_killed_by_a_signal_has_status_minus_one(sshd: Any) -> None:
    with opened(sshd.host()) as connection:
        assert connection.run("kill -9 $$").status == -1


def test_a_jump_host_is_gone_through(sshd: Any, new_sshd: Any) -> None:
    inner = new_sshd()
    bastion, host = sshd.host("bastion"), inner.host("inner", jump="bastion")
    with opened(host, bastion) as connection:
        peer = connection.run("echo $SSH_CONNECTION").stdout.split()
        assert int(peer[3]) == inner.port


def test_a_jump_host_is_checked_as_strictly(sshd: Any, tmp_path: Path) -> None:
    bastion = sshd.host("bastion", known_hosts=str(tmp_path / "none"))
    with pytest.raises(errors.HostKeyUnknown, match="bastion"):
        opened(sshd.host("inner", jump="bastion"), bastion)


def test_a_jump_host_that_cannot_reach_the_host_is_named(sshd: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(errors.Unreachable, match="bastion"):
        opened(sshd.host("inner", jump="bastion", port=port), sshd.host("bastion"))


def test_a_silent_host_behind_a_jump_host_times_out(sshd: Any, talker: Talker) -> None:
    port = talker(lambda _connection: None)
    with pytest.raises(errors.ConnectTimeout, match="inner"):
        opened(sshd.host("inner", jump="bastion", port=port), sshd.host("bastion"), timeout_s=2)


@pytest.mark.parametrize("jump", ["nowhere", "a"])
def test_jump_hosts_that_lead_nowhere_are_refused(jump: str) -> None:
    hosts = [Host("a", jump="b"), Host("b", jump=jump)]
    with pytest.raises(errors.JumpImpossible):
        opened(hosts[0], *hosts[1:])
