"""tcp-flow without eBPF: the kernel's notices of destroyed sockets, and a dump of open ones now and then.

A notice carries the same counters that the eBPF build reads. The dumps add what a notice lacks: when the connection
was first seen, who owned it, which side opened it. Sees one network namespace, its own. Changes nothing on the host.
Runs on Python 3.6, standard library only.
"""

import errno
import os
import socket
import struct
import time
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

NETLINK_SOCK_DIAG = 4
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP = 270, 1
SO_RCVBUFFORCE = 33
SOCK_DIAG_BY_FAMILY = 20
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_DUMP = 1, 0x300
TCP_DESTROY_GROUPS = (1, 3)  # SKNLGRP_INET_TCP_DESTROY, SKNLGRP_INET6_TCP_DESTROY
INET_DIAG_INFO, INET_DIAG_PROTOCOL = 2, 10
SYN_SENT, SYN_RECV, TIME_WAIT, CLOSE_WAIT, LAST_ACK, LISTEN, CLOSING = 2, 3, 6, 8, 9, 10, 11
CLIENT, SERVER = 1, 2
ALL_STATES = 0xFFF & ~(1 << TIME_WAIT)
MAPPED = b"\0" * 10 + b"\xff\xff"

RECEIVE_BYTES = 8 << 20
TICK_S = 0.1
POLL_S = 0.25
POLL_SHARE = 100  # a dump that takes t is followed by a pause of 100 t: polling costs at most 1 % of a core
FORGET_S = 60.0
MAX_SEEN = 200000


class Connection:
    """What the dumps know of one socket. Times in seconds of the monotonic clock."""

    __slots__ = ("comm", "first", "inode", "last", "pid", "role", "state")

    def __init__(self, now: float, inode: int) -> None:
        self.first = self.last = now
        self.inode = inode
        self.role = self.state = self.pid = 0
        self.comm = ""


class Message:
    """One ``inet_diag_msg``; addresses as 16 bytes, ``info`` is the raw ``tcp_info`` or empty."""

    __slots__ = ("cookie", "daddr", "dport", "info", "inode", "protocol", "saddr", "sport", "state")

    def __init__(self, data: bytes) -> None:
        family, self.state = struct.unpack_from("=BB", data)
        self.sport, self.dport = struct.unpack_from("!HH", data, 4)
        self.saddr, self.daddr = data[8:24], data[24:40]
        if family == socket.AF_INET:
            self.saddr, self.daddr = MAPPED + self.saddr[:4], MAPPED + self.daddr[:4]
        self.cookie = data[44:52]
        self.inode = struct.unpack_from("=I", data, 68)[0]
        attributes = dict(_attributes(data, 72))
        self.info = attributes.get(INET_DIAG_INFO, b"")
        self.protocol = attributes.get(INET_DIAG_PROTOCOL, b"\x06")[0]


def _attributes(data: bytes, at: int) -> Iterator[Tuple[int, bytes]]:
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4 or at + size > len(data):
            return
        yield kind & 0x3FFF, data[at + 4 : at + size]
        at += (size + 3) & ~3


def _netlink_messages(data: bytes) -> Iterator[Tuple[int, bytes]]:
    at = 0
    while at + 16 <= len(data):
        size, kind = struct.unpack_from("=IH", data, at)
        if size < 16 or at + size > len(data):
            return
        yield kind, data[at + 16 : at + size]
        at += (size + 3) & ~3


