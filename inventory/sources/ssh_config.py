"""Hosts from an OpenSSH client configuration: every ``Host`` that is a plain name, with what its patterns add.

Patterns alone name no host. ``Include`` and ``Match exec`` are not followed. Reads only.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import paramiko

from btf.fault import printable
from inventory.host import Host, HostMalformed
from inventory.sources import InventoryUnreadable

MAX_FILE = 16 * 1024 * 1024


def read(path: Path) -> list[Host]:
    """Read *path*; raises InventoryUnreadable or HostMalformed."""
    try:
        if path.stat().st_size > MAX_FILE:
            raise InventoryUnreadable(f"{path}: larger than {MAX_FILE} bytes")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InventoryUnreadable(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InventoryUnreadable(f"{path}: not a text file") from None
    return parse_ssh_config(text, origin=str(path))


def parse_ssh_config(text: str, *, origin: str = "ssh_config") -> list[Host]:
    """Parse the text of an ssh config; *origin* is named in errors."""
    if re.search(r"^\s*include\s", text, re.IGNORECASE | re.MULTILINE):
        raise InventoryUnreadable(
            f"{origin}: Include is not followed",
            remedy="Name the included file itself, or `ssh -G HOST` into one file.",
        )
    config = paramiko.SSHConfig()
    try:
        config.parse(io.StringIO(text))
        names = sorted(name for name in config.get_hostnames() if not re.search(r"[*?!]", name))
        return [_host(name, config.lookup(name), set(names), origin) for name in names]
    except (InventoryUnreadable, HostMalformed):
        raise
    except Exception as error:  # the library raises many kinds for what it cannot read
        raise InventoryUnreadable(f"{origin}: {printable(str(error)) or type(error).__name__}") from None


def _host(name: str, options: Any, names: set[str], origin: str) -> Host:
    where = f"{origin}: host {name}"
    fields: dict[str, Any] = {"address": options.get("hostname", name)}
    port = options.get("port", "22")
    if not port.isdecimal():
        raise HostMalformed(f"{where}: port {port!r} is not a port")
    fields["port"] = int(port[:9])
    if "user" in options:
        fields["user"] = options["user"]
    if options.get("identityfile"):
        fields["key_file"] = options["identityfile"][0]
    if options.get("userknownhostsfile"):
        fields["known_hosts"] = options["userknownhostsfile"].split()[0]
    jump = options.get("proxyjump", "none")
    if jump.lower() != "none":
        if jump not in names:
            raise HostMalformed(
                f"{where}: its ProxyJump {jump!r} is not a Host of this file",
                remedy="Give the jump host a Host entry of its own (name, port and user there) and name only that.",
            )
        fields["jump"] = jump
    if "proxycommand" in options and "jump" not in fields:
        raise HostMalformed(f"{where}: ProxyCommand cannot be used here", remedy="Write it as ProxyJump.")
    try:
        return Host(name, **fields)
    except HostMalformed as fault:
        raise HostMalformed(f"{where}: {fault.message}") from None
