"""A program's manifest: what it is for, what its variants need and give, and what it may cost.

``program.toml`` is strict: an unknown key is an error that names the file, the key and the nearest known one.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from btf.fault import EXIT_USAGE, Fault

MAX_MANIFEST = 256 * 1024
LADDER = ("core", "core-btf", "bcc", "fallback")  # the order in which variants are tried


class ManifestMalformed(Fault):
    """A manifest that cannot be used."""

    code = "COR-PRG-001"
    exit = EXIT_USAGE
    remedy = "Correct program.toml; docs/contracts.md lists its keys."


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a program emits: the C struct in the object, and its fields for consumers."""

    struct: str
    required: tuple[str, ...] = ()
    best_effort: tuple[str, ...] = ()


class Budget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a program may cost on a host, and what the host does when it costs more (two strikes)."""

    cpu_percent: float = 1.0  # of one core, kernel and user space together
    ns_per_event: float = 1000.0
    memory_mib: float = 96.0
    loss_percent: float = 0.1
    interval_s: float = 5.0
    strikes: int = 2
    action: Literal["detach", "static"] = "detach"


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way to get the program. ``file`` is in the program's folder; ``requires`` names facts that must be yes."""

    file: str
    requires: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()
    optional_programs: tuple[str, ...] = ()


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of ``program.toml``."""

    name: str
    version: str
    kind: Literal["tracing", "networking"]
    summary: str
    variants: dict[str, Variant]
    record: Record
    budget: Budget = Budget()
    scopes: tuple[Literal["host", "netns", "cgroup"], ...] = ("host",)
    fail_mode: Literal["detach", "static"] = "detach"
    boot: Literal["reattach", "stay-off", "ask"] = "stay-off"
    lease_s: float = 86_400.0  # tracing: unrenewed, it ends by itself; 0 = no lease
    revert_s: float = 0.0  # networking: undone unless confirmed over a new connection; 0 = no timer
    adapter: str | None = None  # host-side Python file that fits config to the build and records to consumers
    requires: dict[str, tuple[str, ...]] = {}  # declared needs by feature kind, checked against what the object shows


def _unknown_key(document: Mapping[str, Any]) -> str | None:
    known = [f.name for f in msgspec.structs.fields(Manifest)]
    for key in document:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            return f"unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else "")
    return None


def parse_manifest(data: bytes, *, origin: str = "program.toml") -> Manifest:
    """Parse and check a manifest; *origin* is named in errors."""
    if len(data) > MAX_MANIFEST:
        raise ManifestMalformed(f"{origin}: larger than {MAX_MANIFEST} bytes")
    try:
        document = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ManifestMalformed(f"{origin}: {error}") from None
    if problem := _unknown_key(document):
        raise ManifestMalformed(f"{origin}: {problem}")
    try:
        manifest = msgspec.convert(document, Manifest)
    except msgspec.ValidationError as error:
        raise ManifestMalformed(f"{origin}: {error}") from None
    for name, variant in manifest.variants.items():
        if name not in LADDER:
            raise ManifestMalformed(f"{origin}: unknown variant {name!r}; the ladder is {', '.join(LADDER)}")
        _plain_file(variant.file, origin)
    if manifest.adapter is not None:
        _plain_file(manifest.adapter, origin)
    if not manifest.variants:
        raise ManifestMalformed(f"{origin}: no variants")
    return manifest


def _plain_file(name: str, origin: str) -> None:
    if Path(name).name != name or name.startswith("."):
        raise ManifestMalformed(f"{origin}: {name!r} must be a plain file name in the program's folder")
