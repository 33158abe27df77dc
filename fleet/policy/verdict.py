"""The reference verdict on one packet that opens a flow, from a host's table alone: slow, plain, and the judge of all.

Every variant of net-policy must say the same; it never knows how one of them is made.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

PORTED = ("tcp", "udp", "sctp")
_DIRECTION_WORDS = {"ingress": "from", "egress": "to"}


def judge(
    config: Mapping[str, Any],
    direction: str,
    remote_address: str,
    protocol: str,
    port: int | None,
    *,
    source_port: int | None = None,
) -> tuple[str, int | None]:
    """Return (``allow`` or ``deny``, id of the rule that decided or None for protection and default).

    *port* is the destination port, None when the protocol has none; deny wins, then allow, then the default of the
    direction; of several rules the lowest id counts. Audit changes what is done about the answer, not the answer.
    """
    if _protected(config, direction, remote_address, protocol, port if direction == "ingress" else source_port):
        return "allow", None
    matching = [rule for rule in config["rules"] if _matches(rule, direction, remote_address, protocol, port)]
    for action in ("deny", "allow"):
        numbers = [rule["id"] for rule in matching if rule["action"] == action]
        if numbers:
            return action, min(numbers)
    return config["default"][direction], None


def _protected(
    config: Mapping[str, Any], direction: str, remote_address: str, protocol: str, local_port: int | None
) -> bool:
    protect = config["protect"]
    return (
        protocol == "tcp"
        and direction in _DIRECTION_WORDS
        and local_port == protect["port"]
        and any(_inside(remote_address, cidr) for cidr in protect["cidrs"])
    )


def _matches(rule: Mapping[str, Any], direction: str, remote_address: str, protocol: str, port: int | None) -> bool:
    if rule["dir"] != direction or rule["proto"] not in ("any", protocol) or not _inside(remote_address, rule["cidr"]):
        return False
    return rule["port"] is None or (
        protocol in PORTED and port is not None and rule["port"][0] <= port <= rule["port"][1]
    )


def _inside(address: str, cidr: str) -> bool:
    number = ipaddress.ip_address(address)
    if isinstance(number, ipaddress.IPv6Address) and number.ipv4_mapped:
        number = number.ipv4_mapped
    network = ipaddress.ip_network(cidr)
    return number.version == network.version and number in network


def explain(config: Mapping[str, Any], direction: str, remote_address: str, protocol: str, port: int | None) -> str:
    """Return the verdict and its reason as one sentence."""
    action, number = judge(config, direction, remote_address, protocol, port)
    what = f"{protocol}{'' if port is None else f' port {port}'} {_DIRECTION_WORDS[direction]} {remote_address}"
    if number is not None:
        rule = next(r for r in config["rules"] if r["id"] == number)
        reason = f"rule {number} ({rule['origin']})"
    elif _protected(config, direction, remote_address, protocol, port if direction == "ingress" else None):
        reason = "the management channel is protected"
    else:
        why = "a policy isolates the host" if action == "deny" else "no policy isolates the host"
        reason = f"no rule speaks of it and {why} in this direction"
    passes = " (audit: it is counted and passes)" if config["audit"] and action == "deny" else ""
    return f"{direction} {what}: {action}, because {reason}{passes}."
