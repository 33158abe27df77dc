"""Policies and hosts in, one table per host out: the ``config`` of docs/contracts.md. It never judges a packet.

``except`` takes addresses out of an allowance (another policy may still allow them), so networks are subtracted here
and no denial is written. Labels become the addresses of the hosts that carry them. A table always carries ``protect``:
who may reach the host's SSH port whatever the rules say, so that no policy can cut off the one who has to take it back.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fleet.policy.document import Block, Clause, Network, Policy, Selector, read_policies
from fleet.policy.fault import PolicyTooLarge, PolicyUnresolved
from inventory.host import Host

MAX_RULES = 20_000  # rows per host
_EVERYBODY: tuple[Network, ...] = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


def compile_policy(
    documents: Sequence[Mapping[str, Any]],
    hosts: Sequence[Host],
    *,
    audit: bool,
    controllers: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """Return each host's table by host name; a host that no policy selects gets one that allows everything.

    *controllers* are addresses or networks from which hosts are managed; without any, the SSH port of every host stays
    open to everybody. A host behind a jump host is reached from that one's addresses. Errors: COR-POL-001 to 004.
    """
    policies = read_policies(documents)
    by_name = {host.name: host for host in hosts}
    resolved = {
        (policy.name, clause.direction, clause.index): _peers(clause, hosts, policy.name)
        for policy in policies
        for clause in policy.clauses
    }
    return {host.name: _table(host, policies, resolved, by_name, controllers, audit=audit) for host in hosts}


def _table(
    host: Host,
    policies: Iterable[Policy],
    resolved: Mapping[tuple[str, str, int], Sequence[Network]],
    by_name: Mapping[str, Host],
    controllers: Sequence[str],
    *,
    audit: bool,
) -> dict[str, Any]:
    selecting = [policy for policy in policies if policy.selector.matches(host.labels)]
    rules: list[dict[str, Any]] = []
    number = 0
    for policy in selecting:
        for clause in policy.clauses:
            number += 1
            origin = f"policy {policy.name}, {clause.direction}[{clause.index}]"
            head = {"id": number, "dir": clause.direction, "action": policy.action}
            spans = [(ports.protocol, ports.span) for ports in clause.ports] or [("any", None)]
            for network in resolved[policy.name, clause.direction, clause.index]:
                for protocol, span in sorted(set(spans), key=lambda s: (s[0], s[1] or (0, 0))):
                    port = None if span is None else list(span)
                    rules.append({**head, "cidr": str(network), "proto": protocol, "port": port, "origin": origin})
            if len(rules) > MAX_RULES:
                raise PolicyTooLarge(f"{origin}: host {host.name} would need more than {MAX_RULES} rules")
    isolated = frozenset[str]().union(*(policy.isolates for policy in selecting))
    return {
        "interface": host.interface,
        "audit": audit,
        "established": True,
        "default": {side: "deny" if side in isolated else "allow" for side in ("ingress", "egress")},
        "protect": _protect(host, by_name, controllers),
        "rules": rules,
    }


def _protect(host: Host, by_name: Mapping[str, Host], controllers: Sequence[str]) -> dict[str, Any]:
    networks: list[Network] = []
    if host.connection != "local":
        try:
            networks = [ipaddress.ip_network(text, strict=False) for text in controllers]
        except ValueError as error:
            raise PolicyUnresolved(
                f"controller: {error}", remedy="Give the addresses from which hosts are managed as numbers."
            ) from None
        if networks and host.jump:
            networks += (
                _addresses(by_name[host.jump], f"jump host of {host.name}") if host.jump in by_name else _EVERYBODY
            )
        networks = networks or list(_EVERYBODY)
    return {"port": host.port, "cidrs": [str(network) for network in _collapsed(networks)]}


def _peers(clause: Clause, hosts: Sequence[Host], policy: str) -> list[Network]:
    """Return the networks a clause speaks of, least number of blocks, v4 first."""
    networks: list[Network] = [] if clause.peers else list(_EVERYBODY)
    for peer in clause.peers:
        match peer:
            case Block():
                networks += _less(peer)
            case Selector():
                for host in hosts:
                    if peer.matches(host.labels):
                        networks += _addresses(host, f"policy {policy}, {clause.direction}[{clause.index}]")
    return _collapsed(networks)


def _less(block: Block) -> list[Network]:
    """Subtract the exceptions of a block from it."""
    left: list[Network] = [block.network]
    for hole in block.exceptions:
        kept: list[Network] = []
        for network in left:
            if network.subnet_of(hole):  # type: ignore[arg-type]  # one block has one version
                continue
            kept += network.address_exclude(hole) if hole.subnet_of(network) else [network]  # type: ignore[arg-type]  # likewise
        left = kept
    return left


def _addresses(host: Host, at: str) -> list[Network]:
    texts = host.addresses or ((host.address,) if host.address else ())
    if not texts:
        raise PolicyUnresolved(f"{at}: host {host.name} has no address")
    networks: list[Network] = []
    for text in texts:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            raise PolicyUnresolved(f"{at}: host {host.name}: {text!r} is not an address") from None
        if isinstance(address, ipaddress.IPv6Address):
            if address.scope_id:
                raise PolicyUnresolved(f"{at}: host {host.name}: {text!r} is valid on one link only")
            address = address.ipv4_mapped or address
        networks.append(ipaddress.ip_network(address))
    return networks


def _collapsed(networks: Iterable[Network]) -> list[Network]:
    four = [n for n in networks if isinstance(n, ipaddress.IPv4Network)]
    six = [n for n in networks if isinstance(n, ipaddress.IPv6Network)]
    return [*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six)]
