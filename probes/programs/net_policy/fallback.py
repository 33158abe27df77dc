"""net-policy on iptables and ipset: the table as rules of two chains of our own, replaced in one step per family.

Rules stay few, because a clause of a policy is one rule however many networks it names: those are in a set. Sets are
named by what is in them: new ones stand beside the old until the chains have changed over. Everything that passes
returns to the host's own rules, which may still drop it; nothing that is not tagged ours is touched.
"""

import hashlib
import ipaddress
import os
import re
import select
import shutil
import socket
import struct
import subprocess
import time
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

SIDES = ("ingress", "egress")
CHAINS = {"ingress": ("INPUT", "-i", "COROLLOUT-IN"), "egress": ("OUTPUT", "-o", "COROLLOUT-OUT")}
FAR = {"ingress": ("src", "-s"), "egress": ("dst", "-d")}  # the other end's place in a packet
SET_PREFIX = "corollout-"
NO_RULE = 0x80000000
NOT_RULES = ("default", "established", "protected")
BACKENDS = {None: "iptables", "legacy": "iptables-legacy", "nft": "iptables-nft"}
# IPv6 does not work at all without these, as IPv4 without ARP: multicast listeners and neighbours.
ALWAYS = (130, 131, 132, 133, 134, 135, 136, 137, 143)
NFLOG_GROUP = 7741
COUNT_EVERY_S = 2.0
SET_SIZE = 65536

Config = Mapping[str, Any]
_SAVED = re.compile(
    r'\[(\d+):(\d+)\] -A COROLLOUT-(?:IN|OUT) .*--comment "?corollout:[^" ]* (in|e)gress (\w+) counts"?'
)


class Family(NamedTuple):
    """One address family and the programs that speak for it."""

    version: int
    command: str  # iptables and its kin: NAME, NAME-restore, NAME-save
    icmp: str
    everything: str


def families(config: Config) -> List[Family]:
    """Return the families this host has, with the commands of the back end it uses."""
    name = BACKENDS[config.get("backend")]
    found = [Family(4, name, "icmp", "0.0.0.0/0")]
    if os.path.exists("/proc/net/if_inet6"):
        found.append(Family(6, name.replace("iptables", "ip6tables"), "ipv6-icmp", "::/0"))
    return found


def run(context: Any) -> None:
    """Put the policy in force, then report its counters and samples until told to stop; it stays in force."""
    config = context.config
    interface = config["interface"] or default_interface()
    samples = Samples()
    rules = 0
    for family in families(config):
        rules += apply(config, interface, family, context.tag)
    context.ready({"hooks": ["iptables:%s:%s" % (CHAINS[s][0], interface) for s in SIDES], "rules": rules})
    due = 0.0
    while not context.stopping(0.0):
        samples.wait(0.25)
        for sample in samples.read():
            context.emit(sample)
        if time.monotonic() >= due:
            context.counters(counters(config))
            due = time.monotonic() + COUNT_EVERY_S
    samples.close()


def remove(_context: Any) -> None:
    """Take chains, jumps and sets of ours away, from every back end there is; idempotent."""
    for command in ("iptables", "iptables-legacy", "iptables-nft"):
        for name in (command, command.replace("iptables", "ip6tables")):
            if shutil.which(name):
                _strip(name)
    _drop_sets(())


def apply(config: Config, interface: str, family: Family, tag: str) -> int:
    """Replace our rules of one family in one step; return how many there are. RuntimeError says what iptables said."""
    sets: Dict[str, List[str]] = {}
    lines = ["*filter"] + [":%s - [0:0]" % chain for _, _, chain in CHAINS.values()]
    lines += ["-D" + jump[2:] for jump in _jumps(_saved(family.command))]
    rules = [line for side in SIDES for line in chain_rules(config, side, family, tag, sets)]
    lines += rules
    for builtin, flag, chain in CHAINS.values():
        lines.append("-I %s 1 %s %s -m comment --comment %s -j %s" % (builtin, flag, interface, tag, chain))
    _make_sets(sets, family)
    _run([family.command + "-restore", "--noflush"] + _wait(family.command), "\n".join(lines + ["COMMIT", ""]))
    _drop_sets(list(sets), family.version)
    return len(rules)


