"""net-policy on the real kernel: for every packet of a small world, each variant does what the reference says."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from net_policy_wire import Wire, wire

from fleet.policy import judge

pytestmark = pytest.mark.kernel

REMOTES = ("10.9.0.1", "10.9.0.2", "10.9.1.1", "10.9.1.200", "192.0.2.9", "2001:db8::1", "2001:db8::2", "2001:db8:1::1")
VARIANTS = ("core", "bcc", "fallback-nft", "fallback-legacy")


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
