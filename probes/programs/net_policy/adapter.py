"""Fits a policy table to the BPF builds of net-policy, and what they say to the common record and counters.

Every network of the table gets a class: the set of rules of all networks that cover it, as a longest-prefix match finds
one network only. Each class then gets its answers by protocol and port, a range as the few prefixes that make it up.
"""

import fcntl
import ipaddress
import os
import socket
import struct
from typing import Any, Dict, FrozenSet, Iterable, Iterator, List, Mapping, Optional, Sequence, Set, Tuple, Union

OBJECT_TAG = "corollout:"
SIDES = ("ingress", "egress")
PROTECTED = 2  # a side of its own
PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "sctp": 132}
PORTED = ("tcp", "udp", "sctp")
MAX_ENTRIES = 65536  # of networks and of ports; classes fit 16 bits
MAX_COUNTERS = 4096
NO_RULE = 0x80000000
NOT_RULES = ("default", "established", "protected")  # in pairs by side, as core.bpf.c numbers them
COUNTER_MAPS = ("counters",)
_GET_HARDWARE = 0x8927  # SIOCGIFHWADDR; /sys may show another network namespace

Config = Mapping[str, Any]  # the table of docs/contracts.md
Entry = Tuple[bytes, bytes]
Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
Meaning = Tuple[bool, int, str, Optional[Tuple[int, int]]]  # allows, id, protocol, ports: the least one decides


def core_arguments(config: Config, _scope: Mapping[str, Any]) -> Dict[str, Any]:
    """Return what the runner is told: maps to set and fill, programs to attach."""
    interface = interface_of(config)
    maps = pack(config)
    return {
        "set": ["policy_settings:%s=%s" % (k.hex(), v.hex()) for k, v in maps.pop("policy_settings")],
        "fill": maps,
        "attach": ["net_policy_in=tc:%s:ingress" % interface, "net_policy_out=tc:%s:egress" % interface],
        "carry": ["conversations", "fragments"],  # an upgrade forgets no flow that is open
    }


def interface_of(config: Config) -> str:
    """Return the interface to police: the named one, else that of the default route. Only Ethernet framing is known."""
    name = config["interface"] or default_interface()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as anything:
        try:
            answer = fcntl.ioctl(anything.fileno(), _GET_HARDWARE, struct.pack("=16s24x", name.encode()[:15]))
        except OSError as error:
            raise ValueError("interface %r: %s" % (name, error.strerror)) from None
    kind = struct.unpack_from("=H", answer, 16)[0]
    if kind != 1:
        raise ValueError("interface %s has no Ethernet header (type %d)" % (name, kind))
    return str(name)


def default_interface() -> str:
    """Return the interface of the default route, IPv4 before IPv6."""
    for path, at, target in (("/proc/net/route", 0, 1), ("/proc/net/ipv6_route", 9, 0)):
        try:
            with open(path) as file:
                rows = [line.split() for line in file]
        except OSError:
            continue
        for row in rows:
            # IPv6 tables end in an unreachable default on lo.
            if len(row) > 7 and row[target].strip("0") == "" and row[at] != "lo":
                return row[at]
    raise ValueError("no interface is named and there is no default route")


def pack(config: Config) -> Dict[str, List[Entry]]:
    """Return {map: [(key, value)]} for a table; ValueError when it does not fit."""
    rules = [_Rule(row) for row in config["rules"]]
    networks: List[Entry] = []
    ports: List[Entry] = []
    classes: Dict[FrozenSet[Meaning], int] = {}
    for side in (0, 1):
        for network, covering in _by_network([rule for rule in rules if rule.side == side]):
            number = classes.setdefault(covering, len(classes) + 1)
            networks.append(_network_row(side, network, number))
    for covering, number in classes.items():
        ports.extend(_port_rows(number, covering))
    protect = config["protect"]
    networks += [_network_row(PROTECTED, ipaddress.ip_network(text), 1) for text in sorted(set(protect["cidrs"]))]
    ids = sorted({rule.number for rule in rules})
    counted = ids + [NO_RULE + n for n in range(2 * len(NOT_RULES))]
    for name, size, limit in (
        ("networks", len(networks), MAX_ENTRIES),
        ("ports", len(ports), MAX_ENTRIES),
        ("classes", len(classes), MAX_ENTRIES - 1),
        ("counters", len(counted), MAX_COUNTERS),
    ):
        if size > limit:
            raise ValueError("the policy needs %d %s, the program holds %d" % (size, name, limit))
    denies = [config["default"][side] == "deny" for side in SIDES]
    settings = struct.pack("=BBBB", config["audit"], config["established"], *denies)
    port = protect["port"] if protect["cidrs"] else 0
    return {
        "policy_settings": [(struct.pack("=I", 0), settings + struct.pack(">H", port) + b"\0\0")],
        "networks": networks,
        "ports": ports,
        "counters": [(struct.pack("=I", key), bytes(16)) for key in counted],
    }


