"""net-policy under the real agent: variants take over from each other, holders die, the policy stands all the while."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_host import AgentHost, wait_for
from net_policy_wire import FOLDER, HEADERS, Wire, wire
from test_net_policy_kernel import IN, OPEN, rule, table, tcp, udp

from probes.catalogue import RUNNER

pytestmark = pytest.mark.kernel

PROGRAM = "net-policy"
FILES = {
    "core": {"object": FOLDER / "core.bpf.o", "runner": RUNNER},
    "bcc": {"source": FOLDER / "legacy.bcc.c"},
    "fallback": {"module": FOLDER / "fallback.py"},
}


class Policed(AgentHost):
    """An agent on the policed side of a wire."""

    def __init__(self, folder: Path, line: Wire) -> None:
        self.line = line
        prefix = (*line.enter, "env", f"BCC_KERNEL_SOURCE={HEADERS}")
        super().__init__(folder, python="/usr/bin/python3", prefix=prefix)

    def policy(self, variant: str, generation: int, config: dict[str, Any]) -> dict[str, Any]:
        roles = {**FILES[variant], "adapter": FOLDER / "adapter.py"}
        made = self.networking(
            program=PROGRAM,
            variant=variant,
            generation=generation,
            files={role: self.stage(path.read_bytes()) for role, path in roles.items()},
            record="net_policy_event",
            scope={"kind": "netns"},
            budget={"interval_s": 0.4, "action": "static"},
        )
        return {**made, "config": config}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Policed]:
    with wire(()) as line:
        made = Policed(tmp_path, line)
        before = line.state()
        try:
            yield made
        finally:
            made.run("remove", "--program", PROGRAM, "--token", str(2**40))
            stray = made.close()
        assert stray == []
        assert line.state() == before


def counted(host: Policed) -> dict[Any, int]:
    row = host.row(PROGRAM)
    return {(r["rule_id"], r["dir"]): r["packets"] for r in row["counters"] if r["packets"]} if row else {}


def test_variants_take_over_from_each_other(host: Policed) -> None:
    order = ("core", "bcc", "fallback", "bcc", "core")
    for generation, variant in enumerate(order, start=1):
        host.applied(host.policy(variant, generation, OPEN), generation)
        row = host.row(PROGRAM)
        assert (row["state"], row["variant"]) == ("running", variant)
        assert tcp(host.line, IN, 80)
        assert not tcp(host.line, IN, 81)
        assert udp(host.line, IN, 81, version=6) == "lost"
        wait_for(lambda: counted(host).get(("default", IN)))
        assert counted(host).get((1, IN))
    row = host.row(PROGRAM)
    assert row["applied"] == len(order)
    records = wait_for(lambda: list(samples(host)))
    assert {(r["dir"], r["dport"], r["rule_id"], r["action"]) for r in records} == {(IN, 81, "default", "deny")}
    assert {r["host"] for r in records} == {"alpha"}


def samples(host: Policed) -> Iterator[dict[str, Any]]:
    done = subprocess.run(host.command("records", "--program", PROGRAM), capture_output=True, timeout=60, check=True)
    yield from (json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.parametrize("variant", ["core", "bcc", "fallback"])
def test_a_policy_outlives_its_holder_and_not_its_removal(host: Policed, variant: str) -> None:
    host.applied(host.policy(variant, 1, OPEN), 1)
    os.kill(host.document("state.json", PROGRAM)["holder"]["pid"], signal.SIGKILL)
    wait_for(lambda: host.row(PROGRAM)["state"] != "running")
    assert tcp(host.line, IN, 80)
    assert not tcp(host.line, IN, 81)
    status, answer = host.run("remove", "--program", PROGRAM, "--token", "2")
    assert status == 0, answer
    assert tcp(host.line, IN, 81)


def test_a_table_that_does_not_fit_is_refused_and_the_old_one_stands(host: Policed) -> None:
    host.applied(host.policy("core", 1, OPEN), 1)
    rows = [rule(n, IN, "deny", "10.0.0.0/8") for n in range(1, 5000)]
    status, answer = host.apply(host.policy("core", 2, table(rows)), 2)
    assert status and answer["ok"] is False
    assert "4096" in answer["message"]
    assert tcp(host.line, IN, 80)
    assert not tcp(host.line, IN, 81)


_RCVBUFFORCE = 33  # SO_RCVBUFFORCE, which Python does not name


class Stream:
    """Numbered datagrams from the peer to a port of the host, one a millisecond, and what arrives of them."""

    def __init__(self, line: Wire, port: int, *, opened_by_host: bool = False) -> None:
        self.near, self.far = (
            one.call(lambda: socket.socket(type=socket.SOCK_DGRAM)) for one in (line.host, line.peer)
        )
        self.near.bind((line.host.v4, port))
        self.near.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 64 << 20)
        self.near.setblocking(False)
        self.far.bind((line.peer.v4, 80 if opened_by_host else 0))
        if opened_by_host:
            self.near.sendto(b"open", self.far.getsockname())
        self.to = (line.host.v4, port)
        self.sent = 0

    def send(self) -> None:
        self.far.sendto(str(self.sent).encode(), self.to)
        self.sent += 1

    def arrived(self) -> set[int]:
        numbers = set()
        with contextlib.suppress(BlockingIOError):
            while True:
                numbers.add(int(self.near.recv(64)))
        return numbers

    def close(self) -> None:
        self.near.close()
        self.far.close()


@contextlib.contextmanager
def flowing(*streams: Stream) -> Iterator[None]:
    """Send on all streams meanwhile."""
    over = threading.Event()

    def send() -> None:
        while not over.wait(0.001):
            for stream in streams:
                stream.send()

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        time.sleep(0.2)  # what is under way arrives


@pytest.mark.parametrize("order", [("core", "core", "core"), ("core", "fallback", "core")])
def test_an_upgrade_under_traffic_lets_nothing_through_and_loses_nothing(host: Policed, order: tuple[str, ...]) -> None:
    host.applied(host.policy(order[0], 1, OPEN), 1)
    answered = Stream(host.line, 5000, opened_by_host=True)  # a port that no rule opens
    allowed, denied = Stream(host.line, 80), Stream(host.line, 81)
    carried = len(set(order)) == 1  # another variant's memory of conversations starts anew
    streams = (allowed, denied, answered) if carried else (allowed, denied)
    try:
        with flowing(*streams):
            for generation, variant in enumerate(order[1:], start=2):
                config = {**OPEN, "rules": [*OPEN["rules"], rule(100 + generation, IN, "deny", "198.51.100.0/24")]}
                host.applied(host.policy(variant, generation, config), generation)
                assert host.run("confirm", "--program", PROGRAM, "--token", str(generation))[0] == 0
        assert allowed.sent > 100
        assert allowed.arrived() == set(range(allowed.sent))
        assert denied.arrived() == set()
        if carried:
            assert answered.arrived() == set(range(answered.sent))
    finally:
        for stream in (answered, allowed, denied):
            stream.close()
