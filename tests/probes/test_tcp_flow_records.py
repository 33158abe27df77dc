"""tcp-flow's arithmetic, without a kernel: what SYN and FIN do to the counters, and what is left out when unknown."""

from __future__ import annotations

import ast
import importlib.util
import struct
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.programs.tcp_flow import adapter, fallback

FOLDER = Path(adapter.__file__).parent
CLOCK = {"offset_ns": 7, "host": "h"}
CLIENT, SERVER = 1, 2
BYTES = st.integers(0, 1 << 50)


def raw(**changed: Any) -> dict[str, Any]:
    """An orderly connection of a client that sent and received nothing."""
    return {
        "mono_ns": 5_000, "open_ns": 2_000, "bytes_acked": 2, "bytes_received": 1, "bytes_sent": 0, "bytes_retrans": 0,
        "netns": 4, "pid": 9, "retrans": 0, "rtt_us": 50, "error": 0, "sport": 40000, "dport": 80, "role": CLIENT,
        "established": 1, "old_state": 5, "fin_acked": 1, "fin_received": 1, "sent_known": 1,
        "saddr": "00" * 10 + "ffff0a000001", "daddr": "fd83" + "00" * 13 + "01", "comm": "curl", **changed,
    }  # fmt: skip


def counters(role: int, sent: int, resent: int, received: int, fin_acked: int, fin_received: int) -> dict[str, Any]:
    """What the kernel counts for a connection all of whose data was acknowledged."""
    return {
        "bytes_acked": sent + fin_acked + (role == CLIENT), "bytes_received": received + fin_received,
        "bytes_sent": sent + resent, "bytes_retrans": resent, "fin_acked": fin_acked, "fin_received": fin_received,
    }  # fmt: skip


@given(st.sampled_from([CLIENT, SERVER]), BYTES, BYTES, BYTES, st.integers(0, 1), st.integers(0, 1))
def test_bytes_are_the_payload(role: int, sent: int, resent: int, received: int, ours: int, theirs: int) -> None:
    record = adapter.normalise(raw(role=role, **counters(role, sent, resent, received, ours, theirs)), CLOCK)
    assert (record["tx_bytes"], record["rx_bytes"]) == (sent, received)
    assert record["role"] == {CLIENT: "client", SERVER: "server"}[role]


@given(st.sampled_from([CLIENT, SERVER]), BYTES, BYTES)
def test_an_unseen_handshake_is_told_by_the_counters(role: int, sent: int, resent: int) -> None:
    record = adapter.normalise(raw(role=0, open_ns=0, **counters(role, sent, resent, 0, 1, 1)), CLOCK)
    assert record["role"] == {CLIENT: "client", SERVER: "server"}[role]
    assert record["tx_bytes"] == sent
    assert record["fidelity"]["missing"] == ["duration_ns", "ts_open_ns"]


@pytest.mark.parametrize("changed", [{"fin_acked": 0}, {"sent_known": 0}, {"role": None}])
def test_a_role_that_cannot_be_told_is_missing(changed: dict[str, Any]) -> None:
    record = adapter.normalise(raw(**{"role": 0, **changed}), CLOCK)
    assert "role" not in record
    assert "role" in record["fidelity"]["missing"]


def test_times_addresses_and_missing_fields() -> None:
    record = adapter.normalise(raw(pid=0, comm=""), CLOCK)
    assert (record["ts_ns"], record["ts_open_ns"], record["duration_ns"]) == (5_007, 2_007, 3_000)
    assert (record["saddr"], record["family"], record["daddr"]) == ("10.0.0.1", 4, "fd83::1")
    assert record["fidelity"] == {"clock": "syscall", "missing": ["comm", "pid"]}
    assert None not in record.values()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, "fin"), ({"fin_received": 0, "error": 104}, "reset"), ({"fin_acked": 0, "error": 32}, "reset"),
        ({"fin_acked": 0, "error": 110}, "timeout"), ({"fin_acked": 0}, "abort"),
        ({"established": 0, "fin_acked": 0, "error": 111}, "refused"), ({"established": 0, "fin_acked": 0}, "failed"),
        ({"fin_acked": 0, "error": None}, None),
    ],
)  # fmt: skip
def test_why_it_ended(changed: dict[str, Any], reason: str | None) -> None:
    assert adapter.normalise(raw(**changed), CLOCK).get("close_reason") == reason


