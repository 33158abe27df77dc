"""What a host was seen to be: facts with their evidence, and nothing that acts on a host.

A fact never turns "denied" or "could not tell" into "no": the four answers are kept apart from the collector's probe
to the last report. Parsing is strict and bounded, because a facts document comes from a host.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

from btf.fault import Fault, printable

SCHEMA = "corollout.facts/1"
MAX_DOCUMENT = 4 * 1024 * 1024
MAX_FACTS = 20_000
_MAX_NAME = 160
_DAY_MS = 86_400_000
_MAX_TEXT = 2_000
_COMMON = 80

# Facts that change from one scan to the next without the host having changed; they do not count for the digest.
VOLATILE = frozenset({"clock.wall", "clock.monotonic", "system.load", "system.memory_available"})


class Answer(StrEnum):
    """What evidence says about one thing: ``blocked`` means the kernel has it and something denies it."""

    YES = "yes"
    NO = "no"
    BLOCKED = "blocked"
    UNKNOWN = "unknown"


_ANSWERS: Mapping[str, Answer] = {answer.value: answer for answer in Answer}


class FactsMalformed(Fault):
    """A host's facts document is not one."""

    code = "COR-INV-010"
    remedy = "The host's collector answered garbage: check what its shell prints at login, then scan again."


@dataclass(frozen=True, slots=True)
class Fact:
    """One observed thing. ``value`` is any JSON value; ``errno`` a name such as ``EPERM``; ``raw`` what was read."""

    name: str
    answer: Answer
    value: Any = None
    source: str = ""
    raw: str | None = None
    errno: str | None = None


