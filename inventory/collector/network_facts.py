"""The network as programs meet it: interfaces, drivers, addresses, packet filter back end, what fallbacks need.

Reads through netlink and sockets of its own; adds no address, rule or route, and loads no packet filter module.
"""

import array
import ctypes
import errno
import os
import select
import socket
import struct
from typing import Dict, List, Tuple

from inventory.collector import netlink
from inventory.collector.document import BLOCKED, NO, UNKNOWN, YES, Report, read_text

_GETLINK, _GETADDR = 18, 22
_XDP_MODES = {1: "native", 2: "generic", 3: "offload", 4: "multi"}
_ETHTOOL, _GET_DRIVER = 0x8946, 3
_IPT_INFO = 64  # getsockopt: IPT_SO_GET_INFO, IP6T_SO_GET_INFO
_RULE_DUMP = 10 << 8 | 7  # nf_tables, NFT_MSG_GETRULE


def collect(report: Report) -> None:
    """Add ``net.*``, ``netfilter.*`` and ``probe.*``."""
    _interfaces(report)
    _namespace(report)
    _backend(report)
    _rules(report)
    _af_packet(report)
    _sock_diag_destroy(report)


def _interfaces(report: Report) -> None:
    source = "rtnetlink"
    try:
        with netlink.Netlink(netlink.ROUTE) as route:
            links = route.ask(_GETLINK, netlink.DUMP, struct.pack("=BxHiII", 0, 0, 0, 0, 0))
            addresses = route.ask(_GETADDR, netlink.DUMP, struct.pack("=BBBBI", 0, 0, 0, 0, 0))
    except OSError as error:
        report.failed("net.interfaces", source, error)
        return
    by_index: Dict[int, List[str]] = {}
    for _, body in addresses:
        family, _, _, _, index = struct.unpack_from("=BBBBI", body)
        fields = netlink.attributes(body[8:])
        raw = fields.get(2) or fields.get(1)  # IFA_LOCAL, else IFA_ADDRESS
        if raw and family in (socket.AF_INET, socket.AF_INET6):
            by_index.setdefault(index, []).append(socket.inet_ntop(family, raw))
    interfaces = []
    for _, body in links:
        index = struct.unpack_from("=BxHiII", body)[2]
        fields = netlink.attributes(body[16:])
        name = netlink.text(fields.get(3, b""))
        kind = netlink.attributes(fields.get(18, b"")).get(1)  # IFLA_LINKINFO, IFLA_INFO_KIND
        xdp = bytearray(netlink.attributes(fields.get(43, b"")).get(2, b"\0"))[0]  # IFLA_XDP, IFLA_XDP_ATTACHED
        interfaces.append(
            {
                "name": name,
                "driver": _driver(name),
                "mtu": struct.unpack_from("=I", fields[4])[0] if 4 in fields else 0,
                "kind": netlink.text(kind) if kind else "",
                "xdp": _XDP_MODES.get(xdp),
                "addresses": sorted(by_index.get(index, [])),
            }
        )
    report.yes("net.interfaces", sorted(interfaces, key=lambda interface: interface["name"]), source)


def _driver(name: str) -> str:
    """Return the driver by ethtool, which also knows virtual interfaces; empty when there is none."""
    import fcntl

    answer = array.array("B", struct.pack("=I", _GET_DRIVER) + b"\0" * 256)
    address, _ = answer.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            fcntl.ioctl(control.fileno(), _ETHTOOL, struct.pack("16sP", name.encode()[:15], address))
        except OSError:
            return ""
    return netlink.text(answer.tobytes()[4:36])


def _namespace(report: Report) -> None:
    path = "/proc/self/ns/net"
    try:
        report.yes("net.namespace", os.stat(path).st_ino, path)
    except OSError as error:
        report.failed("net.namespace", path, error)


def _backend(report: Report) -> None:
    """Tell which back end the iptables command drives: since 1.8 it says so, before there was only legacy."""
    said = report.value("tool.iptables")
    if not said:
        fact = report.fact("tool.iptables")
        report.add("netfilter.backend", fact.get("answer", UNKNOWN), None, "iptables -V", fact.get("raw"))
        return
    report.yes("netfilter.backend", "nft" if "nf_tables" in said else "legacy", "iptables -V", said)