def test_the_scope_goes_into_the_config_map() -> None:
    (text,) = adapter.core_arguments({}, {"kind": "cgroup", "cgroup": 0x0102030405060708, "netns": 9})["set"]
    name, value = text.split("=")
    assert name == "config:00000000"
    assert struct.unpack("=QII", bytes.fromhex(value)) == (0x0102030405060708, 9, 0)


# ---- the fallback's inference and its parsing of hostile bytes ----


def message(sport: int, acked: int, received: int, sent: int, resent: int, size: int = 232) -> bytes:
    info = bytearray(size)
    struct.pack_into("=QQ", info, 120, acked, received)
    if size >= 216:
        struct.pack_into("=QQ", info, 200, sent, resent)
    head = struct.pack("=BBBB", 2, 7, 0, 0) + struct.pack("!HH", sport, 80) + b"\x0a" * 32 + b"\0" * 12 + b"\0" * 20
    return head + struct.pack("=HH", 4 + size, fallback.INET_DIAG_INFO) + bytes(info)


def ended(data: bytes, *, listeners: tuple[int, ...] = (), role: int = 0) -> dict[str, Any] | None:
    watch = fallback.Watch(4)
    watch.listeners = dict.fromkeys(listeners, 0.0)
    parsed = fallback.Message(data)
    if role:
        known = watch.connections[parsed.cookie] = fallback.Connection(1.0, 5)
        known.role = role
    return watch.ended(parsed, 2_000_000_000)


@given(st.sampled_from([CLIENT, SERVER]), BYTES, BYTES, BYTES, st.booleans())
def test_the_fallback_infers_what_the_core_build_knows(
    role: int, sent: int, resent: int, received: int, orderly: bool
) -> None:
    fin = int(orderly)
    truth = counters(role, sent, resent, received, fin, fin)
    data = message(8080, truth["bytes_acked"], truth["bytes_received"], truth["bytes_sent"], truth["bytes_retrans"])
    record = ended(data, listeners=(8080,) if role == SERVER else (), role=CLIENT if role == CLIENT else 0)
    if role == SERVER and not truth["bytes_acked"] and not truth["bytes_received"]:
        assert record is None  # nobody finished that handshake
        return
    assert record is not None
    seen = adapter.normalise(record, CLOCK)
    assert (seen["tx_bytes"], seen["role"]) == (sent, {CLIENT: "client", SERVER: "server"}[role])
    assert seen["rx_bytes"] == received


def test_a_kernel_without_payload_counters_is_taken_to_have_ended_in_order() -> None:
    record = ended(message(8080, 5001, 1235, 0, 0, size=200), listeners=(8080,))
    assert record is not None
    seen = adapter.normalise(record, CLOCK)
    assert (seen["tx_bytes"], seen["rx_bytes"], seen["role"]) == (5000, 1234, "server")


def test_what_was_never_connected_is_no_record() -> None:
    listener = bytearray(message(8080, 0, 0, 0, 0))
    listener[6:8] = b"\0\0"  # no remote port
    assert ended(bytes(listener)) is None
    assert ended(message(8080, 1, 1, 0, 0)[:72]) is None  # no tcp_info


@given(st.binary(max_size=400))
def test_any_bytes_are_parsed_or_left(data: bytes) -> None:
    for _kind, body in fallback._netlink_messages(data):
        if len(body) >= 72:
            ended(body)


@given(st.binary(min_size=72, max_size=400))
def test_any_body_is_parsed_or_left(data: bytes) -> None:
    ended(data)


@pytest.mark.parametrize("name", ["adapter.py", "fallback.py"])
def test_host_side_python_is_old_python(name: str) -> None:
    tree = ast.parse((FOLDER / name).read_text(), feature_version=(3, 6))
    imported = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    assert imported <= {"errno", "ipaddress", "os", "socket", "struct", "time"}


def test_each_file_stands_alone() -> None:
    """The agent loads artefacts by digest, so neither can import the other."""
    for name in ("adapter", "fallback"):
        spec = importlib.util.spec_from_file_location(f"alone_{name}", FOLDER / f"{name}.py")
        assert spec and spec.loader
        module: ModuleType = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert "probes" not in (FOLDER / f"{name}.py").read_text()
