"""What the net-policy tests run inside a network namespace: a variant, a sender, a receiver. Speaks JSON lines.

inside.py hold VARIANT FOLDER      config on the first line of stdin; then the child protocol on stdout
inside.py send                     packets on stdin; "sent" on stdout
inside.py receive SECONDS          "ready", then the ids of the packets that came
"""

import array
import errno
import importlib.util
import json
import select
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "sctp": 132}
IPV6_CHECKSUM = 7
PIN = "/sys/fs/bpf/net-policy"


def module(folder: Path, name: str):
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def say(**event) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def number(protocol: str, family: int) -> int:
    return 58 if protocol == "icmp" and family == 6 else PROTOCOLS[protocol]


def checksum(data: bytes) -> int:
    words = array.array("H", data + bytes(len(data) % 2))
    words.byteswap() if sys.byteorder == "little" else None
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def body(row: dict) -> bytes:
    """The first packet of a flow; its id is where the receiver finds it."""
    sport, dport, mark = row.get("sport", 0), row.get("port") or 0, row["id"]
    if row["protocol"] == "udp":
        return struct.pack(">HHHHI", sport, dport, 12, 0, mark)
    if row["protocol"] == "tcp":
        flags = row.get("flags", 2)
        return struct.pack(">HHIIBBHHH", sport, dport, mark, 0, 5 << 4, flags, 1024, 0, 0)
    if row["protocol"] == "sctp":
        return struct.pack(">HHII", sport, dport, mark, 0) + struct.pack(">BBHIIHHI", 1, 0, 20, mark, 65536, 1, 1, mark)
    request = 128 if ":" in row["to"] else 8
    head = struct.pack(">BBHHHI", request, 0, 0, mark & 0xFFFF, 0, mark)
    return head if ":" in row["to"] else head[:2] + struct.pack(">H", checksum(head)) + head[4:]


def mark_of(protocol: int, data: bytes):
    at = {1: 8, 58: 8, 6: 4, 17: 8, 132: 4}[protocol]
    kind_ok = protocol not in (1, 58) or data[:1] in (b"\x08", b"\x80")
    return struct.unpack_from(">I", data, at)[0] if kind_ok and len(data) >= at + 4 else None


def send() -> None:
    links = {}
    for row in json.load(sys.stdin):
        family = 6 if ":" in row["to"] else 4
        protocol = number(row["protocol"], family)
        key = (family, protocol, row["from"])
        if key not in links:
            kind = socket.AF_INET6 if family == 6 else socket.AF_INET
            links[key] = socket.socket(kind, socket.SOCK_RAW, protocol)
            links[key].bind((row["from"], 0))
            if family == 6 and protocol in (6, 17):
                links[key].setsockopt(socket.IPPROTO_IPV6, IPV6_CHECKSUM, 16 if protocol == 6 else 6)
        try:
            links[key].sendto(body(row), (row["to"], 0))
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOBUFS):  # what drops on the way out says so to the sender
                raise
    say(event="sent")


def receive(seconds: float) -> None:
    links = {}
    for family, kind in ((4, socket.AF_INET), (6, socket.AF_INET6)):
        for protocol in sorted({number(p, family) for p in PROTOCOLS}):
            link = socket.socket(kind, socket.SOCK_RAW, protocol)
            link.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE
            link.setblocking(False)
            links[link] = (family, protocol)
    say(event="ready")
    got = set()
    quiet = None
    while True:
        readable = select.select([*links, *([] if quiet else [sys.stdin])], [], [], seconds if quiet else None)[0]
        if sys.stdin in readable:
            quiet = True  # all was sent
            continue
        if not readable:
            break
        for link in readable:
            family, protocol = links[link]
            data = link.recv(4096)
            mark = mark_of(protocol, data[(data[0] & 15) * 4 :] if family == 4 else data)
            if mark is not None:
                got.add(mark)
    say(event="received", ids=sorted(got))


class Context:
    """The agent's side of a fallback, as small as it can be."""

    def __init__(self, config: dict) -> None:
        self.config = config
        self.scope = {"kind": "host", "netns": 0, "cgroup": 0}
        self.host, self.program, self.tag = "h", "net-policy", "corollout:net-policy:1"
        self.directory = tempfile.gettempdir()
        self.asked = False

    def ready(self, details) -> None:
        say(event="ready", **details)

    def stopping(self, timeout_s: float) -> bool:
        if select.select([sys.stdin], [], [], timeout_s)[0]:
            self.asked = sys.stdin.readline().startswith("dump")
            return not self.asked
        return False

    def emit(self, raw) -> None:
        say(event="record", data=raw)

    def lost(self, count) -> None:
        say(event="lost", count=count)

    def counters(self, rows) -> None:
        say(event="fresh" if self.asked else "counters", rows=rows)
        self.asked = False


def hold(variant: str, folder: Path) -> None:
    config = json.loads(sys.stdin.readline())
    adapter = module(folder, "adapter")
    context = Context(config)
    if variant == "fallback":
        fallback = module(folder, "fallback")
        fallback.COUNT_EVERY_S = 0.2
        fallback.run(context)
    elif variant == "core":
        wanted = adapter.core_arguments(config, context.scope)
        with tempfile.TemporaryDirectory() as scratch:
            command = [str(folder.parents[1] / "runner" / "bpfrun"), "hold", str(folder / "core.bpf.o")]
            command += ["--record", "net_policy_event", "--keep", "--pin", PIN]
            for text in wanted["set"]:
                command += ["--set", text]
            for name, rows in wanted["fill"].items():
                path = Path(scratch) / name
                path.write_text("".join(f"{k.hex()} {v.hex()}\n" for k, v in rows))
                command += ["--fill", f"{name}={path}"]
            for text in wanted["attach"]:
                command += ["--attach", text]
            sys.exit(subprocess.run(command, check=False).returncode)
    else:
        from bcc import BPF

        bpf = BPF(text=(folder / "legacy.bcc.c").read_text())
        adapter.bcc_setup(bpf, config, context.scope, context.tag)
        say(event="ready")
        while sys.stdin.readline().startswith("dump"):
            table = bpf["counters"]
            rows = [[bytes(k).hex(), [bytes(c).hex() for c in leaf]] for k, leaf in table.items()]
            say(event="map", map="counters", entries=rows)


def remove(variant: str, folder: Path) -> None:
    config = json.loads(sys.stdin.readline())
    adapter = module(folder, "adapter")
    context = Context(config)
    if variant == "fallback":
        module(folder, "fallback").remove(context)
    elif variant == "bcc":
        adapter.bcc_cleanup(config, context.scope, context.tag)
    else:
        words = [str(folder.parents[1] / "runner" / "bpfrun"), "detach", "--pin", PIN]
        for text in adapter.core_arguments(config, context.scope)["attach"]:
            words += ["--attach", text]
        sys.exit(subprocess.run(words, check=False).returncode)


if __name__ == "__main__":
    verb = sys.argv[1]
    if verb == "send":
        send()
    elif verb == "receive":
        receive(float(sys.argv[2]))
    else:
        {"hold": hold, "remove": remove}[verb](sys.argv[2], Path(sys.argv[3]))
