"""tcp-flow on the running kernel: real connections of known sizes between two namespaces, seen by two variants."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from children import RUNNER, TCP_FLOW, WITH_TRACEFS, Child, child, hold, refusing
from namespaces import Namespace, pair

from probes.programs.tcp_flow import adapter, fallback

pytestmark = pytest.mark.kernel

CLOCK = {"offset_ns": 1_000, "host": "h"}
FALLBACK = Path(__file__).parent / "fallback_process.py"
COMPARED = ("saddr", "sport", "daddr", "dport", "family", "role", "tx_bytes", "rx_bytes", "retrans", "rtt_us", "netns")


@dataclass(frozen=True, slots=True)
class Exchange:
    """What one connection does. The client sends *up* bytes, the server *down*; *first* closes first."""

    name: str
    up: int
    down: int
    first: str = "client"
    family: int = socket.AF_INET
    mapped: bool = False  # the server listens on :: and the client comes by IPv4


EXCHANGES = (
    Exchange("small", 1234, 5000),
    Exchange("empty", 0, 0),
    Exchange("one way", 70_000, 0, first="server"),
    Exchange("large", 300_000, 1_000_001),
    Exchange("v6", 4321, 17, family=socket.AF_INET6),
    Exchange("v6 server first", 1, 2, first="server", family=socket.AF_INET6),
    Exchange("mapped", 99, 101, mapped=True),
)


def receive(connection: socket.socket, count: int) -> None:
    while count:
        data = connection.recv(min(count, 1 << 16))
        assert data
        count -= len(data)


def listener(server: Namespace, exchange: Exchange) -> socket.socket:
    def make() -> socket.socket:
        if exchange.family == socket.AF_INET6 or exchange.mapped:
            made = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=exchange.mapped)
        else:
            made = socket.create_server((server.v4, 0))
        made.settimeout(20)
        return made

    return server.call(make)


def connect(client: Namespace, server: Namespace, exchange: Exchange, listening: socket.socket) -> socket.socket:
    address = server.v6 if exchange.family == socket.AF_INET6 else server.v4
    return client.call(lambda: socket.create_connection((address, listening.getsockname()[1]), timeout=20))


def perform(
    client: Namespace, server: Namespace, exchange: Exchange, listening: socket.socket | None = None
) -> dict[str, Any]:
    """Make the connection and end it in order; return what the client's record must say."""
    with contextlib.ExitStack() as stack:
        listening = listening or stack.enter_context(listener(server, exchange))
        near = connect(client, server, exchange, listening)
        far, _ = listening.accept()
        far.settimeout(20)
        with near, far:
            step = 1 << 14  # less than any socket buffer: one thread can do both ends
            for source, sink, size in ((near, far, exchange.up), (far, near, exchange.down)):
                for at in range(0, size, step):
                    part = min(step, size - at)
                    source.sendall(b"x" * part)
                    receive(sink, part)
            port, listening_port = near.getsockname()[1], listening.getsockname()[1]
            ends = (near, far) if exchange.first == "client" else (far, near)
            ends[0].shutdown(socket.SHUT_WR)
            assert ends[1].recv(1) == b""
            ends[1].close()
            assert ends[0].recv(1) == b""
    here, there = (client.v6, server.v6) if exchange.family == socket.AF_INET6 else (client.v4, server.v4)
    return {
        "saddr": here,
        "sport": port,
        "daddr": there,
        "dport": listening_port,
        "family": 6 if exchange.family == socket.AF_INET6 else 4,
        "role": "client",
        "tx_bytes": exchange.up,
        "rx_bytes": exchange.down,
    }


def other_end(record: dict[str, Any]) -> dict[str, Any]:
    swap = {"saddr": "daddr", "sport": "dport", "tx_bytes": "rx_bytes"}
    back = {value: key for key, value in swap.items()}
    return {**{key: record[swap.get(key, back.get(key, key))] for key in record}, "role": "server"}


def scope_words(namespace: Namespace) -> str:
    return "config:00000000=" + struct.pack("=QII", 0, namespace.inode, 0).hex()


def core_in(namespace: Namespace) -> contextlib.AbstractContextManager[Child]:
    """The runner is not inside the namespace: the scope alone must do it."""
    return hold(TCP_FLOW / "core.bpf.o", "--record", "flow_record", "--set", scope_words(namespace))


def fallback_in(namespace: Namespace, **scope: Any) -> contextlib.AbstractContextManager[Child]:
    wanted = {"kind": "netns", "netns": namespace.inode, "cgroup": 0, **scope}
    return child([*namespace.enter, sys.executable, FALLBACK, TCP_FLOW / "fallback.py", json.dumps(wanted)])


@pytest.fixture(scope="module")
def sides() -> Iterator[tuple[Namespace, Namespace]]:
    with pair() as made:
        yield made