def _rules(report: Report) -> None:
    """Tell which back ends hold rules, without loading a module by asking."""
    try:
        rules = {"legacy": _legacy_rules(), "nft": _nft_rules(report)}
    except OSError as error:
        report.failed("netfilter.rules", "netfilter", error)
        if report.facts["netfilter.rules"]["answer"] == NO:
            report.facts["netfilter.rules"]["answer"] = UNKNOWN
        return
    report.yes("netfilter.rules", rules, "getsockopt, nfnetlink")


def _legacy_rules() -> bool:
    """A table with more entries than its built-in chains' policies and the closing error entry has rules."""
    libc = ctypes.CDLL(None, use_errno=True)
    for family, level, listing in (
        (socket.AF_INET, socket.SOL_IP, "/proc/net/ip_tables_names"),
        (socket.AF_INET6, 41, "/proc/net/ip6_tables_names"),
    ):
        try:
            tables = read_text(listing).split()
        except OSError as error:
            if error.errno == errno.ENOENT:
                continue
            raise
        for table in tables:
            info = ctypes.create_string_buffer(struct.pack("=32s13I", table.encode(), *[0] * 13))
            size = ctypes.c_uint(84)
            with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
                if libc.getsockopt(raw.fileno(), level, _IPT_INFO, info, ctypes.byref(size)):
                    raise OSError(ctypes.get_errno(), "getsockopt")
            fields = struct.unpack_from("=32s13I", info.raw)
            if fields[12] > bin(fields[1]).count("1") + 1:
                return True
    return False


def _nft_rules(report: Report) -> bool:
    built_in = (report.value("kconfig") or {}).get("CONFIG_NF_TABLES") == "y"
    if not (built_in or os.path.isdir("/sys/module/nf_tables")):
        return False
    with netlink.Netlink(netlink.NETFILTER) as tables:
        return bool(tables.ask(_RULE_DUMP, netlink.DUMP, struct.pack("=BBH", 0, 0, 0)))


def _af_packet(report: Report) -> None:
    try:
        # Protocol 0 receives nothing: opened only to see whether one may.
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    except OSError as error:
        absent = error.errno in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT)
        answer = NO if absent else BLOCKED if error.errno in (errno.EPERM, errno.EACCES) else UNKNOWN
        report.add("probe.af_packet", answer, None, "socket(AF_PACKET)", None, error.errno)
        return
    report.yes("probe.af_packet", None, "socket(AF_PACKET)")


def _sock_diag_destroy(report: Report) -> None:
    """Close a connection of our own and wait for its message: on some old kernels only the bind succeeds."""
    name, source = "probe.sock_diag_destroy", "SKNLGRP_INET_TCP_DESTROY"
    try:
        listener = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netlink.SOCK_DIAG)
        try:
            listener.bind((0, 1))  # group 1
        except OSError:
            listener.close()
            raise
    except OSError as error:
        absent = error.errno in (errno.EPROTONOSUPPORT, errno.ENOENT)
        answer = NO if absent else BLOCKED if error.errno in (errno.EPERM, errno.EACCES) else UNKNOWN
        report.add(name, answer, None, source, "bind", error.errno)
        return
    try:
        ports = _short_connection()
    except OSError as error:
        listener.close()
        report.add(name, UNKNOWN, None, source, "no connection of our own to watch", error.errno)
        return
    with listener:
        while select.select([listener], [], [], 0.5)[0]:
            data = listener.recv(65536)
            # nlmsghdr (16), inet_diag_msg: family, state, timer, retrans, then both ports in network order
            if len(data) >= 24 and struct.unpack_from("!HH", data, 20)[0] in ports:
                report.add(name, YES, None, source)
                return
    report.no(name, source, "bound, but no message came for a connection that ended")


def _short_connection() -> Tuple[int, int]:
    """Make a loopback connection, end it and return its two ports."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            client.settimeout(1)
            client.connect(server.getsockname())
            accepted, _ = server.accept()
            accepted.close()
            # A reset ends the socket at once instead of leaving it in TIME_WAIT.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return server.getsockname()[1], client.getsockname()[1]
