"""Select hosts by what they are and what was seen on them: parse a small language, match hosts, read nothing.

    kernel~"5.4.*" and btf=no and not label:env=prod
    (zone=eu or zone=us) and bpf.map.ringbuf=yes and kernel>=5.8

Words: ``name zone address arch os kernel lockdown btf bpf label:KEY``, ``value:FACT`` for a fact's value, and any other
dotted name for a fact's answer. ``=`` and ``!=`` compare, ``~`` matches a pattern with ``*`` and ``?``, and
``< <= > >=`` compare versions. What was never seen answers ``unknown``, so ``btf=no`` never means "not scanned".
"""

from __future__ import annotations

import fnmatch
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from btf.fault import EXIT_USAGE, Fault
from inventory.facts import Facts
from inventory.host import Host
from inventory.kernel import parse_release

MAX_LENGTH = 4_000
_MAX_DEPTH = 50
_TOKEN = re.compile(
    r"""\s*(?:
    (?P<sign>[()])
    | (?P<compare>!=|<=|>=|=|~|<|>)
    | "(?P<quoted>(?:[^"\\]|\\.)*)"
    | (?P<word>[^\s()=!<>~"]+)
    )""",
    re.VERBOSE,
)
_FACTS = {"arch": "kernel.arch", "os": "os.id", "kernel": "kernel.release", "lockdown": "lockdown.mode"}
_ANSWERS = {"btf": "btf.vmlinux", "bpf": "bpf.syscall"}
_Version = tuple[int, int, int]
_ORDER: dict[str, Callable[[_Version, _Version], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class SelectorMalformed(Fault):
    """A selector that cannot be read."""

    code = "COR-INV-020"
    exit = EXIT_USAGE
    remedy = 'Write for example: kernel~"5.4.*" and btf=no and not label:env=prod'


Match = Callable[[Host, Facts | None], bool]


@dataclass(frozen=True, slots=True)
class Selector:
    """A parsed selector; ``text`` is what was written."""

    text: str
    _match: Match

    def matches(self, host: Host, facts: Facts | None = None) -> bool:
        """Tell whether the host is selected; without *facts* everything about its kernel is ``unknown``."""
        return self._match(host, facts)


def _read(field: str) -> Callable[[Host, Facts | None], str]:
    """Return how to read *field* of a host as text, or raise SelectorMalformed for a word that means nothing."""
    if field in ("name", "zone", "address"):
        return lambda host, _facts: str(getattr(host, field))
    if field.startswith("label:") and len(field) > len("label:"):
        return lambda host, _facts: host.labels.get(field.removeprefix("label:"), "")
    if field in _FACTS or field.startswith("value:"):
        name = _FACTS.get(field) or field.removeprefix("value:")
        return lambda _host, facts: str(facts.value(name, "unknown")) if facts else "unknown"
    if field in _ANSWERS or "." in field:
        name = _ANSWERS.get(field, field)
        return lambda _host, facts: facts.answer(name).value if facts else "unknown"
    words = ", ".join(("name", "zone", "address", "label:KEY", *_FACTS, *_ANSWERS))
    raise SelectorMalformed(f"{field!r} is nothing that can be selected by; there is {words}, value:FACT and facts")


def _compare(field: str, sign: str, wanted: str) -> Match:
    read = _read(field)
    if sign == "=":
        return lambda host, facts: read(host, facts) == wanted
    if sign == "!=":
        return lambda host, facts: read(host, facts) != wanted
    if sign == "~":
        # Only * and ? are special: a bracket in a host's name is a bracket.
        pattern = wanted.replace("[", "[[]")
        return lambda host, facts: fnmatch.fnmatchcase(read(host, facts), pattern)
    order, limit = _ORDER[sign], parse_release(wanted if "." in wanted else f"{wanted}.0")
    if limit is None:
        raise SelectorMalformed(f"{field}{sign}{wanted}: {wanted!r} is not a version")
    bound = (limit.major, limit.minor, limit.patch)

    def by_version(host: Host, facts: Facts | None) -> bool:
        seen = parse_release(read(host, facts))
        return seen is not None and order((seen.major, seen.minor, seen.patch), bound)

    return by_version


class _Parser:
    """Recursive descent over the tokens: or, and, not, then a comparison or brackets."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0
        self._depth = 0

    def whole(self) -> Match:
        match = self._either()
        if self._at < len(self._tokens):
            raise SelectorMalformed(f"{self._tokens[self._at][1]!r} was not expected")
        return match

    def _either(self) -> Match:
        matches = [self._both()]
        while self._take("word", "or"):
            matches.append(self._both())
        return matches[0] if len(matches) == 1 else lambda host, facts: any(m(host, facts) for m in matches)

    def _both(self) -> Match:
        matches = [self._one()]
        while self._take("word", "and"):
            matches.append(self._one())
        return matches[0] if len(matches) == 1 else lambda host, facts: all(m(host, facts) for m in matches)

    def _one(self) -> Match:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise SelectorMalformed(f"nested more than {_MAX_DEPTH} deep")
        try:
            if self._take("word", "not"):
                negated = self._one()
                return lambda host, facts: not negated(host, facts)
            if self._take("sign", "("):
                match = self._either()
                if not self._take("sign", ")"):
                    raise SelectorMalformed("a bracket is not closed")
                return match
            field, sign = self._next("word", "a word such as kernel"), self._next("compare", "=, !=, ~ or <")
            return _compare(field, sign, self._next("value", "a value"))
        finally:
            self._depth -= 1

    def _take(self, kind: str, text: str) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at] == (kind, text):
            self._at += 1
            return True
        return False

    def _next(self, kind: str, expected: str) -> str:
        found, text = self._tokens[self._at] if self._at < len(self._tokens) else ("", "the end")
        if found != kind and not (kind == "value" and found in ("word", "quoted")):
            raise SelectorMalformed(f"expected {expected}, found {text!r}")
        self._at += 1
        return text


def _tokens(text: str) -> list[tuple[str, str]]:
    found, at = [], 0
    end = len(text.rstrip())
    while at < end:
        token = _TOKEN.match(text, at)
        if token is None or token.end() == at:
            raise SelectorMalformed(f"cannot read {text[at : at + 20]!r}")
        kind = str(token.lastgroup)
        found.append((kind, re.sub(r"\\(.)", r"\1", token[kind]) if kind == "quoted" else token[kind]))
        at = token.end()
    return found


def parse_selector(text: str) -> Selector:
    """Parse *text*; an empty one selects every host. Raises SelectorMalformed."""
    if len(text) > MAX_LENGTH:
        raise SelectorMalformed(f"longer than {MAX_LENGTH} characters")
    if not text.strip():
        return Selector(text, lambda _host, _facts: True)
    return Selector(text, _Parser(text).whole())