def chain_rules(config: Config, side: str, family: Family, tag: str, sets: Dict[str, List[str]]) -> List[str]:
    """Return the rules of one chain in their order, and add the sets they need to *sets*."""
    chain = CHAINS[side][2]
    lines: List[str] = []

    def rule(match: Sequence[str], target: str, decided_by: Any, *, counts: bool = True) -> None:
        comment = '"%s %s %s %s"' % (tag, side, decided_by, "counts" if counts else "samples")
        lines.append(" ".join(["-A", chain] + list(match) + ["-m comment --comment", comment, "-j", target]))

    def deny(match: Sequence[str], decided_by: Any) -> None:
        prefix = "corollout:%d:%s:%d" % (SIDES.index(side), decided_by, config["audit"])
        log = "NFLOG --nflog-group %d --nflog-prefix %s" % (NFLOG_GROUP, prefix)
        rule(list(match) + ["-m limit --limit 16/sec --limit-burst 16"], log, decided_by, counts=False)
        rule(match, "RETURN" if config["audit"] else "DROP", decided_by)

    far, near_port = FAR[side][1], "--dport" if side == "ingress" else "--sport"
    for cidr in _of_family(config["protect"]["cidrs"], family):
        match = ["-p tcp", far, cidr, "-m tcp", near_port, str(config["protect"]["port"])]
        rule(match, "RETURN", "protected")
    if family.version == 6:
        for kind in ALWAYS:
            rule(["-p ipv6-icmp -m icmp6 --icmpv6-type", str(kind)], "RETURN", "always")
    if config["established"]:
        rule(["-m conntrack --ctstate ESTABLISHED --ctdir REPLY"], "RETURN", "established")
        rule(["-p", family.icmp, "-m conntrack --ctstate RELATED"], "RETURN", "established")
    for action, number, match in matches(config["rules"], side, family, sets):
        if action == "deny":
            deny(match, number)
        else:
            rule(match, "RETURN", number)
    if config["default"][side] == "deny":
        deny([], "default")
    else:
        rule([], "RETURN", "default")
    return lines


def matches(
    rows: Sequence[Mapping[str, Any]], side: str, family: Family, sets: Dict[str, List[str]]
) -> Iterator[Tuple[str, int, List[str]]]:
    """Yield (action, id, match) of one chain: denials first, then by id; rows that differ in network share a rule."""
    groups: Dict[Tuple[bool, int, str], Dict[Optional[Tuple[int, int]], List[str]]] = {}
    for row in rows:
        if row["dir"] == side and _of_family([row["cidr"]], family):
            spans = groups.setdefault((row["action"] != "deny", int(row["id"]), str(row["proto"])), {})
            span = (int(row["port"][0]), int(row["port"][1])) if row["port"] else None
            spans.setdefault(span, []).append(str(row["cidr"]))
    for (allows, number, proto), spans in sorted(groups.items()):
        by_networks: Dict[Tuple[str, ...], List[Optional[Tuple[int, int]]]] = {}
        for span, cidrs in spans.items():
            by_networks.setdefault(tuple(sorted(set(cidrs))), []).append(span)
        for networks, wanted in sorted(by_networks.items()):
            where = _where(networks, side, family, sets)
            what = [] if proto == "any" else ["-p", family.icmp if proto == "icmp" else proto]
            for ports in [None] if None in wanted else _multiports([span for span in wanted if span]):
                more = ["-m multiport --dports", ports] if ports else []
                yield "allow" if allows else "deny", number, what + where + more


def _where(cidrs: Sequence[str], side: str, family: Family, sets: Dict[str, List[str]]) -> List[str]:
    """Return the match for any of *cidrs*: nothing, one network, or a set."""
    if family.everything in cidrs:
        return []
    if len(cidrs) == 1:
        return [FAR[side][1], cidrs[0]]
    digest = hashlib.sha256(" ".join(cidrs).encode()).hexdigest()[:16]
    name = "%s%d-%s" % (SET_PREFIX, family.version, digest)
    sets[name] = list(cidrs)
    return ["-m set --match-set", name, FAR[side][0]]