@dataclass(frozen=True, slots=True)
class Facts(Mapping[str, Fact]):
    """All facts of one host at one time, by name. A missing name answers ``unknown``."""

    by_name: Mapping[str, Fact]
    collected_at: float = 0.0
    form: str = "python"
    took_ms: int = 0

    def __getitem__(self, name: str) -> Fact:
        return self.by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_name)

    def __len__(self) -> int:
        return len(self.by_name)

    def answer(self, name: str) -> Answer:
        """Return the answer for *name*; never seen is ``unknown``."""
        fact = self.by_name.get(name)
        return fact.answer if fact else Answer.UNKNOWN

    def value(self, name: str, default: Any = None) -> Any:
        """Return the value of *name*, or *default* when it was not read."""
        fact = self.by_name.get(name)
        return default if fact is None or fact.value is None else fact.value

    @property
    def kernel_id(self) -> str:
        """The kernel build: GNU build-id, else BTF digest, else release and version, each with the architecture."""
        arch = self.value("kernel.arch", "unknown")
        build_id = self.value("kernel.build_id")
        if build_id:
            return f"{build_id}/{arch}"
        btf = self.value("btf.vmlinux")
        if isinstance(btf, dict) and btf.get("sha256"):
            return f"btf-{btf['sha256'][:40]}/{arch}"
        text = "\0".join(str(self.value(n, "")) for n in ("kernel.release", "kernel.version", "os.id", "os.version_id"))
        return f"uname-{hashlib.sha256(text.encode()).hexdigest()[:40]}/{arch}"

    @property
    def boot_id(self) -> str | None:
        """The kernel's random boot id, or None when unreadable."""
        value = self.value("kernel.boot_id")
        return str(value) if value else None

    @property
    def digest(self) -> str:
        """SHA-256 over every fact that is not volatile: equal digests mean nothing that matters changed."""
        stable = {n: (f.answer.value, f.value, f.errno) for n, f in sorted(self.by_name.items()) if n not in VOLATILE}
        return hashlib.sha256(json.dumps(stable, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def document(self) -> dict[str, Any]:
        """Return the JSON document this was parsed from, in canonical form."""
        return {
            "schema": SCHEMA,
            "collector": {"form": self.form},
            "collected_at": self.collected_at,
            "took_ms": self.took_ms,
            "facts": {
                n: {
                    k: v
                    for k, v in (
                        ("answer", f.answer.value),
                        ("value", f.value),
                        ("source", f.source),
                        ("raw", f.raw),
                        ("errno", f.errno),
                    )
                    if v not in (None, "")
                }
                for n, f in sorted(self.by_name.items())
            },
        }


def _bounded(value: Any, depth: int = 0) -> Any:
    """Return *value* with every string made printable and every level bounded, or raise FactsMalformed."""
    if depth > 6:
        raise FactsMalformed("a fact is nested too deeply")
    if isinstance(value, float) and not math.isfinite(value):
        raise FactsMalformed("a fact holds a number that is none")
    if isinstance(value, int) and abs(value) >= 1 << 64:
        raise FactsMalformed("a fact holds a number beyond 64 bits")
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return printable(value, _MAX_TEXT)
    if isinstance(value, list):
        return [_bounded(v, depth + 1) for v in value]
    if isinstance(value, dict):
        return {printable(str(k), _MAX_NAME): _bounded(v, depth + 1) for k, v in value.items()}
    raise FactsMalformed("a fact holds something that is not JSON")


def _one(name: str, body: Any) -> Fact:
    if not isinstance(body, dict):
        raise FactsMalformed(f"fact {name!r} is not an object")
    get = body.get
    answer, value, source, raw, error = get("answer"), get("value"), get("source"), get("raw"), get("errno")
    if value is None and raw is None:
        try:
            return _bare(name, answer, source, error)
        except (TypeError, ValueError):  # not for a table: what is no text, or too long
            pass
    return _fact(name, answer, value, source, raw, error)


@lru_cache(maxsize=16_384)
def _bare(name: str, answer: str, source: str | None, error: str | None) -> Fact:
    """Return a fact without a value: nearly all are, the same on many hosts of a fleet, which share them."""
    if len(source or "") > _COMMON or len(error or "") > _COMMON:
        raise ValueError
    return _fact(name, answer, None, source, None, error)


def _fact(name: str, said: Any, value: Any, source: Any, raw: Any, error: Any) -> Fact:
    answer = _ANSWERS.get(str(said))
    if answer is None:
        raise FactsMalformed(f"fact {name!r} has no valid answer")
    if value is not None:
        value = _bounded(value)
        shape = _shape_of(name)
        if shape is not None and not shape(value):
            raise FactsMalformed(f"fact {name!r} has a value of the wrong shape")
    return Fact(name, answer, value, _word(name, source) or "", _word(name, raw), _word(name, error))


def _word(name: str, text: Any) -> str | None:
    if text is None:
        return None
    if not isinstance(text, str):
        raise FactsMalformed(f"fact {name!r}: source, raw and errno must be text")
    return printable(text, _MAX_TEXT)


@lru_cache(maxsize=4096)
def _shape_of(name: str) -> Callable[[Any], bool] | None:
    """Return what readers of this fact rely on; facts without a row may hold anything."""
    return next((shape for pattern, shape in _SHAPES if pattern.match(name)), None)


def _text(pattern: str) -> Callable[[Any], bool]:
    compiled = re.compile(pattern)
    return lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def _options(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())


def _btf(value: Any) -> bool:
    return isinstance(value, dict) and _integer(value.get("size")) and _digest(value.get("sha256"))


def _interfaces(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(v, dict) and isinstance(v.get("name"), str) and _texts(v.get("addresses", [])) for v in value
    )


_digest = _text(r"[0-9a-f]{64}")
# These become keys of the record, file names of the archive or the input of a decision, so nothing else may pass.
_SHAPES: tuple[tuple[re.Pattern[str], Callable[[Any], bool]], ...] = tuple(
    (re.compile(pattern + r"\Z"), shape)
    for pattern, shape in (
        (r"kernel\.build_id", _text(r"[0-9a-f]{8,128}")),
        (r"kernel\.boot_id", _text(r"[0-9A-Za-z-]{1,64}")),
        (r"kernel\.arch", _text(r"[A-Za-z0-9_]{1,32}")),
        (r"lockdown\.mode", _text(r"none|integrity|confidentiality")),
        (r"cgroup\.mode", _text(r"v1|v2|hybrid")),
        (r"netfilter\.backend", _text(r"legacy|nft")),
        (r"(kernel|os|python|tool|mount|headers)\..*|cgroup\.v2_path|bcc\.usable", _text(r".*")),
        (r"(system|sysctl)\..*|seccomp\.mode|memlock\.(soft|hard)|net\.namespace", _integer),
        (r"btf\.modules|lsm\.active|caps\..*|hook\.tracepoints", _texts),
        (r"kconfig", _options),
        (r"btf\.vmlinux", _btf),
        (r"net\.interfaces", _interfaces),
        (r"netfilter\.rules", lambda v: isinstance(v, dict) and all(isinstance(b, bool) for b in v.values())),
    )
)


def parse_facts(data: bytes) -> Facts:
    """Parse a collector's JSON document; hostile until it returns."""
    if len(data) > MAX_DOCUMENT:
        raise FactsMalformed(f"the facts document is larger than {MAX_DOCUMENT} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise FactsMalformed("the answer is not JSON") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise FactsMalformed(f"the answer is not a {SCHEMA} document")
    facts = document.get("facts")
    if not isinstance(facts, dict) or len(facts) > MAX_FACTS:
        raise FactsMalformed("the facts are missing or too many")
    by_name = {}
    for name, body in facts.items():
        if not name.isprintable() or len(name) > _MAX_NAME:
            raise FactsMalformed("a fact has an unusable name")
        by_name[name] = _one(name, body)
    collector = document.get("collector")
    form = collector.get("form") if isinstance(collector, dict) else None
    at, took = _bounded(document.get("collected_at")), _bounded(document.get("took_ms"))
    return Facts(
        by_name,
        collected_at=float(at) if isinstance(at, int | float) else 0.0,
        form="sh" if form == "sh" else "python",
        took_ms=min(max(int(took), 0), _DAY_MS) if isinstance(took, int | float) else 0,
    )
