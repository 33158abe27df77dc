"""Records as consumers get them: every variant of a program emits the same one. Checks a line, changes nothing.

A record comes from a host and is hostile until it returns from here. The variant is not in it: nobody can depend on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from btf.fault import Fault, printable
from probes.manifest import Record as Shape

VERSION = 1
MAX_LINE = 64 * 1024
_MAX_TEXT = 1_000
OPTIONAL = frozenset({"pid", "comm", "cgroup", "netns", "seen_on"})  # envelope fields that may be absent
_WHOLE = (1 << 64) - 1


class RecordMalformed(Fault):
    """A line that is not a record of its program."""

    code = "COR-PRG-020"
    remedy = "Update the agent on that host; if it repeats, the program's adapter does not keep its manifest's promise."


class Fidelity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How good a record is: where its times come from, and which fields its variant could not give."""

    clock: str
    missing: tuple[str, ...] = ()


class Envelope(msgspec.Struct, frozen=True):
    """What every record carries. Times in ns: ``ts_ns`` wall clock UTC, ``mono_ns`` since boot."""

    v: int
    program: str
    host: str
    ts_ns: int
    mono_ns: int
    seq: int
    fidelity: Fidelity


ENVELOPE = frozenset(Envelope.__struct_fields__) | OPTIONAL


def parse_record(line: bytes, program: str, shape: Shape) -> dict[str, Any]:
    """Return the record in *line*, its texts printable, or raise RecordMalformed saying what is wrong.

    A field of *shape* is there with a value, or named in ``fidelity.missing`` and left out: never null, never both.
    Fields that are ``required`` are always there.
    """
    if len(line) > MAX_LINE:
        raise RecordMalformed(f"{program}: a record is longer than {MAX_LINE} bytes")
    try:
        record = json.loads(line)
        envelope = msgspec.convert(record, Envelope)
    except (ValueError, RecursionError, msgspec.ValidationError) as error:
        raise RecordMalformed(f"{program}: {error}") from None
    if envelope.v != VERSION or envelope.program != program:
        raise RecordMalformed(f"{program}: a record of {envelope.program!r}, version {envelope.v}")
    if problem := _problem(record, envelope.fidelity.missing, shape):
        raise RecordMalformed(f"{program}: {problem}")
    return {name: _clean(value) for name, value in record.items()}


def _problem(record: Mapping[str, Any], missing: tuple[str, ...], shape: Shape) -> str | None:
    declared = {*shape.required, *shape.best_effort}  # a manifest that lists no field promises none, and takes any
    for name, value in record.items():
        if declared and name not in ENVELOPE | declared:
            return f"the manifest knows no field {printable(name, 40)!r}"
        if value is None:
            return f"{name} is null; a field that is not known is left out"
        if isinstance(value, int) and not -_WHOLE <= value <= _WHOLE:
            return f"{name} is no 64-bit number"
        if name in missing:
            return f"{name} is there and called missing"
    for name in shape.required:
        if name not in record:
            return f"{name} is required"
    for name in shape.best_effort:
        if name not in record and name not in missing:
            return f"{name} is neither there nor called missing"
    return None


def _clean(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        return printable(value, _MAX_TEXT)
    if isinstance(value, list) and depth < 3:
        return [_clean(v, depth + 1) for v in value]
    if isinstance(value, dict) and depth < 3:
        return {printable(k, 80): _clean(v, depth + 1) for k, v in value.items()}
    return value if isinstance(value, int | float) else printable(str(value), _MAX_TEXT)