def _multiports(spans: Sequence[Tuple[int, int]]) -> List[str]:
    """Return multiport lists for *spans*: at most 15 numbers in each, a range is two."""
    lists: List[List[str]] = []
    room = 0
    for first, last in sorted(spans):
        need = 1 if first == last else 2
        if need > room:
            lists.append([])
            room = 15
        lists[-1].append(str(first) if first == last else "%d:%d" % (first, last))
        room -= need
    return [",".join(one) for one in lists]


def _of_family(cidrs: Sequence[str], family: Family) -> List[str]:
    return [cidr for cidr in cidrs if ipaddress.ip_network(cidr).version == family.version]


def _make_sets(sets: Mapping[str, Sequence[str]], family: Family) -> None:
    lines = []
    for name, cidrs in sorted(sets.items()):
        kind = "inet" if family.version == 4 else "inet6"
        lines.append("create %s hash:net family %s maxelem %d" % (name, kind, max(SET_SIZE, len(cidrs))))
        lines += ["add %s %s" % (name, cidr) for cidr in cidrs]
    if lines:
        _run(["ipset", "restore", "-exist"], "\n".join(lines + [""]))


def _drop_sets(keep: Sequence[str], version: Optional[int] = None) -> None:
    """Destroy our sets that no rule uses any more, of one family or of both."""
    prefix = SET_PREFIX if version is None else "%s%d-" % (SET_PREFIX, version)
    for name in _run(["ipset", "list", "-name"], "").split():
        if name.startswith(prefix) and name not in keep:
            _run(["ipset", "destroy", name], "")


def _strip(command: str) -> None:
    saved = _saved(command)
    ours = [chain for _, _, chain in CHAINS.values() if ":%s " % chain in saved]
    jumps = _jumps(saved)
    if ours or jumps:
        lines = ["*filter"] + ["-D" + jump[2:] for jump in jumps]
        lines += ["-F " + chain for chain in ours] + ["-X " + chain for chain in ours] + ["COMMIT", ""]
        _run([command + "-restore", "--noflush"] + _wait(command), "\n".join(lines))


def _saved(command: str) -> str:
    return _run([command + "-save", "-t", "filter"], "")


def _jumps(saved: str) -> List[str]:
    """Return the lines of a saved table that lead into our chains."""
    ends = tuple("-j " + chain for _, _, chain in CHAINS.values())
    return [line for line in saved.splitlines() if line.startswith("-A ") and line.endswith(ends)]


def _wait(command: str) -> List[str]:
    """Return the option that waits for another's lock; it came with 1.6.2, and the nft back end has no lock."""
    version = re.search(r"v(\d+)\.(\d+)\.(\d+)", _run([command, "--version"], ""))
    return ["-w", "10"] if version and tuple(map(int, version.groups())) >= (1, 6, 2) else []


