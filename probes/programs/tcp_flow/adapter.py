"""Fits tcp-flow to a host and turns a raw record of any variant into the consumer's record.

This is the one place that knows what SYN and FIN do to the kernel's byte counters. Runs on Python 3.6, standard library
only.
"""

import ipaddress
import struct
from typing import Any, Dict, List, Mapping, Optional, Union

ROLES = {1: "client", 2: "server"}
ECONNRESET, EPIPE, ETIMEDOUT, ECONNREFUSED = 104, 32, 110, 111
REASONS = {ECONNRESET: "reset", EPIPE: "reset", ETIMEDOUT: "timeout", ECONNREFUSED: "refused"}


def core_arguments(_config: Mapping[str, Any], scope: Mapping[str, Any]) -> Dict[str, List[str]]:
    """Return the runner's arguments: the scope, in the map ``config``."""
    return {"set": ["config:00000000=" + struct.pack("=QII", scope["cgroup"], scope["netns"], 0).hex()]}


def bcc_setup(bpf: Any, _config: Mapping[str, Any], scope: Mapping[str, Any], _tag: str) -> None:
    """Give the running BCC build its scope; it reports nothing before."""
    table = bpf["config"]
    leaf = table.Leaf()
    leaf.cgroup, leaf.netns, leaf.configured = scope["cgroup"], scope["netns"], 1
    table[table.Key(0)] = leaf


def normalise(raw: Mapping[str, Any], clock: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the consumer record; what this connection or variant cannot tell is named in ``fidelity.missing``."""
    local, remote = _address(raw["saddr"]), _address(raw["daddr"])
    role = _role(raw)
    record: Dict[str, Any] = {
        "mono_ns": raw["mono_ns"],
        "ts_ns": raw["mono_ns"] + clock["offset_ns"],
        "saddr": str(local),
        "sport": raw["sport"],
        "daddr": str(remote),
        "dport": raw["dport"],
        "family": local.version,
        "role": role,
        "tx_bytes": _tx_bytes(raw, role),
        "rx_bytes": max(0, raw["bytes_received"] - raw["fin_received"]),
        "retrans": raw["retrans"],
        "rtt_us": raw["rtt_us"],
        "close_reason": _close_reason(raw),
        "pid": raw["pid"] or None,
        "comm": raw["comm"] if raw["pid"] else None,
        "netns": raw["netns"] or None,
        "duration_ns": raw["mono_ns"] - raw["open_ns"] if raw["open_ns"] else None,
        "ts_open_ns": raw["open_ns"] + clock["offset_ns"] if raw["open_ns"] else None,
    }
    missing = sorted(name for name, value in record.items() if value is None)
    record = {name: value for name, value in record.items() if value is not None}
    record["fidelity"] = {"clock": raw.get("clock", "syscall"), "missing": missing}
    return record


def _address(text: str) -> Union[ipaddress.IPv4Address, ipaddress.IPv6Address]:
    """Return the address of 16 bytes in hexadecimal; IPv4 inside IPv6 is unfolded."""
    address = ipaddress.IPv6Address(bytes.fromhex(text))
    return address.ipv4_mapped or address


def _role(raw: Mapping[str, Any]) -> Optional[str]:
    """Return the role, from the handshake when it was seen, else from the counters.

    A client's SYN counts as an acknowledged byte and a server's does not, so once everything sent is acknowledged the
    surplus tells them apart. A role of None says that the variant has already tried.
    """
    if raw["role"] != 0 or not raw["sent_known"]:
        return ROLES.get(raw["role"])
    surplus = raw["bytes_acked"] - raw["fin_acked"] - (raw["bytes_sent"] - raw["bytes_retrans"])
    return {1: "client", 0: "server"}.get(surplus) if raw["fin_acked"] else None


def _tx_bytes(raw: Mapping[str, Any], role: Optional[str]) -> int:
    """Return the payload that the other end acknowledged.

    What SYN and FIN added is judged from states that can be a step behind the counters; where the kernel also counts
    what it sent, no more payload can have been acknowledged than that.
    """
    syn = 1 if role == "client" else 0
    acked = max(0, int(raw["bytes_acked"]) - syn - int(raw["fin_acked"]))
    return min(acked, raw["bytes_sent"] - raw["bytes_retrans"]) if raw["sent_known"] else acked


def _close_reason(raw: Mapping[str, Any]) -> Optional[str]:
    """Return why it ended; None when the variant cannot tell (its ``error`` is None)."""
    if raw["established"] and raw["fin_acked"] and raw["fin_received"]:
        return "fin"
    if raw["error"] is None:
        return None
    return REASONS.get(raw["error"], "abort" if raw["established"] else "failed")
