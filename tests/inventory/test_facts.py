"""Parsing what hosts say about themselves: hostile until it returns."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from btf.fault import Fault
from inventory.facts import MAX_DOCUMENT, SCHEMA, Answer, Facts, FactsMalformed, parse_facts


def document(facts: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"schema": SCHEMA, "facts": facts, **more}).encode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["kernel.build_id", "kconfig", "net.interfaces", "btf.vmlinux", "system.cpus", "caps.effective", "x.y"]
    ),
)
BODIES = st.fixed_dictionaries(
    {"answer": st.sampled_from(["yes", "no", "blocked", "unknown", "maybe"])},
    optional={"value": JSON, "source": st.text(max_size=9) | JSON, "raw": JSON, "errno": JSON},
)


@given(st.binary(max_size=200))
def test_any_bytes_are_facts_or_one_fault(data: bytes) -> None:
    with pytest.raises(FactsMalformed):
        parse_facts(data)


@given(st.dictionaries(NAMES, BODIES | JSON, max_size=6), JSON, JSON, JSON)
@settings(max_examples=300)
@example(facts={}, collector=None, at=None, took=float(2**64))
def test_any_document_is_facts_or_one_fault(facts: Any, collector: Any, at: Any, took: Any) -> None:
    try:
        parsed = parse_facts(document(facts, collector=collector, collected_at=at, took_ms=took))
    except FactsMalformed as fault:
        assert str(fault).isprintable()
        return
    # Everything that a reader may do with facts works.
    assert parsed.kernel_id.isprintable()
    assert len(parsed.digest) == 64
    again = parse_facts(json.dumps(parsed.document()).encode())
    assert again.digest == parsed.digest
    for name in parsed:
        assert isinstance(parsed.answer(name), Answer)
        assert name.isprintable()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b'{"schema": "corollout.facts/2", "facts": {}}',
        document({"a": {"answer": "perhaps"}}),
        document({"a": {}}),
        document({"a": "yes"}),
        document({"\x1b[2J": {"answer": "yes"}}),
        document({"a" * 161: {"answer": "yes"}}),
        document({"kernel.build_id": {"answer": "yes", "value": "../../etc"}}),
        document({"kernel.arch": {"answer": "yes", "value": "x86_64/../y"}}),
        document({"system.cpus": {"answer": "yes", "value": True}}),
        document({"system.cpus": {"answer": "yes", "value": 1 << 70}}),
        document({"btf.vmlinux": {"answer": "yes", "value": {"size": 1, "sha256": "../x"}}}),
        document({"net.interfaces": {"answer": "yes", "value": [{"name": 1}]}}),
        document({"hook.tracepoints": {"answer": "yes", "value": [1]}}),
        document({"a": {"answer": "yes", "value": float("inf")}}),
        document({"a": {"answer": "yes", "value": [[[[[[[[1]]]]]]]]}}),
        b'{"schema": "corollout.facts/1", "facts": {}, "took_ms": 1e999}',
        b"[" * 100_000,
        b" " * (MAX_DOCUMENT + 1),
        b'{"schema": "corollout.facts/1", "facts": {"a": ' + b"9" * 5000 + b"}}",
    ],
)
def test_what_is_no_facts_document_is_refused(data: bytes) -> None:
    with pytest.raises(FactsMalformed) as caught:
        parse_facts(data)
    assert isinstance(caught.value, Fault)


def test_text_from_a_host_is_made_printable() -> None:
    parsed = parse_facts(document({"os.id": {"answer": "yes", "value": "a\x1b]0;x\x07b", "raw": "\x1b[31mred"}}))
    assert parsed.value("os.id").isprintable()
    assert str(parsed["os.id"].raw).isprintable()


@pytest.mark.parametrize("source", ["/proc/" + "x" * 200, "/proc/" + "x" * 100_000])
def test_a_fact_without_a_value_may_have_a_long_source(source: str) -> None:
    kept = parse_facts(document({"x.y": {"answer": "no", "source": source}})).document()["facts"]["x.y"]["source"]
    assert source.startswith(kept[:200])
    assert len(kept) < 3_000


def test_a_missing_fact_is_unknown_and_a_missing_value_is_the_default() -> None:
    parsed = parse_facts(document({"a": {"answer": "no"}}))
    assert parsed.answer("b") is Answer.UNKNOWN
    assert parsed.value("a", 5) == 5


def test_the_kernel_id_prefers_the_build_id_then_btf_then_names() -> None:
    arch = {"kernel.arch": {"answer": "yes", "value": "x86_64"}}
    names = {"kernel.release": {"answer": "yes", "value": "5.4.0"}}
    btf = {"btf.vmlinux": {"answer": "yes", "value": {"size": 1, "sha256": "ab" * 32}}}
    build = {"kernel.build_id": {"answer": "yes", "value": "cd" * 20}}
    ids = [parse_facts(document(f)).kernel_id for f in (arch | names | btf | build, arch | names | btf, arch | names)]
    assert ids[0] == f"{'cd' * 20}/x86_64"
    assert ids[1] == f"btf-{'ab' * 20}/x86_64"
    assert ids[2].startswith("uname-")
    assert len(set(ids)) == 3


def test_the_digest_ignores_what_changes_by_itself_and_nothing_else() -> None:
    base = parse_facts(document({"a": {"answer": "yes", "value": 1}}, collected_at=1.0))
    later = parse_facts(
        document({"a": {"answer": "yes", "value": 1}, "system.load": {"answer": "yes", "value": 3}}, collected_at=2.0)
    )
    other = parse_facts(document({"a": {"answer": "yes", "value": 2}}))
    assert base.digest == later.digest != other.digest
    assert Facts({}).digest