def _run(command: Sequence[str], text: str) -> str:
    done = subprocess.run(
        command, input=text.encode(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60, check=False
    )
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise RuntimeError("%s ended with %d: %s" % (" ".join(command[:3]), done.returncode, said[-400:]))
    return done.stdout.decode("utf-8", "replace")


def default_interface() -> str:
    """Return the interface of the default route, IPv4 before IPv6; as adapter.py, which is not at hand here."""
    for path, at, target in (("/proc/net/route", 0, 1), ("/proc/net/ipv6_route", 9, 0)):
        try:
            with open(path) as file:
                rows = [line.split() for line in file]
        except OSError:
            continue
        for row in rows:
            if len(row) > 7 and row[target].strip("0") == "" and row[at] != "lo":
                return row[at]
    raise ValueError("no interface is named and there is no default route")


def counters(config: Config) -> List[Dict[str, Any]]:
    """Return the counters by rule, both families together, in the order of their ids, the rest behind."""
    sums: Dict[Tuple[str, str], List[int]] = {}
    for family in families(config):
        for packets, size, side, decided_by in _SAVED.findall(
            _run([family.command + "-save", "-c", "-t", "filter"], "")
        ):
            total = sums.setdefault((side + "gress", decided_by), [0, 0])
            total[0] += int(packets)
            total[1] += int(size)
    about: List[Tuple[Any, str, str]] = sorted({(r["id"], r["dir"], r["action"]) for r in config["rules"]})
    about += [(n, s, config["default"][s] if n == "default" else "allow") for n in NOT_RULES for s in SIDES]
    rows = []
    for rule, side, action in about:
        packets, size = sums.get((side, str(rule)), [0, 0])
        rows.append({"rule_id": rule, "dir": side, "action": action, "packets": packets, "bytes": size})
    return rows


class Samples:
    """Denied packets as NFLOG copies them to our group; without nfnetlink_log, or when the group is taken, none."""

    _PACKET, _CONFIG = 0x400, 0x401
    _PAYLOAD, _PREFIX = 9, 10

    def __init__(self) -> None:
        self._link: Optional[socket.socket] = None
        try:
            link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
            link.settimeout(2)
            self._ask(link, 1, b"\x01")  # bind
            self._ask(link, 2, struct.pack(">IBx", 128, 2))  # copy so much of each packet
            self._ask(link, 5, struct.pack(">I", 1))  # and send each at once
            link.setblocking(False)
            self._link = link
        except OSError:
            self.close()

    @classmethod
    def _ask(cls, link: socket.socket, kind: int, value: bytes) -> None:
        body = struct.pack(">BBH", 0, 0, NFLOG_GROUP) + struct.pack("=HH", 4 + len(value), kind)
        body += value + bytes(-len(value) % 4)
        link.send(struct.pack("=IHHII", 16 + len(body), cls._CONFIG, 5, 1, 0) + body)
        code = -struct.unpack_from("=i", link.recv(4096), 16)[0]
        if code:
            raise OSError(code, os.strerror(code))

    def wait(self, timeout_s: float) -> bool:
        """Wait for samples; tell whether some are there."""
        if self._link is None:
            time.sleep(timeout_s)
            return False
        return bool(select.select([self._link], [], [], timeout_s)[0])

    def read(self) -> Iterator[Dict[str, Any]]:
        """Yield what has come in as raw records, shaped as those of the BPF builds."""
        while self._link is not None:
            try:
                data = self._link.recv(65536)
            except OSError:  # nothing more, or some were lost: they are samples
                return
            while len(data) >= 16:
                size, kind = struct.unpack_from("=IH", data)
                if size < 16:
                    break
                attributes = dict(_attributes(data[20:size])) if kind == self._PACKET else {}
                record = _sample(attributes.get(self._PREFIX, b""), attributes.get(self._PAYLOAD, b""))
                if record:
                    yield record
                data = data[(size + 3) // 4 * 4 :]

    def close(self) -> None:
        """Give the group back."""
        if self._link is not None:
            self._link.close()
            self._link = None


def _attributes(data: bytes) -> Iterator[Tuple[int, bytes]]:
    while len(data) >= 4:
        size, kind = struct.unpack_from("=HH", data)
        if size < 4:
            return
        yield kind & 0x3FFF, data[4:size]
        data = data[(size + 3) // 4 * 4 :]


def _sample(prefix: bytes, packet: bytes) -> Optional[Dict[str, Any]]:
    words = prefix.rstrip(b"\0").decode("ascii", "replace").split(":")
    version = packet[0] >> 4 if packet else 0
    if len(words) != 4 or words[0] != "corollout" or len(packet) < {4: 20, 6: 40}.get(version, 256):
        return None
    if version == 4:
        proto, source, target, inner = packet[9], packet[12:16], packet[16:20], (packet[0] & 15) * 4
    else:
        proto, source, target, inner = packet[6], packet[8:24], packet[24:40], 40
    sport, dport = struct.unpack_from(">HH", packet, inner) if len(packet) >= inner + 4 else (0, 0)
    side = int(words[1])
    return {
        "mono_ns": int(time.monotonic() * 1e9),
        "rule": NO_RULE + side if words[2] == "default" else int(words[2]),
        "side": side,
        "audit": int(words[3]),
        "family": version,
        "proto": 1 if proto == 58 else proto,
        "saddr": source.hex(),
        "daddr": target.hex(),
        "sport": sport,
        "dport": dport,
    }
