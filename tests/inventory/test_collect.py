"""Collecting from many hosts: over a real sshd, and from hosts that misbehave."""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inventory.collect import BtfUnavailable, CollectorFailed, DeadlinePassed, collect_facts, fetch_btf, scan
from inventory.collector import document
from inventory.connect import Completed, Connection, errors, open_connection
from inventory.facts import MAX_DOCUMENT, Answer, FactsMalformed
from inventory.host import Host

LOCAL = Host("here", connection="local")


def reach(*hosts: Host, timeout_s: float = 10) -> Callable[[Host], Connection]:
    by_name = {host.name: host for host in hosts}
    return lambda host: open_connection(host, hosts=by_name, timeout_s=timeout_s)


@pytest.mark.kernel
def test_facts_come_over_ssh_and_are_those_of_a_local_run(sshd: Any) -> None:
    with open_connection(sshd.host(), hosts={}) as remote, open_connection(LOCAL, hosts={}) as local:
        far, near = collect_facts(remote), collect_facts(local)
    assert far.form == near.form == "python"
    assert far.kernel_id == near.kernel_id
    differing = {n for n in far if (far[n].answer, far[n].value) != (near.by_name[n].answer, near.by_name[n].value)}
    assert differing <= {
        "memlock.soft",
        "memlock.hard",
        "net.interfaces",
    }  # limits of the session; others make interfaces


@pytest.mark.kernel
def test_btf_comes_over_ssh_compressed_and_whole(sshd: Any) -> None:
    with open_connection(sshd.host(), hosts={}) as connection:
        data = fetch_btf(connection)
        facts = collect_facts(connection)
    assert hashlib.sha256(data).hexdigest() == facts.value("btf.vmlinux")["sha256"]


class Answering:
    """A host whose login shell answers every command with the same bytes: what a broken or hostile host does."""

    def __init__(self, stdout: bytes, status: int = 0, stderr: bytes = b"") -> None:
        self._answer = (stdout, status, stderr)
        self.limit = 0

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 60.0, limit: int = 0) -> Completed:
        stdout, status, stderr = self._answer
        return Completed(status, stdout[:limit], stderr[:limit], truncated=len(stdout) > limit)

    def close(self) -> None:
        pass

    def __enter__(self) -> Answering:
        return self

    def __exit__(self, *ignored: object) -> None:
        self.close()


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (Answering(b""), CollectorFailed),
        (Answering(b"This account is not available.\n", 1), CollectorFailed),
        (Answering(b"", 127, b"\x1b[31msh: not found\x07"), CollectorFailed),
        (Answering(b"\x1b[2J\x1b]0;owned\x07"), CollectorFailed),
        (Answering(os.urandom(5000).replace(b"{", b"")), CollectorFailed),
        (Answering(b"{" + os.urandom(5000)), FactsMalformed),
        (Answering(b"x" * (MAX_DOCUMENT + 1)), CollectorFailed),
        (Answering(b'{"schema": "other", "facts": {}}'), FactsMalformed),
        (Answering(b"packed:no such thing\n"), CollectorFailed),
        (Answering(b"packed:" + base64.b64encode(b"not compressed")), CollectorFailed),
        (Answering(b"packed:" + base64.b64encode(zlib.compress(os.urandom(500))[:-9])), CollectorFailed),
        (Answering(b"packed:" + base64.b64encode(zlib.compress(b" " * (MAX_DOCUMENT + 1)))), CollectorFailed),
        (Answering(b"packed:" + base64.b64encode(zlib.compress(b"not JSON"))), FactsMalformed),
    ],
)
def test_what_is_no_document_is_one_printable_fault(answer: Answering, fault: type[Exception]) -> None:
    with pytest.raises(fault) as caught:
        collect_facts(answer)
    assert str(caught.value).isprintable()


def test_a_shell_that_greets_first_does_not_hide_the_document() -> None:
    greeting = b"Welcome {you}!\r\n" + b'{"schema": "corollout.facts/1", "facts": {"a": {"answer": "no"}}}\n'
    assert collect_facts(Answering(greeting)).answer("a") is Answer.NO
    packed = document.pack('{"schema": "corollout.facts/1", "facts": {"a": {"answer": "yes"}}}')
    assert collect_facts(Answering(b"{}\r\n" + packed.encode() + b"\n")).answer("a") is Answer.YES


@pytest.mark.parametrize(
    "answer",
    [
        Answering(b"", 1, b"cannot open /sys/kernel/btf/vmlinux: No such file"),
        Answering(b"garbage"),
        Answering(b"\x1f\x8bgarbage"),
        Answering(gzip.compress(b"not BTF")),
        Answering(gzip.compress(b"\x9f\xeb" + b"\0" * 100_000)),  # a bomb: beyond the limit once unpacked
        Answering(gzip.compress(b"\x9f\xeb" + os.urandom(500))[:-20]),
        Answering(b"\x9f\xeb" + b"x" * 20_000),
    ],
)
def test_what_is_no_btf_is_one_fault(answer: Answering) -> None:
    with pytest.raises(BtfUnavailable) as caught:
        fetch_btf(answer, limit=10_000)
    assert str(caught.value).isprintable()


