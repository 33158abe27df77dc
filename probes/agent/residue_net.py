"""Rules, sets and filters that carry our tag and belong to no recorded program, in our own network namespace.

What asking would load into the kernel is not asked: a table that is not there holds nothing of ours.
"""

import functools
import os
import re
import shutil
import socket
import struct
import subprocess
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Sequence, Tuple

from probes.agent.faults import NotAttached

CHAIN = "COROLLOUT-"
SETS = "corollout-"
TAG = re.compile(r"corollout:([a-z0-9][a-z0-9_-]{0,62}):\d+")
_TABLES = ("iptables", "iptables-legacy", "iptables-nft", "ip6tables", "ip6tables-legacy", "ip6tables-nft")

PARENTS = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
_GET_FILTER, _NEW_FILTER, _DEL_FILTER = 46, 44, 45
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_OPTIONS, _BPF_NAME = 2, 7
_ETH_P_ALL = 3

Claimed = Mapping[str, Sequence[Mapping[str, Any]]]


class Item(NamedTuple):
    """One thing that is left: its kind, what it is, and what takes it away."""

    kind: str
    what: str
    remove: Callable[[], None]

    def document(self) -> Dict[str, str]:
        """Return ``{"kind", "what"}``."""
        return {"kind": self.kind, "what": self.what[:400]}


def found(claimed: Claimed) -> List[Item]:
    """Return what none of the *claimed* programs (name → states) can have made; in the order in which it goes away."""
    return list(_filters(claimed)) + list(_chains(claimed)) + list(_sets(claimed))


def _chains(claimed: Claimed) -> Iterator[Item]:
    seen = set()
    for command in _TABLES:
        if not _may_hold(command):
            continue
        saved = _run([command + "-save", "-t", "filter"])
        chains = re.findall(r"^:(%s\S+) " % CHAIN, saved, re.M)
        owners = set(TAG.findall("\n".join(line for line in saved.splitlines() if CHAIN in line)))
        key = (command[:3], tuple(chains), saved.count(CHAIN))
        if chains and not owners & set(claimed) and (owners or not claimed) and key not in seen:
            seen.add(key)  # `iptables` is one of the other two
            what = "%s: %s of %s" % (command, " ".join(chains), " ".join(sorted(owners)) or "no program")
            yield Item("iptables", what, functools.partial(_strip, command))


def _may_hold(command: str) -> bool:
    """Tell whether the command is there and its back end in use, so that asking it loads nothing."""
    found = shutil.which(command + "-save")
    if not found:
        return False
    if "nft" in os.path.basename(os.path.realpath(found)):
        return not _asleep("nf_tables")
    names = "/proc/net/ip6_tables_names" if command.startswith("ip6") else "/proc/net/ip_tables_names"
    try:
        with open(names) as file:
            return "filter" in file.read().split()
    except OSError:
        return False


def _asleep(module: str) -> bool:
    """Tell whether a module is there to be loaded and is not: what is built in, or absent, cannot be loaded."""
    if os.path.isdir("/sys/module/" + module):
        return False
    try:
        with open("/lib/modules/%s/modules.dep" % os.uname().release, encoding="utf-8", errors="replace") as file:
            return any(re.search(r"(^|/)%s\.ko[.\w]*:" % module, line) for line in file)
    except OSError:
        return False


def _strip(command: str) -> None:
    saved = _run([command + "-save", "-t", "filter"]).splitlines()
    chains = [line[1:].split()[0] for line in saved if line.startswith(":" + CHAIN)]
    jumps = [line for line in saved if line.startswith("-A ") and re.search(r"-j %s\S+$" % CHAIN, line)]
    outside = [line for line in jumps if not line.startswith("-A " + CHAIN)]
    lines = ["*filter"] + ["-D" + line[2:] for line in outside]
    lines += ["-F " + chain for chain in chains] + ["-X " + chain for chain in chains] + ["COMMIT", ""]
    _run([command + "-restore", "--noflush"], "\n".join(lines), must=True)


