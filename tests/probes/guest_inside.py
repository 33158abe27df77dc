"""What the proof tests run inside a host guest: traffic of known sizes, a wire to a peer, packets over it. JSON out.

guest_inside.py converse            connections over loopback; what each end must report
guest_inside.py wire                a peer in a network namespace of its own; remote addresses on stdin
guest_inside.py arrived INSIDE      {"side", "rows"} on stdin; ids of what came; INSIDE: net_policy_inside.py
"""

import json
import socket
import subprocess
import sys
import time

# What is sent, what comes back, who closes first, and over which family.
EXCHANGES = (
    (1234, 5000, "client", "127.0.0.1"),
    (0, 0, "client", "127.0.0.1"),
    (70000, 0, "server", "127.0.0.1"),
    (300000, 400001, "client", "127.0.0.1"),
    (4321, 17, "client", "::1"),
    (1, 2, "server", "::1"),
)
STEP = 1 << 14  # less than any socket buffer: one thread can do both ends
SEEN_S = 1.5  # the fallback knows a server by its listener, which it must have seen in a poll
PEER = ["ip", "netns", "exec", "peer"]


def receive(connection, count):
    while count:
        count -= len(connection.recv(min(count, 1 << 16)))


def exchange(listener, up, down, first):
    near = socket.socket(listener.family)
    near.connect(listener.getsockname()[:2])
    far, _ = listener.accept()
    with near, far:
        for source, sink, size in ((near, far, up), (far, near, down)):
            for at in range(0, size, STEP):
                part = min(STEP, size - at)
                source.sendall(b"x" * part)
                receive(sink, part)
        truth = {"client": near.getsockname()[:2], "server": far.getsockname()[:2], "up": up, "down": down}
        ends = (near, far) if first == "client" else (far, near)
        time.sleep(0.5)  # long enough for the fallback to see it
        ends[0].shutdown(socket.SHUT_WR)
        ends[1].recv(1)
        ends[1].close()
        ends[0].recv(1)
    return truth


def converse():
    pairs = []
    for row in EXCHANGES:
        listener = socket.socket(socket.AF_INET6 if ":" in row[3] else socket.AF_INET)
        listener.bind((row[3], 0))
        listener.listen(1)
        pairs.append((listener, row))
    time.sleep(SEEN_S)
    return [exchange(listener, *row[:3]) for listener, row in pairs]


def wire():
    run = lambda *words: subprocess.run(words, check=True)  # noqa: E731  six commands that read as a list
    run("ip", "netns", "add", "peer")
    run("ip", "link", "add", "cable", "type", "veth", "peer", "name", "eth0", "netns", "peer")
    for enter, name, v4, v6 in (([], "cable", "10.83.0.1", "fd83::1"), (PEER, "eth0", "10.83.0.2", "fd83::2")):
        run(*enter, "ip", "address", "add", v4 + "/24", "dev", name)
        run(*enter, "ip", "-6", "address", "add", v6 + "/64", "dev", name, "nodad")
        run(*enter, "ip", "link", "set", name, "up")
    for address in json.load(sys.stdin):
        bits, nodad = ("/128", ["nodad"]) if ":" in address else ("/32", [])
        run(*PEER, "ip", "address", "add", address + bits, "dev", "eth0", *nodad)
        run("ip", "route", "add", address + bits, "dev", "cable")
    return {"ready": True}


def arrived(inside):
    asked = json.load(sys.stdin)
    sender, receiver = (PEER, []) if asked["side"] == "ingress" else ([], PEER)
    command = [*receiver, "python3", inside, "receive", "1.0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()  # ready
        rows = json.dumps(asked["rows"])
        subprocess.run(
            [*sender, "python3", inside, "send"], input=rows, check=True, stdout=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
        process.stdin.close()
        return json.loads(process.stdout.readline())["ids"]


if __name__ == "__main__":
    answer = {"converse": converse, "wire": wire, "arrived": arrived}[sys.argv[1]](*sys.argv[2:])
    sys.stdout.write(json.dumps(answer) + "\n")
