"""Bring lab hosts up and down: network namespaces on a bridge, each with its own file systems and its own real sshd.

Every effect has its undo and every name starts with the lab's prefix, so that ``down`` also removes what an interrupted
run left behind. Addresses are of the benchmarking range 198.18.0.0/15 (RFC 2544) and never leave this machine.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from btf.fault import Fault
from fleet.lab.hosts import HOSTS, LabHost

_HERE = Path(__file__).parent
_SSHD_CONFIG = """\
Port 22
AddressFamily any
HostKey /run/lab/host_key
AuthorizedKeysFile /run/lab/authorized_keys
AuthenticationMethods publickey
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
PrintMotd no
MaxSessions 20
MaxStartups 50
"""


class LabImpossible(Fault):
    """This machine cannot hold lab hosts."""

    code = "COR-LAB-001"
    remedy = "Run as root on Linux with network namespaces, iproute2 and openssh-server (`make setup` installs them)."


@dataclass(frozen=True, slots=True)
class Lab:
    """A set of lab hosts. ``number`` (0–255) keeps several labs on one machine apart; ``folder`` holds its files."""

    folder: Path
    number: int = 77
    hosts: Sequence[LabHost] = HOSTS

    @property
    def bridge(self) -> str:
        """The bridge all hosts of this lab hang on."""
        return f"corolab{self.number}"

    @property
    def gateway(self) -> str:
        """This machine's address on the bridge."""
        return f"198.18.{self.number}.1"

    def address(self, host: LabHost) -> str:
        """The host's IPv4 address."""
        return f"198.18.{self.number}.{10 + self.hosts.index(host)}"

    def address6(self, host: LabHost) -> str:
        """The host's IPv6 address."""
        return f"fd00:198:18:{self.number:x}::{10 + self.hosts.index(host):x}"

    def namespace(self, host: LabHost) -> str:
        """The host's network namespace."""
        return f"{self.bridge}-{host.name}"

    def outside(self, host: LabHost) -> str:
        """The bridge's end of the host's cable."""
        return f"cl{self.number}v{self.hosts.index(host)}"

    def up(self, progress: Callable[[str], None] = lambda _line: None) -> Path:
        """Start every host and return the inventory file that describes them."""
        if os.geteuid() != 0:
            raise LabImpossible("lab hosts need root")
        for command in ("ip", "sshd", "ssh-keygen", "unshare", "nsenter"):
            if not _which(command):
                raise LabImpossible(f"{command} is not installed")
        self.down()
        try:
            return self._up(progress)
        except BaseException:
            self.down()  # half a lab is none
            raise

    def _up(self, progress: Callable[[str], None]) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        key = self.folder / "client_key"
        generate_key(key)
        _ip("link", "add", self.bridge, "type", "bridge")
        _ip("address", "add", f"{self.gateway}/24", "dev", self.bridge)
        _ip("-6", "address", "add", f"fd00:198:18:{self.number:x}::1/64", "dev", self.bridge, "nodad")
        _ip("link", "set", self.bridge, "up")
        known = []
        for host in self.hosts:
            progress(f"lab: starting {host.name} ({', '.join(_differences(host)) or 'plain'})")
            known.append(self._start(host, key))
        (self.folder / "known_hosts").write_text("".join(known))
        for host in self.hosts:
            _wait_for_port(self.address(host))
        inventory = self.folder / "hosts.toml"
        inventory.write_text(self._inventory(key))
        return inventory

    def down(self) -> None:
        """Stop and remove everything of this lab, also what an earlier run left; idempotent."""
        for pid_file in self.folder.glob("*.pid"):
            _kill(pid_file)
        # The outer ends first: those of a namespace that goes away linger a while, and would be in the next lab's way.
        for host in self.hosts:
            subprocess.run(["ip", "link", "delete", self.outside(host)], check=False, capture_output=True)
        for name in self.standing():
            pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout
            for pid in pids.split():
                _signal(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "delete", self.bridge], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def standing(self) -> list[str]:
        """Return the network namespaces of this lab that are there."""
        listing = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
        names = [line.split()[0] for line in listing.splitlines()]
        return [name for name in names if name.startswith(f"{self.bridge}-")]

    def command(self, host: LabHost, argv: Iterable[str]) -> list[str]:
        """Return *argv* wrapped to run in the host's network namespace (traffic of the tour and of tests)."""
        return ["nsenter", f"--net=/run/netns/{self.namespace(host)}", *argv]

    def _start(self, host: LabHost, key: Path) -> str:
        """Start one host and return its known_hosts line."""
        namespace = self.namespace(host)
        _ip("netns", "add", namespace)
        outside = self.outside(host)
        _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip("link", "set", outside, "master", self.bridge, "up")
        for arguments in (
            ("address", "add", f"{self.address(host)}/24", "dev", "eth0"),
            ("-6", "address", "add", f"{self.address6(host)}/64", "dev", "eth0", "nodad"),
            ("link", "set", "lo", "up"),
            ("link", "set", "eth0", "up"),
        ):
            _ip("-n", namespace, *arguments)
        files = self.folder / host.name
        files.mkdir()
        generate_key(files / "host_key")
        public = (files / "host_key.pub").read_text()
        if host.key_changed:
            generate_key(files / "former_key")
            public = (files / "former_key.pub").read_text()
        shutil.copy(key.with_suffix(".pub"), files / "authorized_keys")
        shutil.copy(_HERE / "silent.py", files / "silent.py")
        (files / "sshd_config").write_text(_SSHD_CONFIG)
        (files / "empty").touch(mode=0o644)
        argv = ["nsenter", f"--net=/run/netns/{namespace}"]
        argv += ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"]
        if host.bpf_errno:
            argv += [sys.executable, "-m", "fleet.lab.seccomp", "--bpf", host.bpf_errno, "--"]
        argv += ["/bin/sh", str(_HERE / "init.sh")]
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": str(_HERE.parent.parent),
            "LAB_NAME": host.name,
            "LAB_TRAITS": " ".join(host.traits),
            "LAB_FILES": str(files),
        }
        with (files / "log").open("wb") as log:
            process = subprocess.Popen(
                argv, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        (self.folder / f"{host.name}.pid").write_text(f"{process.pid}\n")
        return f"{self.address(host)} {' '.join(public.split()[:2])}\n"

    def _inventory(self, key: Path) -> str:
        known = self.folder / "known_hosts"
        rows = [
            f'\n[[host]]\nname = "{host.name}"\naddress = "{self.address(host)}"\nuser = "root"\n'
            f'key_file = "{key}"\nknown_hosts = "{known}"\n'
            f'addresses = ["{self.address(host)}", "{self.address6(host)}"]\ninterface = "eth0"\n'
            f'labels = {{ role = "{host.role}", lab = "{self.number}" }}\n'
            for host in self.hosts
        ]
        return "# Hosts of the lab, as `corollout hosts import` reads them.\n" + "".join(rows)


def _differences(host: LabHost) -> list[str]:
    words = [t for t in host.traits if t not in ("tracefs", "securityfs")]
    if host.bpf_errno:
        words.append(f"bpf() answers {host.bpf_errno}")
    if host.key_changed:
        words.append("host key changed")
    return words


def _which(command: str) -> str | None:
    return shutil.which(command, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabImpossible(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def generate_key(path: Path) -> None:
    """Write a new key pair to *path* and ``path.pub``."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "corollout-lab", "-f", str(path)], check=True)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _kill(pid_file: Path) -> None:
    """Kill the host's first process; the kernel then ends everything in its pid namespace."""
    try:
        pid = int(pid_file.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return
    if b"unshare" in command or b"nsenter" in command:
        _signal(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # started by another process, which reaps it
            os.waitpid(pid, 0)


def _wait_for_port(address: str, deadline_s: float = 15.0) -> None:
    end = time.monotonic() + deadline_s
    while True:
        try:
            socket.create_connection((address, 22), timeout=1).close()
        except OSError as error:
            if time.monotonic() > end:
                raise LabImpossible(f"the sshd at {address} did not start: {error}") from None
            time.sleep(0.1)
        else:
            return