def dump(states: int = ALL_STATES) -> Iterator[Message]:
    """Yield a Message for every TCP socket of this network namespace in one of *states* (a bit mask)."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as channel:
            channel.settimeout(5.0)
            body = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, states) + b"\0" * 48
            channel.send(
                struct.pack("=IHHII", 16 + len(body), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + body
            )
            more = True
            while more:
                for kind, data in _netlink_messages(channel.recv(1 << 18)):
                    if kind == NLMSG_ERROR:
                        number = -struct.unpack_from("=i", data)[0]
                        raise OSError(number, "sock_diag dump: " + os.strerror(number))
                    if kind == NLMSG_DONE:
                        more = False
                        break
                    if kind == SOCK_DIAG_BY_FAMILY and len(data) >= 72:
                        yield Message(data)


def open_notices() -> socket.socket:
    """Return a socket that hears of destroyed TCP sockets, proven by destroying one; raise OSError when silent.

    RHEL 7 lets one bind and then never sends.
    """
    notices = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)
    try:
        try:
            notices.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BYTES)
        except OSError:
            notices.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        notices.bind((0, 0))
        for group in TCP_DESTROY_GROUPS:
            notices.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        notices.settimeout(2.0)
        heard = False
        while not heard:
            heard = any(
                m.sport == port and not m.dport
                for m in (Message(d) for k, d in _netlink_messages(notices.recv(1 << 16)) if k == SOCK_DIAG_BY_FAMILY)
            )
        notices.setblocking(False)
        return notices
    except socket.timeout:
        notices.close()
        raise OSError(errno.EOPNOTSUPP, "this kernel sends no notices of destroyed sockets") from None
    except OSError:
        notices.close()
        raise


def _owners(inodes: Set[int]) -> Dict[int, Tuple[int, str]]:
    """Return {socket inode: (pid, comm)} for *inodes*, as far as /proc shows them."""
    found: Dict[int, Tuple[int, str]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        folder = "/proc/%s/fd" % entry
        try:
            for name in os.listdir(folder):
                target = os.readlink("%s/%s" % (folder, name))
                if target.startswith("socket:[") and int(target[8:-1]) in inodes:
                    with open("/proc/%s/comm" % entry, "rb") as file:
                        found[int(target[8:-1])] = (int(entry), file.read(64).decode("utf-8", "replace").strip())
        except (OSError, ValueError):
            continue  # the process ended, or is not ours to look into
    return found


class Watch:
    """The connections and listeners of one network namespace, from dumps and notices."""

    def __init__(self, netns: int) -> None:
        self.netns = netns
        self.connections: Dict[bytes, Connection] = {}
        self.listeners: Dict[int, float] = {}  # port → when it was last seen

    def poll(self, now: float) -> int:
        """Take a dump. Returns how many known connections are gone, which matters only after lost notices."""
        fresh: Set[int] = set()
        for message in dump():
            if message.state == LISTEN:
                self.listeners[message.sport] = now
                continue
            known = self.connections.get(message.cookie)
            if known is None:
                if not message.dport or len(self.connections) >= MAX_SEEN:
                    continue
                known = self.connections[message.cookie] = Connection(now, message.inode)
            if not known.role and message.state in (SYN_SENT, SYN_RECV):
                known.role = CLIENT if message.state == SYN_SENT else SERVER
            known.last, known.state = now, message.state
            if message.inode and not known.pid:
                known.inode = message.inode
                fresh.add(message.inode)
        if fresh:
            owners = _owners(fresh)
            for known in self.connections.values():
                if known.inode in owners:
                    known.pid, known.comm = owners[known.inode]
        gone = [cookie for cookie, known in self.connections.items() if known.last < now]
        for cookie in gone:
            if now - self.connections[cookie].last > FORGET_S:
                del self.connections[cookie]
        for port in [port for port, last in self.listeners.items() if now - last > FORGET_S]:
            del self.listeners[port]
        return len(gone)

    def ended(self, message: Message, mono_ns: int) -> Optional[Dict[str, Any]]:
        """Return the raw record of a destroyed socket, or None when it was no connection."""
        known = self.connections.pop(message.cookie, None)
        # Sockets that were never connected, listeners among them, have no remote port.
        if message.protocol != socket.IPPROTO_TCP or not message.dport or len(message.info) < 136:
            return None
        rtt, retrans = struct.unpack_from("=I", message.info, 68)[0], struct.unpack_from("=I", message.info, 100)[0]
        acked, received = struct.unpack_from("=QQ", message.info, 120)
        sent_known = len(message.info) >= 216  # since v4.19
        sent, resent = struct.unpack_from("=QQ", message.info, 200) if sent_known else (0, 0)
        role, fin_acked = self._judge(message, known, acked, sent - resent if sent_known else None)
        if not acked and not received and role == SERVER:
            return None  # a handshake nobody finished
        fin_received = fin_acked or (known is not None and known.state in (CLOSE_WAIT, LAST_ACK, CLOSING))
        return {
            "mono_ns": mono_ns,
            "open_ns": int(known.first * 1e9) if known else 0,
            "bytes_acked": acked,
            "bytes_received": received,
            "bytes_sent": sent,
            "bytes_retrans": resent,
            "netns": self.netns,
            "pid": known.pid if known else 0,
            "comm": known.comm if known else "",
            "retrans": retrans,
            "rtt_us": rtt,
            "error": None,
            "sport": message.sport,
            "dport": message.dport,
            "role": role,
            "established": int(bool(acked or received)),
            "fin_acked": int(fin_acked),
            "fin_received": int(bool(fin_received and received)),
            "sent_known": int(sent_known),
            "saddr": message.saddr.hex(),
            "daddr": message.daddr.hex(),
            "clock": "poll",
        }

    def _judge(
        self, message: Message, known: Optional[Connection], acked: int, payload: Optional[int]
    ) -> Tuple[Optional[int], bool]:
        """Return (role, our FIN was acknowledged). A client's SYN and either side's FIN count as a byte more each."""
        role = known.role if known and known.role else SERVER if message.sport in self.listeners else None
        if payload is None:  # before v4.19: no listener is taken for a client, and the end for an orderly one
            role = role or CLIENT
            return role, acked > (1 if role == CLIENT else 0)
        surplus = acked - payload
        if surplus >= 2:
            return CLIENT, True
        if role is None and surplus == 0 and acked:
            return SERVER, False
        return role, surplus == 1 and role != CLIENT


def _drain(notices: socket.socket) -> Tuple[List[Message], bool]:
    """Return (messages, overflowed): what is waiting, without waiting."""
    messages: List[Message] = []
    while len(messages) < 100000:
        try:
            data = notices.recv(1 << 16)
        except BlockingIOError:
            return messages, False
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                return messages, True
            raise
        messages += [Message(d) for kind, d in _netlink_messages(data) if kind == SOCK_DIAG_BY_FAMILY and len(d) >= 72]
    return messages, False


def run(context: Any) -> None:
    """Report connections until told to stop; raise OSError where the kernel or the scope does not allow it."""
    netns = os.stat("/proc/self/ns/net").st_ino
    scope = context.scope
    if scope["kind"] == "cgroup":
        raise OSError(errno.EOPNOTSUPP, "destroyed sockets do not name their cgroup: use a netns or host scope")
    if scope["kind"] == "netns" and scope["netns"] not in (0, netns):
        raise OSError(errno.EXDEV, "the scope is another network namespace than the agent's")
    watch = Watch(netns)
    with open_notices() as notices:
        watch.poll(time.monotonic())
        context.ready({"hooks": ["sock_diag:tcp_destroy", "sock_diag:dump"]})
        next_poll = 0.0
        stopping = False
        while not stopping:
            stopping = context.stopping(TICK_S)
            messages, overflowed = _drain(notices)
            for message in messages:
                raw = watch.ended(message, int(time.monotonic() * 1e9))
                if raw:
                    context.emit(raw)
            now = time.monotonic()
            if overflowed or now >= next_poll:
                gone = watch.poll(now)
                if overflowed:
                    context.lost(max(1, gone))
                took = time.monotonic() - now
                next_poll = now + max(POLL_S, took * POLL_SHARE)


def remove(_context: Any) -> None:
    """Undo nothing: it only listens."""
