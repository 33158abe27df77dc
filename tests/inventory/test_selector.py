"""The selector language and kernel names, from case files, and by property."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inventory.facts import Answer, Fact, Facts
from inventory.host import Host
from inventory.kernel import canonical_machine, parse_release
from inventory.selector import SelectorMalformed, parse_selector

CASES = Path(__file__).parent / "cases"


def facts(**answers: tuple[str, Any]) -> Facts:
    rows = {n.replace("__", "."): Fact(n.replace("__", "."), Answer(a), v) for n, (a, v) in answers.items()}
    return Facts(rows)


HOSTS: dict[str, tuple[Host, Facts | None]] = {
    "new": (
        Host("new", zone="eu", labels={"env": "prod"}),
        facts(
            kernel__release=("yes", "6.12.1"),
            kernel__arch=("yes", "x86_64"),
            btf__vmlinux=("yes", {"size": 1}),
            bpf__map__ringbuf=("yes", None),
            bpf__syscall=("yes", None),
            lockdown__mode=("yes", "integrity"),
        ),
    ),
    "old": (
        Host("old", labels={"env": "test"}),
        facts(
            kernel__release=("yes", "5.4.17-2136.el8uek"),
            btf__vmlinux=("no", None),
            bpf__syscall=("blocked", None),
            seccomp__mode=("yes", 2),
        ),
    ),
    "unseen": (Host("unseen"), None),
}


@pytest.mark.parametrize(
    "case", json.loads((CASES / "selectors.json").read_text()), ids=lambda c: c["selector"] or "all"
)
def test_selectors(case: dict[str, Any]) -> None:
    if "fault" in case:
        with pytest.raises(SelectorMalformed, match=case["fault"]):
            parse_selector(case["selector"])
        return
    selector = parse_selector(case["selector"])
    assert sorted(name for name, (host, seen) in HOSTS.items() if selector.matches(host, seen)) == case["selected"]


def test_deep_nesting_and_length_are_refused() -> None:
    for text in ("(" * 1000 + "name=a" + ")" * 1000, "not " * 900 + "name=a", "name=a or " * 1000 + "name=a"):
        with pytest.raises(SelectorMalformed):
            parse_selector(text)


_WORDS = st.sampled_from(
    [
        "name",
        "kernel",
        "btf",
        "label:x",
        "=",
        "!=",
        "~",
        ">=",
        "(",
        ")",
        "and",
        "or",
        "not",
        '"a b"',
        "5.4",
        "*",
        " ",
        '"',
    ]
)


@given(st.one_of(st.text(max_size=80), st.lists(_WORDS, max_size=14).map(" ".join)))
def test_any_text_is_a_selector_or_one_fault(text: str) -> None:
    try:
        selector = parse_selector(text)
    except SelectorMalformed as fault:
        assert str(fault).isprintable()
    else:
        for host, seen in HOSTS.values():
            assert selector.matches(host, seen) in (True, False)


@given(st.text(min_size=1, max_size=20).filter(lambda t: '"' not in t and "\\" not in t))
def test_a_quoted_value_is_taken_as_it_is(value: str) -> None:
    assert parse_selector(f'label:k="{value}"').matches(Host("h", labels={"k": value}))


@pytest.mark.parametrize("case", json.loads((CASES / "kernels.json").read_text()), ids=lambda c: c["release"])
def test_kernel_names(case: dict[str, Any]) -> None:
    version = parse_release(case["release"])
    if case["version"] is None:
        assert version is None
    else:
        assert version is not None
        assert (str(version), version.build, version.flavour) == (case["version"], case["build"], case["flavour"])


def test_a_candidate_is_older_than_its_release_and_machines_have_one_name() -> None:
    candidate, release = parse_release("6.12-rc3"), parse_release("6.12.0")
    assert candidate is not None
    assert release is not None
    assert candidate < release
    assert [canonical_machine(m) for m in ("amd64", "x86_64", "arm64", "riscv64")] == [
        "x86_64",
        "x86_64",
        "aarch64",
        "riscv64",
    ]


@given(st.text(max_size=60))
def test_any_release_is_read_without_an_error(text: str) -> None:
    parse_release(text)
