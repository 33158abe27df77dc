"""The tour of ``make run``: eight lab hosts, and the whole line from facts to report on real kernels and real SSH.

Each stop is a command that anyone can type; the tour types it, shows it, and checks nothing that the command does not
say itself. Hosts are removed at the end and on Ctrl-C; record and report stay.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from btf.fault import EXIT_INTERRUPTED, EXIT_UNREACHABLE, Fault
from fleet.lab.namespaces import Lab

HOME = Path("run").absolute()
POLICY = Path(__file__).parent / "policy.yaml"
_TRAFFIC = (sys.executable, "-m", "fleet.lab.traffic")
PORT_ALLOWED, PORT_DENIED = 8080, 9090


class TourBroken(Fault):
    """A stop of the tour did not end as it should."""

    code = "COR-LAB-002"
    remedy = "Its output is above; `make clean` and `make run` start over."


def say(text: str) -> None:
    """Write one line of the guide."""
    sys.stdout.write(f"\n\x1b[1m# {text}\x1b[0m\n" if sys.stdout.isatty() else f"\n# {text}\n")
    sys.stdout.flush()


def _line(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def corollout(*arguments: str, accept: Sequence[int] = (0,), show: bool = True) -> str:
    """Type one command, show it and what it says; returns its stdout. An exit code not in *accept* ends the tour."""
    argv = [sys.executable, "-c", "from fleet.cli.main import run; run()", "--home", str(HOME), *arguments]
    if show:
        sys.stdout.write(f"$ corollout {' '.join(arguments)}\n")
        sys.stdout.flush()
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
    if show:
        sys.stdout.write(done.stdout)
        sys.stdout.flush()
    if done.returncode not in accept:
        raise TourBroken(f"corollout {' '.join(arguments)} ended with {done.returncode}")
    return done.stdout


@contextmanager
def lab_hosts(lab: Lab) -> Iterator[Path]:
    """The lab, up; taken down however the tour ends."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield lab.up(_line)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # cleaning up is not interrupted
        lab.down()
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def servers(lab: Lab, names: Sequence[str]) -> Iterator[None]:
    """Servers on both ports in the hosts *names*."""
    running = []
    try:
        for host in (h for h in lab.hosts if h.name in names):
            argv = lab.command(host, [*_TRAFFIC, "serve", str(PORT_ALLOWED), str(PORT_DENIED)])
            process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
            running.append(process)
            assert process.stdout is not None
            process.stdout.readline()  # "ready"
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def ask(lab: Lab, client: str, server: str, port: int, sent: int, received: int) -> dict[str, object]:
    """One connection from *client* to *server*; returns the client's own account of it."""
    hosts = {h.name: h for h in lab.hosts}
    argv = [*_TRAFFIC, "ask", lab.address(hosts[server]), str(port), str(sent), str(received)]
    done = subprocess.run(lab.command(hosts[client], argv), capture_output=True, text=True, check=True)
    truth: dict[str, object] = json.loads(done.stdout)
    return truth


def tour(lab: Lab) -> None:
    """Walk the whole line once."""
    web_hosts = ("plain-1", "no-btf", "seccomp-eperm")
    with lab_hosts(lab) as inventory:
        say("A home, and eight hosts that differ as real ones do")
        corollout("init")
        corollout("hosts", "import", str(inventory))
        say("What can each host really do? Asked over SSH, by evidence, not by version")
        corollout("hosts", "scan", "--timeout", "4", accept=(EXIT_UNREACHABLE,))
        say("Why does a host get what it gets?")
        corollout("explain", "seccomp-eperm", "tcp-flow")
        say("Trace every TCP connection: one canary per kernel build and variant, then the rest")
        _roll_out("tcp-flow", "--scope", "netns")
        say("Allow port 8080 from clients, deny the rest: the same policy as tc programs and as iptables + ipset")
        _roll_out("net-policy", "--policy", str(POLICY), "--controller", f"{lab.gateway}/32")
        say("Traffic between hosts is policed and traced")
        with servers(lab, web_hosts):
            _traffic(lab, web_hosts)
        time.sleep(2.5)  # the fallback polls; records are written at the end of a connection
        corollout("records", "plain-1", "tcp-flow", "--limit", "8")
        corollout("records", "seccomp-enosys", "tcp-flow", "--limit", "8")
        say("What runs, read back from the hosts' kernels: cost, losses, counters")
        corollout("status", accept=(0, EXIT_UNREACHABLE))
        say("Roll one back, widest wave first")
        rollouts = json.loads(corollout("rollout", "list", "-o", "json", show=False))["rollouts"]
        tracing = next(r["id"] for r in rollouts if r["program"] == "tcp-flow")
        corollout("rollout", "rollback", tracing, "--yes")
        corollout("rollout", "list")
        say("The report")
        corollout("report")
    _summary()


def _roll_out(program: str, *options: str) -> None:
    quick = ("--waves", "100", "--canary-bake", "8", "--bake", "4")
    corollout("plan", program, *options, *quick)
    plans = json.loads(corollout("rollout", "plans", "-o", "json", show=False))["plans"]
    corollout("rollout", "start", plans[0]["id"], "--yes")


def _traffic(lab: Lab, web_hosts: Sequence[str]) -> None:
    for client in ("plain-2", "seccomp-enosys"):
        for server in web_hosts:
            for port in (PORT_ALLOWED, PORT_DENIED):
                truth = ask(lab, client, server, port, 1234, 5000)
                end = "answered" if truth["ok"] else f"denied ({truth['error']})"
                sys.stdout.write(f"  {client:<16}→ {server:<16}port {port}: {end}\n")
                sys.stdout.flush()


def _summary() -> None:
    say("Done; the hosts are gone, what was learned stays")
    rows = (
        ("record", HOME / "fleet.db"),
        ("report", HOME / "reports" / "index.html"),
        ("console", f"{Path(sys.executable).parent / 'corollout'} --home {HOME} console"),
    )
    for name, value in rows:
        sys.stdout.write(f"  {name:<9}{value}\n")


def main() -> int:
    """Run the tour; a clean home each time, so that what it shows is this machine's truth of now."""
    begin = time.monotonic()
    lab = Lab(HOME / "lab", 77)
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    try:
        lab.down()
        shutil.rmtree(HOME, ignore_errors=True)
        tour(lab)
    except Fault as fault:
        sys.stderr.write(f"{fault.code}: {fault.message}\n  → {fault.advice}\n")
        return fault.exit
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the lab is down\n")
        return EXIT_INTERRUPTED
    sys.stdout.write(f"  took     {time.monotonic() - begin:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