def by_tuple(raws: list[dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    records = [adapter.normalise(raw, CLOCK) for raw in raws]
    return {(r["saddr"], r["sport"], r["daddr"], r["dport"]): r for r in records}


def test_core_and_fallback_give_the_same_records(sides: tuple[Namespace, Namespace]) -> None:
    client, server = sides
    with contextlib.ExitStack() as stack:
        listening = {exchange: stack.enter_context(listener(server, exchange)) for exchange in EXCHANGES}
        watchers = {
            (side.name, variant): stack.enter_context(start(side))
            for side in sides
            for variant, start in (("core", core_in), ("fallback", fallback_in))
        }
        for watcher in watchers.values():
            watcher.wait("ready")
        expected = [perform(client, server, exchange, listening[exchange]) for exchange in EXCHANGES]
        seen = {key: by_tuple(watcher.records(len(EXCHANGES))) for key, watcher in watchers.items()}
    for record, exchange in zip(expected, EXCHANGES, strict=True):
        for side, truth in ((client, record), (server, other_end(record))):
            key = (truth["saddr"], truth["sport"], truth["daddr"], truth["dport"])
            core, fallback = seen[side.name, "core"][key], seen[side.name, "fallback"][key]
            assert {name: core[name] for name in truth} == truth, exchange.name
            assert {name: core[name] for name in COMPARED} == {name: fallback[name] for name in COMPARED}, exchange.name
            assert core["close_reason"] == fallback["close_reason"] == "fin", exchange.name
            assert core["netns"] == side.inode
            assert core["fidelity"] == {"clock": "syscall", "missing": []}
            assert fallback["fidelity"]["clock"] == "poll"


def test_no_more_is_acknowledged_than_was_sent() -> None:
    raw = {"bytes_acked": 1236, "fin_acked": 0, "bytes_sent": 1300, "bytes_retrans": 66, "sent_known": 1}
    assert adapter._tx_bytes(raw, "client") == 1234, "the FIN was acknowledged, its state not yet seen"
    assert adapter._tx_bytes({**raw, "sent_known": 0}, "client") == 1235
    assert adapter._tx_bytes({**raw, "bytes_acked": 501}, "client") == 500, "the rest was never acknowledged"


def test_a_role_nobody_saw_is_missing_not_guessed(sides: tuple[Namespace, Namespace]) -> None:
    """A listener shorter than the poll: from the counters alone, its server could be a client that was reset."""
    client, server = sides
    with fallback_in(server) as watcher:
        watcher.wait("ready")
        truth = other_end(perform(client, server, Exchange("brief", 40, 2)))
        record = adapter.normalise(watcher.records(1)[0], CLOCK)
    assert record.get("role", "server") == "server"
    assert ("role" in record) != ("role" in record["fidelity"]["missing"])
    assert (record["tx_bytes"], record["rx_bytes"]) == (truth["tx_bytes"], truth["rx_bytes"])


def test_a_reset_counts_no_fin(sides: tuple[Namespace, Namespace]) -> None:
    client, server = sides
    exchange = Exchange("reset", 500, 0)
    with core_in(client) as core, fallback_in(client) as fallback:
        core.wait("ready")
        fallback.wait("ready")
        with listener(server, exchange) as listening:
            near = connect(client, server, exchange, listening)
            far, _ = listening.accept()
            near.sendall(b"x" * 500)
            receive(far, 500)
            far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            far.close()
            with pytest.raises(ConnectionResetError):
                near.recv(1)
            near.close()
        seen = [adapter.normalise(watcher.records(1)[0], CLOCK) for watcher in (core, fallback)]
    assert [(r["tx_bytes"], r["rx_bytes"]) for r in seen] == [(500, 0)] * 2
    assert seen[0]["close_reason"] == "reset"
    assert "close_reason" in seen[1]["fidelity"]["missing"]


def test_a_refused_connection_is_a_record(sides: tuple[Namespace, Namespace]) -> None:
    client, server = sides
    with core_in(client) as core:
        core.wait("ready")
        with pytest.raises(ConnectionRefusedError):
            client.call(lambda: socket.create_connection((server.v4, 9), timeout=20))
        record = adapter.normalise(core.records(1)[0], CLOCK)
    assert (record["role"], record["close_reason"], record["tx_bytes"]) == ("client", "refused", 0)


def test_the_scope_keeps_other_namespaces_out(sides: tuple[Namespace, Namespace]) -> None:
    client, server = sides
    with core_in(server) as core:
        core.wait("ready")
        perform(client, server, Exchange("seen", 1, 1))
        records = [adapter.normalise(raw, CLOCK) for raw in core.records(1)]
        said = core.end()
    assert [r["role"] for r in records] == ["server"]
    assert sum(event["event"] == "record" for event in said) == 1
    assert said[-1] == {"event": "bye"}


CONNECT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as near:
    near.shutdown(socket.SHUT_WR)
    near.recv(1)
"""


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup with one inside it."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    root = Path(next(words[1] for words in mounts if words[2] == "cgroup2"))
    made = root / f"cot-{secrets.token_hex(3)}"
    (made / "inner").mkdir(parents=True)
    yield made
    (made / "inner").rmdir()
    made.rmdir()


def test_a_cgroup_scope_covers_what_is_below_it(sides: tuple[Namespace, Namespace], cgroup: Path) -> None:
    client, server = sides
    words = "config:00000000=" + struct.pack("=QII", cgroup.stat().st_ino, 0, 0).hex()
    with (
        hold(TCP_FLOW / "core.bpf.o", "--record", "flow_record", "--set", words) as core,
        listener(server, Exchange("cgroup", 0, 0)) as listening,
    ):
        core.wait("ready")
        ports = []
        for folder in (None, cgroup, cgroup / "inner"):
            join = f"echo $$ > {folder}/cgroup.procs && " if folder else ""
            address = [server.v4, str(listening.getsockname()[1])]
            command = ["sh", "-c", f'{join}exec "$@"', "sh", sys.executable, "-c", CONNECT, *address]
            running = subprocess.Popen([*client.enter, *command])
            far, (_, port) = listening.accept()
            far.close()
            ports.append(port)
            assert running.wait(20) == 0
        records = core.records(2)
        said = core.end()
    # Our own end of the connections is in our own cgroup, and the first client was nowhere.
    assert [record["sport"] for record in records] == ports[1:]
    assert sum(event["event"] == "record" for event in said) == 2


def test_a_connection_older_than_the_watch_still_counts(sides: tuple[Namespace, Namespace]) -> None:
    client, server = sides
    exchange = Exchange("old", 10, 0)
    with contextlib.ExitStack() as stack, listener(server, exchange) as listening:
        near = connect(client, server, exchange, listening)
        far, _ = listening.accept()
        watchers = [stack.enter_context(start(client)) for start in (core_in, fallback_in)]
        for watcher in watchers:
            watcher.wait("ready")
        near.sendall(b"x" * 10)
        receive(far, 10)
        near.shutdown(socket.SHUT_WR)
        assert far.recv(1) == b""
        far.close()
        near.close()
        core, fallback = (adapter.normalise(watcher.records(1)[0], CLOCK) for watcher in watchers)
    assert (core["tx_bytes"], core["rx_bytes"], core["role"]) == (10, 0, "client")
    assert {"ts_open_ns", "duration_ns"} <= set(core["fidelity"]["missing"])
    assert (fallback["tx_bytes"], fallback["rx_bytes"], fallback["role"]) == (10, 0, "client")


def test_a_held_connection_has_its_process(sides: tuple[Namespace, Namespace]) -> None:
    """A gap is only a gap for short connections: one that lives through a dump has pid, comm and start."""
    client, server = sides
    exchange = Exchange("held", 1, 0)
    with listener(server, exchange) as listening:
        near = connect(client, server, exchange, listening)
        far, _ = listening.accept()
        with near, far:
            watch = fallback.Watch(client.inode)
            client.call(lambda: watch.poll(1.0))
    assert [(c.comm, c.first) for c in watch.connections.values()] == [
        (Path("/proc/self/comm").read_text().strip(), 1.0)
    ]


def test_lost_notices_are_noticed(sides: tuple[Namespace, Namespace], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallback, "RECEIVE_BYTES", 4096)

    def overflow() -> bool:
        with fallback.open_notices() as notices:
            for _ in range(100):
                for _ in range(100):
                    with socket.socket() as bound:
                        bound.bind(("", 0))
                time.sleep(0.05)  # the kernel sends them from a work queue: read while it does, and none is lost
                if fallback._drain(notices)[1]:
                    return True
        return False

    assert sides[0].call(overflow)


def test_the_fallback_refuses_what_it_cannot_scope(sides: tuple[Namespace, Namespace]) -> None:
    for scope, errno in (({"kind": "cgroup", "cgroup": 1}, 95), ({"netns": sides[1].inode}, 18)):
        with fallback_in(sides[0], **scope) as watcher:
            assert watcher.wait("error")["errno"] == errno


def test_without_tracefs_the_error_says_so() -> None:
    with hold(
        TCP_FLOW / "core.bpf.o", inside=("unshare", "-m", "sh", "-c", 'umount -q /sys/kernel/tracing; exec "$@"', "sh")
    ) as watcher:
        error = watcher.wait("error")
    assert (error["stage"], error["errno"], error["program"]) == ("attach", "ENOENT", "flow")
    assert "tracefs is not mounted" in error["message"]


def test_the_perf_buffer_gives_the_same_record(sides: tuple[Namespace, Namespace]) -> None:
    """The kernel is made to refuse ring buffers: the runner's question about them fails with EINVAL."""
    client, server = sides
    words = [RUNNER, "hold", TCP_FLOW / "core.bpf.o", "--record", "flow_record", "--set", scope_words(client)]
    with child(refusing("BPF_MAP_TYPE_RINGBUF", [*WITH_TRACEFS, *words])) as core:
        ready = core.wait("ready")
        assert [p["name"] for p in ready["programs"]] == ["flow_perf"]
        assert "events" not in [m["name"] for m in ready["maps"]]
        truth = perform(client, server, Exchange("perf", 123, 456))
        record = adapter.normalise(core.records(1)[0], CLOCK)
    assert {name: record[name] for name in truth} == truth
