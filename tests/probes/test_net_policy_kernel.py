"""net-policy on the real kernel: for every packet of a small world, each variant does what the reference says."""

from __future__ import annotations

import itertools
import random
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from net_policy_inside import checksum
from net_policy_wire import Held, Wire, wire

from fleet.policy import judge

pytestmark = pytest.mark.kernel

REMOTES = ("10.9.0.1", "10.9.0.2", "10.9.1.1", "10.9.1.200", "192.0.2.9", "2001:db8::1", "2001:db8::2", "2001:db8:1::1")
VARIANTS = ("core", "bcc", "fallback-nft", "fallback-legacy")
CONVERSING = ("core", "bcc", "fallback-nft")  # conntrack is the same under both back ends


def rule(number: int, side: str, action: str, cidr: str, proto: str = "any", port: Any = None) -> dict[str, Any]:
    port = [port, port] if isinstance(port, int) else port
    return {"id": number, "dir": side, "action": action, "cidr": cidr, "proto": proto, "port": port, "origin": "test"}


def table(rules: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return {
        "interface": "eth0",
        "audit": False,
        "established": True,
        "default": {"ingress": "deny", "egress": "deny"},
        "protect": {"port": 22, "cidrs": ["192.0.2.9/32"]},
        "rules": rules,
        **changes,
    }


def both(number: int, action: str, cidr: str, proto: str = "any", port: Any = None) -> list[dict[str, Any]]:
    """The same rule for each direction, with ids of their own."""
    return [rule(number + 50 * i, side, action, cidr, proto, port) for i, side in enumerate(("ingress", "egress"))]


WORLD = table(
    [
        *both(1, "allow", "10.9.0.0/24", "tcp", [100, 203]),
        *both(1, "allow", "10.9.1.0/25", "tcp", [100, 203]),
        *both(2, "allow", "10.9.0.0/16", "udp", 53),
        *both(3, "allow", "10.9.0.1/32"),
        *both(4, "deny", "10.9.0.0/31", "tcp", [150, 160]),
        *both(5, "deny", "10.9.1.200/32", "udp"),
        *both(6, "allow", "10.9.1.200/32", "icmp"),
        *both(7, "allow", "2001:db8::/64", "tcp", 443),
        *both(7, "allow", "2001:db8::/64", "tcp", [1000, 1003]),
        *both(8, "allow", "2001:db8::2/128", "sctp", 7),
        *both(9, "allow", "::/0", "udp", [1, 65535]),
        *both(10, "deny", "2001:db8:1::/48"),
    ]
)
PORTS = {
    "tcp": (22, 99, 100, 149, 150, 160, 161, 203, 204, 443, 999, 1000, 1003, 1004),
    "udp": (1, 52, 53, 54, 65535),
    "sctp": (7, 8),
    "icmp": (None,),
}


def packets(side: str, remotes: Any = REMOTES) -> list[dict[str, Any]]:
    """Every (remote, protocol, port) as the opening packet of a flow of its own."""
    numbers = itertools.count(1)
    rows = []
    for remote in remotes:
        local = "fd83::1" if ":" in remote else "10.83.0.1"
        ends = {"from": remote, "to": local} if side == "ingress" else {"from": local, "to": remote}
        for protocol, ports in PORTS.items():
            for port in ports:
                number = next(numbers)
                rows.append(
                    {
                        "id": number,
                        "protocol": protocol,
                        "port": port,
                        "sport": 20000 + number,
                        "remote": remote,
                        **ends,
                    }
                )
    return rows


def verdicts(config: dict[str, Any], side: str, rows: list[dict[str, Any]]) -> dict[int, tuple[str, int | None]]:
    return {r["id"]: judge(config, side, r["remote"], r["protocol"], r["port"], source_port=r["sport"]) for r in rows}


@pytest.fixture(scope="module")
def line() -> Iterator[Wire]:
    with wire(REMOTES) as made:
        for side in ("ingress", "egress"):  # neighbours are known, and the wire itself loses nothing
            assert made.arrived(side, packets(side)) == {row["id"] for row in packets(side)}
        yield made


def variant_of(name: str, config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    variant, _, backend = name.partition("-")
    return variant, {**config, "backend": backend} if backend else config


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("side", ["ingress", "egress"])
def test_every_verdict_is_the_reference(line: Wire, name: str, side: str) -> None:
    before = line.state()
    variant, config = variant_of(name, WORLD)
    rows = packets(side)
    expected = verdicts(config, side, rows)
    allowed = {number for number, (action, _) in expected.items() if action == "allow"}
    with line.hold(variant, config) as held:
        arrived = line.arrived(side, rows)
        wrong = [(row, expected[row["id"]]) for row in rows if (row["id"] in arrived) != (row["id"] in allowed)]
        assert wrong == []
        assert 0 < len(allowed) < len(rows)
        seen = held.counters()
    wanted = Counter(number for _, number in expected.values() if number is not None)
    assert {
        number: packets_ for (number, at), packets_ in seen.items() if isinstance(number, int) and at == side
    } == wanted
    assert line.state() == before


def random_table(seed: int) -> dict[str, Any]:
    """A table of nested and overlapping networks, ranges and actions; the seed is in the test's name."""
    pick = random.Random(seed)
    near = ("0.0.0.0/0", "10.9.0.0/23", "10.9.0.0/24", "10.9.0.1/32", "10.9.1.200/32", "192.0.2.0/24")
    cidrs = (*near, "::/0", "2001:db8::/47", "2001:db8::/64", "2001:db8::2/128")
    rows = []
    for number in range(1, 13):
        side, action = pick.choice(("ingress", "egress")), pick.choice(("allow", "allow", "deny"))
        for _ in range(pick.randint(1, 4)):
            proto = pick.choice(("any", "tcp", "tcp", "udp", "sctp", "icmp"))
            span = sorted(pick.choices([1, 22, 53, 100, 150, 203, 443, 1000, 65535], k=2))
            port = span if proto in PORTS and proto != "icmp" and pick.random() < 0.8 else None
            rows.append(rule(number, side, action, pick.choice(cidrs), proto, port))
    default = {side: pick.choice(("allow", "deny")) for side in ("ingress", "egress")}
    return table(rows, default=default)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", ["core", "fallback-nft"])
def test_random_policies_too(line: Wire, name: str, seed: int) -> None:
    variant, config = variant_of(name, random_table(seed))
    with line.hold(variant, config):
        for side in ("ingress", "egress"):
            rows = packets(side)
            expected = verdicts(config, side, rows)
            arrived = line.arrived(side, rows)
            assert [row for row in rows if (row["id"] in arrived) != (expected[row["id"]][0] == "allow")] == []


@pytest.mark.parametrize("name", VARIANTS)
def test_audit_counts_and_samples_but_passes(line: Wire, name: str) -> None:
    variant, config = variant_of(name, {**WORLD, "audit": True})
    rows = packets("ingress", ["10.9.1.200", "2001:db8:1::1"])
    expected = verdicts(config, "ingress", rows)
    with line.hold(variant, config) as held:
        assert line.arrived("ingress", rows) == set(expected)
        seen = held.counters()
    denied = Counter(number for action, number in expected.values() if action == "deny")
    assert {number: n for (number, side), n in seen.items() if number in (5, 10)} == {5: denied[5], 10: denied[10]}
    assert seen["default", "ingress"] >= denied[None] > 0
    if variant != "bcc":  # whose samples the agent reads
        assert {record["action"] for record in held.records()} == {"audit"}


@pytest.mark.parametrize("name", ["core", "fallback-nft", "fallback-legacy"])
def test_denied_packets_are_sampled(line: Wire, name: str) -> None:
    variant, config = variant_of(name, WORLD)
    with line.hold(variant, config) as held:
        for number, remote in enumerate(("10.9.1.200", "2001:db8:1::1", "192.0.2.9"), start=1):
            local = "fd83::1" if ":" in remote else "10.83.0.1"
            row = {"id": number, "protocol": "udp", "port": 53, "sport": 999, "from": remote, "to": local}
            assert line.arrived("ingress", [row]) == set()
        held.counters()
    samples = [r for r in held.records() if r["proto"] == "udp"]
    assert [(r["dir"], r["saddr"], r["daddr"], r["sport"], r["dport"], r["rule_id"], r["action"]) for r in samples] == [
        ("ingress", "10.9.1.200", "10.83.0.1", 999, 53, 5, "deny"),
        ("ingress", "2001:db8:1::1", "fd83::1", 999, 53, 10, "deny"),
        ("ingress", "192.0.2.9", "10.83.0.1", 999, 53, "default", "deny"),
    ]


# Conversations between real sockets, opened from one end.
OPEN = table(
    [
        *both(1, "allow", "10.83.0.0/24", "tcp", 80),
        *both(2, "allow", "10.83.0.0/24", "udp", 80),
        *both(3, "allow", "fd83::/64", "tcp", 80),
        *both(4, "allow", "fd83::/64", "udp", 80),
    ]
)
IN, OUT = "ingress", "egress"


def ends(line: Wire, side: str) -> tuple[Any, Any]:
    """The namespace that serves and the one that opens."""
    return (line.host, line.peer) if side == IN else (line.peer, line.host)


def tcp(line: Wire, side: str, port: int, *, version: int = 4, source: str = "") -> bool:
    """Open a connection and have it answer; tell whether that worked."""
    server, client = ends(line, side)
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    address = server.v4 if version == 4 else server.v6

    def listen() -> socket.socket:
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
        made.listen()
        made.settimeout(5)
        return made

    with server.call(listen) as listener, client.call(lambda: socket.socket(family, socket.SOCK_STREAM)) as caller:
        caller.settimeout(0.3)
        if source:
            caller.bind((source, 0))
        try:
            caller.connect((address, port))
        except OSError:
            return False
        accepted, _ = listener.accept()
        with accepted:
            accepted.settimeout(5)
            caller.settimeout(5)
            caller.sendall(b"q" * 5000)
            assert accepted.recv(5000)
            accepted.sendall(b"a")
            return caller.recv(1) == b"a"


def udp(line: Wire, side: str, port: int, *, version: int = 4, size: int = 10) -> str:
    """Ask and be answered: returns what became of it."""
    server, client = ends(line, side)
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    address = server.v4 if version == 4 else server.v6
    made: Callable[[], socket.socket] = lambda: socket.socket(family, socket.SOCK_DGRAM)  # noqa: E731
    with server.call(made) as listener, client.call(made) as caller:
        if port != CLOSED:
            listener.bind((address, port))
        listener.settimeout(0.3)
        caller.settimeout(0.3)
        caller.connect((address, port))
        try:
            caller.send(bytes(size))
            if port == CLOSED:
                caller.recv(1)
            data, sender = listener.recvfrom(65536)
            assert len(data) == size
            listener.sendto(data, sender)
            return "answered" if caller.recv(65536) == data else "garbled"
        except ConnectionRefusedError:
            return "refused"
        except OSError:
            return "lost"


CLOSED = 79


@pytest.mark.parametrize("name", CONVERSING)
def test_replies_pass_and_nothing_else_does(line: Wire, name: str) -> None:
    variant, config = variant_of(name, OPEN)
    with line.hold(variant, config) as held:
        for side, version in itertools.product((IN, OUT), (4, 6)):
            assert tcp(line, side, 80, version=version)
            assert not tcp(line, side, 81, version=version)
            assert udp(line, side, 80, version=version) == "answered"
            assert udp(line, side, 81, version=version) == "lost"
        seen = held.counters()
    assert seen["established", IN] >= 4
    assert seen["established", OUT] >= 4


@pytest.mark.parametrize("name", CONVERSING)
def test_fragments_follow_their_first(line: Wire, name: str) -> None:
    """In both directions; what is let in must come out again whole, answered in fragments, too."""
    variant, config = variant_of(name, OPEN)
    with line.hold(variant, config):
        for side, version in itertools.product((IN, OUT), (4, 6)):
            assert udp(line, side, 80, version=version, size=9000) == "answered"
            assert udp(line, side, 81, version=version, size=9000) == "lost"


@pytest.mark.parametrize("name", CONVERSING)
def test_errors_about_a_conversation_pass(line: Wire, name: str) -> None:
    """A refused port is heard of, though ICMP is not allowed; without `established` it is not."""
    rows = [*both(1, "allow", "10.83.0.0/24", "udp", CLOSED), *both(2, "allow", "fd83::/64", "udp", CLOSED)]
    variant, config = variant_of(name, table(rows))
    with line.hold(variant, config):
        for side, version in itertools.product((IN, OUT), (4, 6)):
            assert udp(line, side, CLOSED, version=version) == "refused"
    variant, config = variant_of(name, table(rows, established=False))
    with line.hold(variant, config):
        for side, version in itertools.product((IN, OUT), (4, 6)):
            assert udp(line, side, CLOSED, version=version) == "lost"


def echo(where: Any, address: str) -> bool:
    """Ask for an echo large enough to travel in fragments; the kernel at the other end answers."""
    six = ":" in address
    family, protocol = (socket.AF_INET6, 58) if six else (socket.AF_INET, 1)
    with where.call(lambda: socket.socket(family, socket.SOCK_RAW, protocol)) as link:
        link.settimeout(0.3)
        request = struct.pack(">BBHHH", 128 if six else 8, 0, 0, 77, 1) + bytes(3000)
        request = request[:2] + struct.pack(">H", 0 if six else checksum(request)) + request[4:]
        link.sendto(request, (address, 0))
        try:
            while True:
                data = link.recv(65536)
                data = data if six else data[(data[0] & 15) * 4 :]
                if data[0] == (129 if six else 0):
                    return data[4:6] == request[4:6]
        except OSError:
            return False


@pytest.mark.parametrize("name", CONVERSING)
def test_echo_and_its_reply(line: Wire, name: str) -> None:
    rows = [rule(1, OUT, "allow", "10.83.0.0/24", "icmp"), rule(2, OUT, "allow", "fd83::/64", "icmp")]
    variant, config = variant_of(name, table(rows))
    with line.hold(variant, config):
        assert echo(line.host, line.peer.v4)  # of the same number as those that must not come in
        assert echo(line.host, line.peer.v6)
        assert not echo(line.peer, line.host.v4)
        assert not echo(line.peer, line.host.v6)


@pytest.mark.parametrize("name", CONVERSING)
def test_neighbours_are_found_whatever_the_rules(line: Wire, name: str) -> None:
    variant, config = variant_of(name, OPEN)
    with line.hold(variant, config):
        for where in (line.host, line.peer):
            line.run(where, "ip", "neigh", "flush", "dev", "eth0")
        assert tcp(line, IN, 80)
        assert tcp(line, OUT, 80, version=6)


@pytest.mark.parametrize("name", CONVERSING)
def test_the_management_channel_stands(line: Wire, name: str) -> None:
    """Against a denial of everything and without conversations; for nobody but the controller."""
    rows = [*both(1, "deny", "0.0.0.0/0"), *both(2, "deny", "::/0")]
    variant, config = variant_of(name, table(rows, established=False))
    with line.hold(variant, config) as held:
        assert tcp(line, IN, 22, source="192.0.2.9")
        assert not tcp(line, IN, 22, source="10.9.0.1")
        assert not tcp(line, IN, 23, source="192.0.2.9")
        seen = held.counters()
    assert seen["protected", IN] >= 3
    assert seen["protected", OUT] >= 3


@pytest.mark.parametrize("name", VARIANTS)
def test_a_newer_table_replaces_the_older_and_others_are_left_alone(line: Wire, name: str) -> None:
    variant, older = variant_of(name, OPEN)
    newer = {**older, "rules": [*both(1, "allow", "10.83.0.0/24", "tcp", 81), *both(2, "allow", "10.83.0.1/32", "udp")]}
    newer["rules"] += both(2, "allow", "10.9.0.0/24", "udp")  # several networks: a set
    others = (
        ["iptables-nft", "-A", "INPUT", "-s", "203.0.113.1", "-j", "DROP"],
        ["iptables-legacy", "-A", "OUTPUT", "-d", "203.0.113.1", "-j", "DROP"],
        ["ip6tables-nft", "-N", "theirs"],
        ["ipset", "create", "theirs", "hash:net"],
        ["tc", "qdisc", "add", "dev", "eth0", "clsact"],
        ["tc", "filter", "add", "dev", "eth0", "ingress", "prio", "7", "u32", "match", "ip", "src", "203.0.113.1"],
    )
    with wire(()) as apart:
        for words in others:
            apart.run(apart.host, *words)
        before = apart.state()
        with apart.hold(variant, older) as first:
            assert tcp(apart, IN, 80)
            with_older = apart.state()
            second = Held(apart, variant, newer)
            first.end()
            assert tcp(apart, IN, 81)
            assert not tcp(apart, IN, 80)
            second.end()
            assert not tcp(apart, IN, 80)  # a holder that ended leaves its policy in force
            assert tcp(apart, IN, 81)
            assert apart.state() not in (before, with_older)
            apart.remove(variant, newer)
            assert apart.state() == before
            apart.remove(variant, newer)
        assert apart.state() == before


@pytest.mark.parametrize("name", CONVERSING)
def test_a_priority_tag_is_no_way_around(line: Wire, name: str) -> None:
    """A frame tagged with VLAN 0 belongs to the interface itself; one of another VLAN does not."""
    variant, config = variant_of(name, OPEN)
    payload = struct.pack(">HHHH", 5, 81, 8, 0)
    packet = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 28, 1, 0, 64, 17, 0, bytes([10, 83, 0, 2]), bytes([10, 83, 0, 1]))
    packet = packet[:10] + struct.pack(">H", checksum(packet)) + packet[12:]
    mac = bytes.fromhex(address_of(line).replace(":", ""))
    with line.hold(variant, config) as held, line.peer.call(frames) as link, line.host.call(listening) as listener:
        link.send(mac + bytes(6) + struct.pack(">HHH", 0x8100, 0, 0x0800) + packet + payload)
        with pytest.raises(TimeoutError):
            listener.recv(1)
        assert held.counters()["default", IN] >= 1


def address_of(line: Wire) -> str:
    return line.run(line.host, "ip", "-o", "link", "show", "dev", "eth0").split("link/ether ")[1].split()[0]


def frames() -> socket.socket:
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    link.bind(("eth0", 0))
    return link


def listening() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("10.83.0.1", 81))
    made.settimeout(0.3)
    return made
