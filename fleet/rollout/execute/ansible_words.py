"""What Ansible says of a host, turned into the faults that ``inventory.connect`` has for the same. Pure.

OpenSSH's sentences are matched, as every connection plugin that runs ``ssh`` passes them on; what is not known stays
plainly unreachable.
"""

from __future__ import annotations

import re
from typing import Any

from btf.fault import Fault, printable
from inventory.connect.errors import (
    AuthenticationFailed,
    CommandTimeout,
    ConnectionLost,
    ConnectTimeout,
    HostKeyChanged,
    HostKeyUnknown,
    KeyUnusable,
    NotSsh,
    Unreachable,
)

# The first row that is found wins: a changed key also fails verification, a refused login also closes the connection.
SAID: tuple[tuple[str, type[Fault]], ...] = (
    (r"remote host identification has changed|revoked host key|host key .* has changed", HostKeyChanged),
    (r"host key verification failed|no \S+ host key is known|authenticity of host", HostKeyUnknown),
    (r"identity file \S+ not accessible|unprotected private key|load key ", KeyUnusable),
    (r"permission denied|too many authentication failures|authentication failed", AuthenticationFailed),
    (r"during banner exchange|timed out|timeout", ConnectTimeout),
    (r"kex_exchange_identification|invalid ssh|protocol (version|identification|mismatch)", NotSsh),
    (r"(closed|reset) by|broken pipe|lost connection|shared connection to|ssh_dispatch_run_fatal", ConnectionLost),
)
_ROWS = tuple((re.compile(pattern, re.IGNORECASE | re.DOTALL), fault) for pattern, fault in SAID)


def unreachable(host: str, message: Any) -> Fault:
    """Return the fault for a host that Ansible calls unreachable, in the words it had for it."""
    text = str(message or "no reason given")
    words = printable(text.rpartition("via ssh:")[2].strip() or text, 300)
    for pattern, fault in _ROWS:
        if pattern.search(text):
            return fault(f"{host}: {words}")
    return Unreachable(f"{host}: {words}")


def failed(host: str, result: Any, timeout: float) -> Fault:
    """Return the fault for a host on which the call itself failed: out of time, or Ansible could not make it."""
    result = result if isinstance(result, dict) else {}
    if result.get("timed_out") is True or "timedout" in result:
        return CommandTimeout(f"{host}: the command did not end within {timeout:g} s")
    return Unreachable(f"{host}: Ansible could not make the call: {printable(str(result.get('msg', '')), 300)}")
