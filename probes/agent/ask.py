"""Ask a service on this host some times, and say how long each answer took: what a program's users would feel.

Only loopback addresses are asked and no command is run, unless the host's own policy says so: ``policy.json`` in the
state directory, ``{"ask": {"addresses": ["10.0.0.0/8"], "commands": [["/usr/bin/check", "--quick"]]}}``. Bounded in
number, in the time of one answer and in the time of all. Names are not looked up. Changes nothing.
"""

import http.client
import ipaddress
import os
import re
import signal
import socket
import subprocess
import sys
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from probes.agent.faults import EXIT_NO, Refusal, Usage, printable
from probes.agent.state import read_json

MAX_COUNT = 1000
MAX_TIMEOUT_S = 30.0
LIMIT_S = 60.0  # of all asks together; those that were not begun by then are not counted
GAP_S = 0.005
_MAX_BODY = 65536
_ADDRESS = re.compile(r"(?:\[([0-9a-fA-F:.]{2,45})\]|([0-9.]{7,15}|localhost)):(\d{1,5})\Z")
_PATH = re.compile(r"/[!-~]{0,1000}\Z")

Ask = Callable[[float], None]  # (timeout in seconds); returns when answered well, raises OSError or ValueError if not


class NotAllowed(Refusal):
    """This host's policy does not let that be asked."""

    code = "COR-AGT-040"
    exit = EXIT_NO
    remedy = "Ask a loopback address, or let the host's owner allow it in policy.json of the agent's state directory."


def ask(root: str, question: Any) -> Dict[str, Any]:
    """Ask ``{"probe", "arguments"?, "count", "timeout_s"}``.

    Returns ``{"asked", "errors", "latencies_us", "trouble"}``: latencies of good answers, in order; the first error's
    text or null. Refuses with NotAllowed or Usage before anything is asked.
    """
    if not isinstance(question, dict):
        raise Usage("the question is not a JSON object")
    count = _number(question, "count", 1, MAX_COUNT)
    timeout_s = _number(question, "timeout_s", 0.001, MAX_TIMEOUT_S)
    one = _asker(root, question)
    latencies: List[float] = []
    errors = 0
    trouble: Optional[str] = None
    until = time.monotonic() + LIMIT_S
    signal.alarm(int(LIMIT_S + MAX_TIMEOUT_S))  # a service that answers byte by byte must not keep us for ever
    for number in range(int(count)):
        if number and time.monotonic() >= until:
            break
        begun = time.perf_counter()
        try:
            one(timeout_s)
        except (OSError, ValueError, http.client.HTTPException, subprocess.SubprocessError) as error:
            errors += 1
            trouble = trouble or printable(str(error) or type(error).__name__, 200)
        else:
            latencies.append(round((time.perf_counter() - begun) * 1e6, 1))
        time.sleep(GAP_S)
    signal.alarm(0)
    return {"asked": len(latencies) + errors, "errors": errors, "latencies_us": latencies, "trouble": trouble}


def _number(question: Dict[str, Any], key: str, low: float, high: float) -> float:
    value = question.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise Usage("the question's %r is not between %g and %g" % (key, low, high))
    return value


def _asker(root: str, question: Dict[str, Any]) -> Ask:
    probe, arguments = question.get("probe"), question.get("arguments") or []
    if not isinstance(probe, str) or not isinstance(arguments, list):
        raise Usage("the question has no probe")
    policy = (read_json(os.path.join(root, "policy.json")) or {}).get("ask")
    policy = policy if isinstance(policy, dict) else {}
    kind, _, rest = probe.partition(":")
    if kind == "tcp":
        return _tcp(*_allowed(rest, policy))
    if kind == "http" and rest.startswith("//"):
        where, slash, path = rest[2:].partition("/")
        if not _PATH.match(slash + path or "/"):
            raise Usage("the path of %r is not plain ASCII" % probe[:200])
        return _http(_allowed(where if _ADDRESS.match(where) else where + ":80", policy), slash + path or "/")
    if kind == "exec":
        return _command([rest] + arguments, policy)
    raise Usage("%r is neither tcp:ADDRESS:PORT, http://ADDRESS:PORT/PATH nor exec:/COMMAND" % probe[:200])


def _allowed(where: str, policy: Dict[str, Any]) -> Tuple[str, int]:
    """Return address and port of *where*, or refuse."""
    match = _ADDRESS.match(where)
    if match is None or not 0 < int(match.group(3)) < 65536:
        raise Usage("%r is no address with a port; names are not looked up" % where[:100])
    text = match.group(1) or match.group(2)
    try:
        address = ipaddress.ip_address("127.0.0.1" if text == "localhost" else text)
    except ValueError:
        raise Usage("%r is no address" % text[:100]) from None
    if not address.is_loopback and not any(address in network for network in _networks(policy)):
        raise NotAllowed("%s is not a loopback address, and this host's policy does not name it" % address)
    return str(address), int(match.group(3))


def _networks(policy: Dict[str, Any]) -> List[Any]:
    found = []
    for text in policy.get("addresses") or []:
        try:
            found.append(ipaddress.ip_network(text, strict=False))
        except (ValueError, TypeError):
            continue  # what is no network allows nothing
    return found


def _tcp(address: str, port: int) -> Ask:
    """Time to connect."""

    def one(timeout_s: float) -> None:
        socket.create_connection((address, port), timeout_s).close()

    return one


def _http(where: Tuple[str, int], path: str) -> Ask:
    """Time until the answer is read, up to its bound; good is 2xx or 3xx."""

    def one(timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        connection = http.client.HTTPConnection(where[0], where[1], timeout=timeout_s)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            response = connection.getresponse()
            read = 0
            while read < _MAX_BODY:
                data = response.read1(8192)
                if not data:
                    break
                read += len(data)
                if time.monotonic() > until:
                    raise socket.timeout("timed out")
            if not 200 <= response.status < 400:
                raise ValueError("status %d" % response.status)
        finally:
            connection.close()

    return one


def _command(words: List[Any], policy: Dict[str, Any]) -> Ask:
    """Time until the command ends; good is exit status 0. It must be in the host's policy word for word."""
    if not all(isinstance(w, str) and "\0" not in w for w in words) or not words[0].startswith("/"):
        raise Usage("a command is an absolute path and words")
    if words not in [c for c in policy.get("commands") or [] if isinstance(c, list)]:
        raise NotAllowed("this host's policy does not name the command %s" % " ".join(words)[:200])

    def one(timeout_s: float) -> None:
        null = subprocess.DEVNULL
        status = subprocess.call(words, stdin=null, stdout=null, stderr=null, timeout=timeout_s, close_fds=True)
        if status:
            raise ValueError("exit status %d" % status)

    return one


def read_question(source: str) -> Any:
    """Return the JSON value on stdin or in the file *source*, or refuse."""
    import json

    try:
        if source == "-":
            return json.loads(sys.stdin.buffer.read(_MAX_BODY).decode("utf-8"))
        with open(source, "rb") as file:
            return json.loads(file.read(_MAX_BODY).decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        raise Usage("the question is not JSON") from None