def _sets(claimed: Claimed) -> Iterator[Item]:
    specs = [
        s for states in claimed.values() for state in states for s in (state.get("spec"), state.get("intent")) if s
    ]
    if any(s.get("variant") == "fallback" and s.get("kind") == "networking" for s in specs):
        return  # a set does not say whose it is
    if shutil.which("ipset") and not _asleep("ip_set"):
        for name in _run(["ipset", "list", "-name"]).split():
            if name.startswith(SETS):
                yield Item("ipset", name, functools.partial(_destroy, name))


def _destroy(name: str) -> None:
    _run(["ipset", "destroy", name], must=True)


def _filters(claimed: Claimed) -> Iterator[Item]:
    """Yield filters named by our tag, as the BCC builds name theirs; those of the runner are found by their pins."""
    for _, interface in socket.if_nameindex():
        for direction, parent in sorted(PARENTS.items()):
            for priority, handle, name in _dump(interface, parent):
                tag = TAG.match(name)
                if tag and tag.group(1) not in claimed:
                    what = "%s %s: %s" % (interface, direction, name)
                    yield Item("filter", what, functools.partial(_delete, interface, parent, priority, handle))


def _dump(interface: str, parent: int) -> List[Tuple[int, int, str]]:
    """Return (priority, handle, name) of the BPF filters on one side of an interface."""
    rows = []
    for kind, body in _ask(_GET_FILTER, _DUMP, interface, parent, 0, 0):
        if kind == _NEW_FILTER and len(body) >= 20:
            handle, _, info = struct.unpack_from("=III", body, 8)
            options = _attributes(_attributes(body[20:]).get(_OPTIONS, b""))
            name = options.get(_BPF_NAME, b"").rstrip(b"\0").decode("ascii", "replace")
            rows.append((info >> 16, handle, name))
    return rows


def _delete(interface: str, parent: int, priority: int, handle: int) -> None:
    _ask(_DEL_FILTER, _ACK, interface, parent, handle, priority << 16 | socket.htons(_ETH_P_ALL), strict=True)


def _attributes(data: bytes) -> Dict[int, bytes]:
    values = {}
    while len(data) >= 4:
        size, kind = struct.unpack_from("=HH", data)
        if size < 4:
            break
        values[kind & 0x3FFF] = data[4:size]
        data = data[(size + 3) // 4 * 4 :]
    return values


def _ask(
    kind: int, flags: int, interface: str, parent: int, handle: int, info: int, strict: bool = False
) -> List[Tuple[int, bytes]]:
    """Send one rtnetlink request; return the (type, body) of its answers. An interface without the qdisc has none."""
    answers: List[Tuple[int, bytes]] = []
    try:
        head = struct.pack("=BxxxiIII", 0, socket.if_nametoindex(interface), handle, parent, info)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
            link.settimeout(5)
            link.send(struct.pack("=IHHII", 16 + len(head), kind, flags | _REQUEST, 1, 0) + head)
            while True:
                data = link.recv(65536)
                while len(data) >= 16:
                    size, answer = struct.unpack_from("=IH", data)
                    part, data = data[16:size], data[(max(size, 16) + 3) // 4 * 4 :]
                    if answer == 2:  # an error, or the acknowledgement
                        code = -struct.unpack_from("=i", part)[0]
                        if code and strict:
                            raise NotAttached("tc %s: %s" % (interface, os.strerror(code)))
                        return answers
                    if answer == 3:
                        return answers
                    answers.append((answer, part))
    except OSError as error:
        if strict:
            raise NotAttached("tc %s: %s" % (interface, error)) from None
        return answers


def _run(command: List[str], text: str = "", must: bool = False) -> str:
    try:
        done = subprocess.run(
            command, input=text.encode(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        if must:
            raise NotAttached("%s: %s" % (command[0], error)) from None
        return ""
    if must and done.returncode:
        raise NotAttached("%s: %s" % (" ".join(command[:3]), done.stderr.decode("utf-8", "replace")))
    return done.stdout.decode("utf-8", "replace")
