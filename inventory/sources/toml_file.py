"""Hosts from a TOML file: ``[[host]]`` tables with the fields of ``Host``, and ``[defaults]`` for all of them.

Strict: an unknown key is an error that names it and the nearest known one. Paths are relative to the file.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from inventory.host import Host, HostMalformed
from inventory.sources import InventoryUnreadable

MAX_FILE = 64 * 1024 * 1024


class _Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """One ``[[host]]``: the types of its keys. Defaults are those of ``Host``."""

    name: str
    address: str = ""
    port: int = 22
    user: str = "root"
    connection: str = "ssh"
    key_file: str | None = None
    known_hosts: str | None = None
    jump: str | None = None
    zone: str = "default"
    labels: dict[str, str] = {}
    addresses: tuple[str, ...] = ()
    state_dir: str = "/var/lib/corollout"
    interface: str = ""


_KEYS = tuple(field.name for field in msgspec.structs.fields(_Row))


def read(path: Path) -> list[Host]:
    """Read *path*; raises InventoryUnreadable or HostMalformed."""
    try:
        if path.stat().st_size > MAX_FILE:
            raise InventoryUnreadable(f"{path}: larger than {MAX_FILE} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise InventoryUnreadable(f"{path}: {error.strerror}") from None
    return parse_toml(data, folder=path.parent, origin=str(path))


def parse_toml(data: bytes, *, folder: Path, origin: str = "hosts.toml") -> list[Host]:
    """Parse a TOML inventory; relative paths in it start at *folder*, *origin* is named in errors."""
    try:
        document = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InventoryUnreadable(f"{origin}: {error}") from None
    _check_keys(document, ("host", "defaults"), origin)
    defaults, rows = document.get("defaults", {}), document.get("host", [])
    if not isinstance(defaults, dict) or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise HostMalformed(f"{origin}: hosts are written as [[host]], what holds for all of them as [defaults]")
    _check_keys(defaults, tuple(key for key in _KEYS if key != "name"), f"{origin}: [defaults]")
    return [
        _host(defaults, row, folder, f"{origin}: host {row.get('name', number)}") for number, row in enumerate(rows, 1)
    ]


def _check_keys(table: dict[str, Any], known: tuple[str, ...], origin: str) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise HostMalformed(f"{origin}: unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else ""))


def _host(defaults: dict[str, Any], row: dict[str, Any], folder: Path, origin: str) -> Host:
    _check_keys(row, _KEYS, origin)
    labels = {"labels": {**defaults["labels"], **row["labels"]}} if _both_have_labels(defaults, row) else {}
    try:
        made = msgspec.convert({**defaults, **row, **labels}, _Row)
    except msgspec.ValidationError as error:
        raise HostMalformed(f"{origin}: {error}") from None
    values = {key: getattr(made, key) for key in _KEYS}
    for key in ("key_file", "known_hosts"):
        if values[key] is not None:
            values[key] = _absolute(values[key], folder)
    try:
        return Host(**values)
    except HostMalformed as fault:
        raise HostMalformed(f"{origin}: {fault.message}") from None


def _both_have_labels(defaults: dict[str, Any], row: dict[str, Any]) -> bool:
    return isinstance(defaults.get("labels"), dict) and isinstance(row.get("labels"), dict)


def _absolute(text: str, folder: Path) -> str:
    return text if text.startswith("~") else str(folder / text)
