from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btf.fault import Fault
from probes.manifest import Record as Shape
from probes.records import MAX_LINE, RecordMalformed, parse_record

SHAPE = Shape("event", required=("saddr", "tx_bytes"), best_effort=("role", "rtt_us"))
GOOD: dict[str, Any] = {
    "v": 1, "program": "tcp-flow", "host": "web-1", "ts_ns": 2, "mono_ns": 1, "seq": 7, "saddr": "10.0.0.1",
    "tx_bytes": 1234, "role": "client", "fidelity": {"clock": "poll", "missing": ["rtt_us"]},
}  # fmt: skip


def test_a_manifest_that_lists_no_fields_takes_any() -> None:
    assert parse_record(line(anything=7), "tcp-flow", Shape(struct="mine"))["anything"] == 7


def line(**changes: Any) -> bytes:
    body = {**GOOD, **changes}
    return json.dumps({k: v for k, v in body.items() if v is not ...}).encode()


def test_a_good_record_passes_whole() -> None:
    assert parse_record(line(), "tcp-flow", SHAPE) == GOOD
    assert parse_record(line(pid=12, comm="curl"), "tcp-flow", SHAPE)["comm"] == "curl"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tx_bytes": ...}, "tx_bytes is required"),
        ({"role": ...}, "neither there nor called missing"),
        ({"role": None}, "role is null"),
        ({"rtt_us": 5}, "rtt_us is there and called missing"),
        ({"mystery": 1}, "no field 'mystery'"),
        ({"fidelity": ...}, "fidelity"),
        ({"fidelity": {"clock": "poll", "why": 1}}, "why"),
        ({"seq": "7"}, "seq"),
        ({"v": 2}, "version 2"),
        ({"program": "net-policy"}, "net-policy"),
        ({"tx_bytes": 1 << 65}, "64-bit"),
    ],
)
def test_a_wrong_record_says_what_is_wrong(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecordMalformed) as raised:
        parse_record(line(**changes), "tcp-flow", SHAPE)
    assert said in raised.value.message


def test_texts_from_a_host_become_printable() -> None:
    record = parse_record(line(comm="\x1b[31mred\n"), "tcp-flow", SHAPE)
    assert record["comm"].isprintable()


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode("utf-8", "surrogatepass")))
def test_any_bytes_give_a_fault(data: bytes) -> None:
    with pytest.raises(Fault) as raised:
        parse_record(data, "tcp-flow", SHAPE)
    assert raised.value.message.isprintable()


def test_bounds() -> None:
    with pytest.raises(RecordMalformed, match="longer"):
        parse_record(b" " * (MAX_LINE + 1), "tcp-flow", SHAPE)
    with pytest.raises(RecordMalformed):
        parse_record(b"[" * 50_000, "tcp-flow", SHAPE)