def test_btf_that_unpacks_beyond_the_limit_is_not_unpacked() -> None:
    bomb = gzip.compress(b"\x9f\xeb" + b"\0" * 10_000_000)
    with pytest.raises(BtfUnavailable, match="larger than 20000 bytes"):
        fetch_btf(Answering(bomb), limit=20_000)


@pytest.mark.kernel
def test_a_scan_gives_every_host_one_outcome_and_no_host_holds_the_rest(sshd: Any, talker: Any, tmp_path: Path) -> None:
    (tmp_path / "none").write_text("")
    silent = talker(lambda _connection: None)
    hosts = [
        sshd.host("good"),
        sshd.host("unknown", known_hosts=str(tmp_path / "none")),
        Host("silent", address="127.0.0.1", port=silent),
        Host("web", address="127.0.0.1", port=talker(lambda c: c.sendall(b"HTTP/1.1 400\r\n\r\n" * 4000))),
        LOCAL,
    ]
    seen: list[tuple[str, str]] = []
    outcomes = {
        outcome.host.name: outcome
        for outcome in scan(
            hosts,
            connect=reach(*hosts, timeout_s=2),
            on_progress=lambda host, stage: seen.append((host.name, stage)),
            parallel=2,
        )
    }
    assert set(outcomes) == {host.name for host in hosts}
    assert all((o.facts is None) != (o.fault is None) for o in outcomes.values())
    assert outcomes["good"].facts is not None
    assert outcomes["here"].facts is not None
    assert {name: type(o.fault) for name, o in outcomes.items() if o.fault} == {
        "unknown": errors.HostKeyUnknown,
        "silent": errors.ConnectTimeout,
        "web": errors.NotSsh,
    }
    assert [stage for name, stage in seen if name == "good"] == ["connecting", "collecting", "done"]
    assert [stage for name, stage in seen if name == "silent"] == ["connecting", "failed"]


def test_a_host_that_hangs_in_a_way_nobody_foresaw_is_given_up_and_replaced() -> None:
    never = threading.Event()
    closed = threading.Event()

    class Hanging(Answering):
        def run(self, command: str, **_how: Any) -> Completed:
            never.wait()
            raise AssertionError

        def close(self) -> None:
            closed.set()

    fine = b'{"schema": "corollout.facts/1", "facts": {}}'
    hosts = [Host(f"h{number}") for number in range(6)]

    def connect(host: Host) -> Any:
        return Hanging(b"") if host.name in ("h0", "h1", "h2") else Answering(fine)

    outcomes = {o.host.name: o for o in scan(hosts, connect=connect, parallel=2, deadline_s=0.3)}
    assert {n: type(o.fault) for n, o in outcomes.items()} == {
        **dict.fromkeys(("h0", "h1", "h2"), DeadlinePassed),
        **dict.fromkeys(("h3", "h4", "h5"), type(None)),
    }
    assert closed.wait(5)
    never.set()


def test_fan_out_stays_within_its_bound() -> None:
    lock, running, most = threading.Lock(), 0, 0

    class Counting(Answering):
        def run(self, command: str, **how: Any) -> Completed:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.01)
            with lock:
                running -= 1
            return super().run(command, **how)

    fine = b'{"schema": "corollout.facts/1", "facts": {}}'
    outcomes = list(scan([Host(f"h{n}") for n in range(40)], connect=lambda _h: Counting(fine), parallel=4))
    assert len(outcomes) == 40
    assert 1 < most <= 4


def test_an_unexpected_error_in_one_host_is_its_fault_alone() -> None:
    def connect(host: Host) -> Any:
        if host.name == "a":
            raise RuntimeError("a surprise\x1b[2J")
        return Answering(b'{"schema": "corollout.facts/1", "facts": {}}')

    outcomes = {o.host.name: o for o in scan([Host("a"), Host("b")], connect=connect)}
    assert isinstance(outcomes["a"].fault, CollectorFailed)
    assert str(outcomes["a"].fault).isprintable()
    assert outcomes["b"].facts is not None


def test_a_scan_that_is_left_early_closes_what_it_opened() -> None:
    opened, closed = [], threading.Event()

    class Slow(Answering):
        def run(self, command: str, **how: Any) -> Completed:
            closed.wait(10)
            return super().run(command, **how)

        def close(self) -> None:
            closed.set()

    def connect(host: Host) -> Any:
        opened.append(host.name)
        return Slow(b"") if host.name == "slow" else Answering(b'{"schema": "corollout.facts/1", "facts": {}}')

    outcomes = scan([Host("slow"), Host("fast")], connect=connect, parallel=2)
    assert next(outcomes).host.name == "fast"
    outcomes.close()  # type: ignore[attr-defined]
    assert closed.wait(5)