class _Rule:
    """One row of the table, checked."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.number = int(row["id"])
        self.side = SIDES.index(row["dir"])
        self.network: Network = ipaddress.ip_network(row["cidr"])
        self.proto = str(row["proto"])
        self.span: Optional[Tuple[int, int]] = (int(row["port"][0]), int(row["port"][1])) if row["port"] else None
        self.deny = row["action"] == "deny"
        if not 0 < self.number < NO_RULE or (self.proto != "any" and self.proto not in PROTOCOLS):
            raise ValueError("rule %r cannot be one" % row["id"])
        if self.span and (self.proto not in PORTED or not 0 < self.span[0] <= self.span[1] < 65536):
            raise ValueError("rule %d: %s has no ports %s" % (self.number, self.proto, list(self.span)))

    @property
    def meaning(self) -> Meaning:
        """All but the network: equal meanings make equal classes."""
        return (not self.deny, self.number, self.proto, self.span)


def _by_network(rules: Iterable[_Rule]) -> Iterator[Tuple[Network, FrozenSet[Meaning]]]:
    """Yield each network with the meanings of every rule that covers it; networks nest or are apart."""
    own: Dict[Network, Set[Meaning]] = {}
    for rule in rules:
        own.setdefault(rule.network, set()).add(rule.meaning)
    around: List[Tuple[Network, FrozenSet[Meaning]]] = []
    for network in sorted(own, key=lambda n: (n.version, int(n.network_address), n.prefixlen)):
        while around and not _holds(around[-1][0], network):
            around.pop()
        covering = frozenset(own[network] | around[-1][1]) if around else frozenset(own[network])
        around.append((network, covering))
        yield network, covering


def _holds(outer: Network, inner: Network) -> bool:
    return (
        outer.version == inner.version
        and outer.prefixlen <= inner.prefixlen
        and int(inner.network_address) >> (inner.max_prefixlen - outer.prefixlen)
        == int(outer.network_address) >> (outer.max_prefixlen - outer.prefixlen)
    )


def _network_row(side: int, network: Network, number: int) -> Entry:
    key = struct.pack("=IBBH16s", 32 + network.prefixlen, side, network.version, 0, network.network_address.packed)
    return key, struct.pack("=I", number)


def _port_rows(number: int, covering: FrozenSet[Meaning]) -> List[Entry]:
    """Return the answers of one class: for any protocol, then by protocol, then by port where that differs."""
    rows = []
    anything = _decides(m for m in covering if m[2] == "any")
    if anything:
        rows.append(_port_row(16, number, 0, 0, anything))
    for name in sorted({m[2] for m in covering} - {"any"}):
        mine = [m for m in covering if m[2] in ("any", name)]
        base = _decides(m for m in mine if m[3] is None)
        if base:
            rows.append(_port_row(32, number, PROTOCOLS[name], 0, base))
        edges = sorted({edge for m in mine if m[3] for edge in (m[3][0], m[3][1] + 1)})
        for first, after in zip(edges, edges[1:]):  # noqa: B905, RUF007 - Python 3.6
            answer = _decides(m for m in mine if m[3] is None or (m[3][0] <= first and after - 1 <= m[3][1]))
            if answer and answer != base:
                for port, bits in prefixes(first, after - 1):
                    rows.append(_port_row(32 + bits, number, PROTOCOLS[name], port, answer))
    return rows


def _decides(meanings: Iterable[Meaning]) -> Optional[Tuple[int, bool]]:
    """Return (id, deny) of the rule that counts: deny first, then the lowest id; None without any."""
    best = min((m[:2] for m in meanings), default=None)
    return (best[1], not best[0]) if best else None


def _port_row(length: int, number: int, proto: int, port: int, answer: Tuple[int, bool]) -> Entry:
    key = struct.pack("=IHBB", length, number, 0, proto) + struct.pack(">H", port) + b"\0\0"
    return key, struct.pack("=II", *answer)


def prefixes(first: int, last: int) -> List[Tuple[int, int]]:
    """Return [(port, prefix bits)] that make up the ports first..last exactly."""
    found = []
    while first <= last:
        size = first & -first or 65536
        while first + size - 1 > last:
            size >>= 1
        found.append((first, 16 - size.bit_length() + 1))
        first += size
    return found


def counters(dumps: Mapping[str, List[Tuple[bytes, List[bytes]]]], config: Config) -> List[Dict[str, Any]]:
    """Return the counters by rule, in the order of their ids, the rest behind."""
    about: Dict[int, Tuple[Any, str, str]] = {
        rule["id"]: (rule["id"], rule["dir"], rule["action"]) for rule in config["rules"]
    }
    for n, name in enumerate(NOT_RULES):
        for side, direction in enumerate(SIDES):
            action = config["default"][direction] if name == "default" else "allow"
            about[NO_RULE + 2 * n + side] = (name, direction, action)
    rows = []
    for key, values in sorted(dumps["counters"], key=lambda entry: struct.unpack("=I", entry[0])):
        rule, direction, action = about[struct.unpack("=I", key)[0]]
        seen = [struct.unpack("=QQ", value) for value in values]
        packets, size = sum(one[0] for one in seen), sum(one[1] for one in seen)
        rows.append({"rule_id": rule, "dir": direction, "action": action, "packets": packets, "bytes": size})
    return rows


def normalise(raw: Mapping[str, Any], clock: Mapping[str, Any]) -> Dict[str, Any]:
    """Return one sample of a denied packet; ``action`` is ``audit`` where it passed all the same."""
    length = 4 if raw["family"] == 4 else 16
    family = socket.AF_INET if length == 4 else socket.AF_INET6
    names = {number: name for name, number in PROTOCOLS.items()}
    record = {
        "mono_ns": raw["mono_ns"],
        "ts_ns": raw["mono_ns"] + clock["offset_ns"],
        "dir": SIDES[raw["side"]],
        "saddr": socket.inet_ntop(family, bytes.fromhex(raw["saddr"])[:length]),
        "daddr": socket.inet_ntop(family, bytes.fromhex(raw["daddr"])[:length]),
        "proto": names.get(raw["proto"], str(raw["proto"])),
        "rule_id": "default" if raw["rule"] >= NO_RULE else raw["rule"],
        "action": "audit" if raw["audit"] else "deny",
    }
    ports = {"sport": raw["sport"], "dport": raw["dport"]} if record["proto"] in PORTED else {}
    missing = sorted({"sport", "dport"} - set(ports))  # a protocol without ports, or a fragment that lost them
    return dict(record, fidelity={"clock": "packet", "missing": missing}, **ports)


# BCC attaches no tc programs by itself. Its place is beside the runner's, so that either can take over from the other.
PLACE = 0xC1
BPFFS = "/sys/fs/bpf"
HANDLE = 1
CLSACT = 0xFFFFFFF1
PARENTS = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
_NEW_QDISC, _DEL_QDISC, _NEW_FILTER, _DEL_FILTER, _GET_FILTER = 36, 37, 44, 45, 46
_REQUEST, _ACK, _REPLACE, _DUMP, _CREATE, _EXCLUSIVE = 1, 4, 0x100, 0x300, 0x400, 0x200
_DONE, _ERROR = 3, 2
_KIND, _OPTIONS, _BPF_FD, _BPF_NAME, _BPF_FLAGS = 1, 2, 6, 7, 8
_GONE = (2, 19, 22)  # ENOENT, ENODEV; EINVAL: no such qdisc


def bcc_setup(bpf: Any, config: Config, scope: Mapping[str, Any], tag: str) -> None:
    """Fill the maps of a compiled *bpf* and attach it; what was there in our place is replaced."""
    from bcc import BPF, libbcc, utils

    wanted = core_arguments(config, scope)
    cpus = len(utils.get_possible_cpus())
    for name, rows in pack(config).items():
        for key, value in rows:
            copies = cpus if name in COUNTER_MAPS else 1
            if libbcc.lib.bpf_update_elem(bpf[name].map_fd, key, value * copies, 0):
                raise OSError("map %s takes no more entries" % name)
    bodies = [(text, bpf.load_func(text.split("=")[0], BPF.SCHED_CLS)) for text in wanted["attach"]]
    for text, body in bodies:
        _attach(text.split(":")[1], text.split(":")[2], body.fd, tag)


def bcc_cleanup(_config: Config, _scope: Mapping[str, Any], tag: str) -> None:
    """Take our filters away, and the qdisc when it is ours and nobody uses it any more; idempotent."""
    for _, name in socket.if_nameindex():
        left: List[Tuple[int, str]] = []
        found = False
        for direction in SIDES:
            filters = _filters(name, direction)
            ours = [f for f in filters if f[0] == PLACE and f[1].startswith(OBJECT_TAG)]
            found = found or bool(ours)
            left += [f for f in filters if f not in ours]
            if ours:
                _ask(_DEL_FILTER, 0, name, HANDLE, PARENTS[direction], _filter_info(PLACE), b"")
        if found and not left and _forget_qdisc(name, tag):
            _ask(_DEL_QDISC, 0, name, 0, CLSACT, 0, b"")


def _attach(interface: str, direction: str, fd: int, tag: str) -> None:
    try:
        _ask(_NEW_QDISC, _CREATE | _EXCLUSIVE, interface, 0xFFFF0000, CLSACT, 0, _attribute(_KIND, b"clsact\0"))
        _note_qdisc(interface, tag)
    except FileExistsError:
        pass  # somebody's, perhaps ours of before
    if any(place == PLACE and not name.startswith(OBJECT_TAG) for place, name in _filters(interface, direction)):
        raise OSError("another program is in our place on %s %s" % (interface, direction))
    options = _attribute(_BPF_FD, struct.pack("=I", fd)) + _attribute(_BPF_NAME, tag.encode() + b"\0")
    options += _attribute(_BPF_FLAGS, struct.pack("=I", 1))  # direct action
    body = _attribute(_KIND, b"bpf\0") + _attribute(_OPTIONS, options)
    _ask(_NEW_FILTER, _CREATE | _REPLACE, interface, HANDLE, PARENTS[direction], _filter_info(PLACE), body)


def _qdisc_note(interface: str, tag: str) -> str:
    """Where the runner, too, notes that the qdisc of an interface is ours: one may have to undo what the other made."""
    return os.path.join(BPFFS, "corollout", tag.split(":")[1], "clsact", interface.replace(".", "_"))


def _note_qdisc(interface: str, tag: str) -> None:
    if os.path.ismount(BPFFS):
        os.makedirs(_qdisc_note(interface, tag), mode=0o700, exist_ok=True)


def _forget_qdisc(interface: str, tag: str) -> bool:
    """Tell whether the qdisc is ours, and forget it; where nothing can be noted, an empty one counts as ours."""
    if not os.path.ismount(BPFFS):
        return True
    try:
        os.removedirs(_qdisc_note(interface, tag))
    except OSError:
        return False
    return True


def _filters(interface: str, direction: str) -> List[Tuple[int, str]]:
    """Return [(priority, name)] of the filters on one side of an interface."""
    found = []
    for kind, body in _ask(_GET_FILTER, _DUMP, interface, 0, PARENTS[direction], 0, b"", _GONE):
        handle, _, info = struct.unpack_from("=III", body, 8)
        if kind == _NEW_FILTER and handle:  # without one it is the head of a chain
            options = dict(_attributes(dict(_attributes(body[20:])).get(_OPTIONS, b"")))
            found.append((info >> 16, options.get(_BPF_NAME, b"").rstrip(b"\0").decode("ascii", "replace")))
    return found


def _filter_info(priority: int) -> int:
    return priority << 16 | socket.htons(3)  # ETH_P_ALL


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def _attributes(data: bytes) -> Iterator[Tuple[int, bytes]]:
    while len(data) >= 4:
        size, kind = struct.unpack_from("=HH", data)
        if size < 4:
            return
        yield kind & 0x3FFF, data[4:size]
        data = data[(size + 3) // 4 * 4 :]


def _ask(
    kind: int,
    flags: int,
    interface: str,
    handle: int,
    parent: int,
    info: int,
    body: bytes,
    pardoned: Sequence[int] = (),
) -> List[Tuple[int, bytes]]:
    """Send one rtnetlink request about traffic control; return the (type, body) of its answers, raise OSError."""
    head = struct.pack("=BxxxiIII", 0, socket.if_nametoindex(interface), handle, parent, info)
    message = head + body
    request = struct.pack("=IHHII", 16 + len(message), kind, flags | _REQUEST | (_ACK if flags != _DUMP else 0), 1, 0)
    answers: List[Tuple[int, bytes]] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        link.settimeout(10)
        link.send(request + message)
        while True:
            data = link.recv(65536)
            while len(data) >= 16:
                size, answer = struct.unpack_from("=IH", data)
                part, data = data[16:size], data[(size + 3) // 4 * 4 :]
                if answer == _DONE:
                    return answers
                if answer == _ERROR:
                    code = -struct.unpack_from("=i", part)[0]
                    if code and code not in pardoned:
                        raise OSError(code, "tc %s: %s" % (interface, os.strerror(code)))
                    return answers
                answers.append((answer, part))
