"""Host guests: full distributions on their own kernels under emulation, which join a fleet as real SSH hosts.

    lab = GuestLab(folder, cache=…)
    inventory = lab.up(progress)        # fetch, build, boot, wait until each answers
    lab.down()                          # also what an interrupted run left

Each has its kernel (``fleet.lab.kernels``), the root file system of its distribution (``fleet.lab.guest_system``), a
profile, a network of its own behind QEMU, and one port of this machine's loopback that leads to its sshd. What a guest
writes is gone when it ends, which it does by itself after ``life_s``. Running them needs no root.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import socket
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from btf.fault import EXIT_USAGE, Fault, printable
from fleet.lab import machine
from fleet.lab.guest_system import SYSTEMS, System, build
from fleet.lab.initramfs import BUSYBOX, Entry, GuestUnbuildable, cpio, plain_file
from fleet.lab.kernel_store import Kernel, Origin
from fleet.lab.kernels import fetch
from fleet.lab.modules import load_order
from fleet.lab.namespaces import generate_key
from fleet.lab.profiles import PROFILES, Profile, ProfileUnknown, profile

_HERE = Path(__file__).parent
_MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "ext4")
_LOOPBACK = "127.0.0.1"
_BOOT_S = 240.0  # two busy cores shared by three guests still stay well below
_LIFE_S = 4 * 3600
_CONSOLE_TAIL = 600
_SSHD_CONFIG = b"""\
HostKey /etc/ssh/host_key
AuthenticationMethods publickey
PermitRootLogin prohibit-password
UsePAM no
UseDNS no
PidFile none
PrintMotd no
MaxSessions 20
MaxStartups 50
"""


class GuestUnknown(Fault):
    """No guest of that name."""

    code = "COR-LAB-041"
    exit = EXIT_USAGE
    remedy = f"A guest is {', '.join(SYSTEMS)}, or one of them with a profile, as in 5.10:no-btf."


class GuestLost(Fault):
    """A guest did not come up."""

    code = "COR-LAB-042"
    remedy = "On a busy machine start fewer at once; the guest's console says more, in the lab's folder."


@dataclass(frozen=True, slots=True)
class Guest:
    """One guest: a row of ``SYSTEMS`` and a profile that a whole host can have."""

    series: str
    profile: Profile = PROFILES["plain"]

    @property
    def name(self) -> str:
        """The host's name in the inventory."""
        return f"guest-{self.series}" + ("" if self.profile.name == "plain" else f"-{self.profile.name}")

    @property
    def system(self) -> System:
        """What it runs."""
        return SYSTEMS[self.series]


# Without a name: those that are fetched, and boot, in seconds.
GUESTS = tuple(Guest(series) for series, row in SYSTEMS.items() if not row.disk and not row.init)


def guest(text: str) -> Guest:
    """Parse ``SERIES[:PROFILE]``. Raises GuestUnknown."""
    series, _, wanted = text.partition(":")
    try:
        made = Guest(series, profile(wanted or "plain"))
    except ProfileUnknown as error:
        raise GuestUnknown(error.message) from None
    if series not in SYSTEMS:
        raise GuestUnknown(f"no guest runs {series!r}")
    if made.profile.user or made.profile.caps is not None:
        raise GuestUnknown(f"{wanted} is a profile of processes, not of a host")
    return made


@dataclass(frozen=True, slots=True)
class GuestLab:
    """A set of guests. ``folder`` holds what is theirs, ``cache`` the kernels and root file systems of all labs."""

    folder: Path
    cache: Path
    guests: Sequence[Guest] = GUESTS
    origin: Origin = field(default_factory=Origin)
    life_s: int = _LIFE_S

    def up(self, progress: Callable[[str], None] = lambda _line: None) -> Path:
        """Start every guest and return the inventory file that describes them; half a lab is none."""
        self.down()
        origin = Origin(self.origin.mirror, self.origin.keyring, progress)
        parts = []
        for one in self.guests:
            kernel = fetch(one.system.kernel, cache=self.cache, origin=origin)
            of_disk = SYSTEMS[one.system.disk or one.series]
            around = fetch(of_disk.kernel, cache=self.cache, origin=origin)
            parts.append((one, kernel, build(of_disk, around, cache=self.cache, origin=origin)))
        try:
            return self._up(parts, progress)
        except BaseException:
            self._end()  # its consoles stay, to be read
            raise

    def _up(self, parts: Sequence[tuple[Guest, Kernel, Path]], progress: Callable[[str], None]) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        generate_key(self.folder / "client_key")
        began = time.monotonic()
        ports = _free_ports(len(parts))
        for number, ((one, kernel, image), port) in enumerate(zip(parts, ports, strict=True)):
            progress(f"guest: starting {one.name}, {kernel.release}")
            self._start(one, kernel, image, number, port)
        known = []
        for one, port in zip(self.guests, ports, strict=True):
            self._wait(one, port, began + _BOOT_S)
            progress(f"guest: {one.name} answers after {time.monotonic() - began:.0f} s")
            known.append(f"[{_LOOPBACK}]:{port} {_public(self.folder / one.name / 'host_key')}\n")
        (self.folder / "known_hosts").write_text("".join(known))
        inventory = self.folder / "hosts.toml"
        inventory.write_text(self._inventory(ports))
        return inventory

    def down(self) -> None:
        """End every guest of this lab and remove its files; idempotent."""
        self._end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self) -> None:
        machine.end(self.folder)

    def standing(self) -> list[str]:
        """Return the names of the guests that run, also those that another process started."""
        paths = [machine.initramfs_of(pid) for pid in machine.standing(self.folder)]
        return sorted(path.parent.name for path in paths if path is not None)

    def address(self, one: Guest) -> str:
        """The guest's address in its own network, which only the guest sees."""
        return _network(self.guests.index(one), 15)

    def _start(self, one: Guest, kernel: Kernel, image: Path, number: int, port: int) -> None:
        files = self.folder / one.name
        files.mkdir()
        generate_key(files / "host_key")
        (files / "initramfs").write_bytes(cpio(self._entries(one, kernel, number, port)))
        network = f"user,id=net,restrict=on,net={_network(number, 0)}/24,host={_network(number, 2)}"
        network += f",hostfwd=tcp:{_LOOPBACK}:{port}-{_network(number, 15)}:{port}"
        argv = machine.command(
            kernel,
            files / "initramfs",
            [files / "console"],
            parameters=("net.ifnames=0", *one.profile.parameters),
            memory_mib=one.system.memory_mib,
        )
        if one.system.init:
            argv.remove("-no-reboot")  # it reboots as a host does, and finds its disk as it left it
        argv += ["-drive", f"file={image},format=raw,if=virtio,snapshot=on"]  # what it writes is in a nameless file
        argv += ["-netdev", network, "-device", "virtio-net-pci,netdev=net,romfile="]
        machine.start(argv, files / "trouble")

    def _entries(self, one: Guest, kernel: Kernel, number: int, port: int) -> Mapping[str, Entry]:
        """The initramfs: what mounts the root file system, and the files that make it this guest's."""
        busybox = shutil.which(BUSYBOX)
        if busybox is None:
            raise GuestUnbuildable("no static busybox is on this machine")
        modules = load_order(kernel.modules, _MODULES)
        told = {
            "NAME": one.name,
            "PORT": str(port),
            "ADDRESS": _network(number, 15),
            "GATEWAY": _network(number, 2),
            "LIFE_S": str(self.life_s),
            "HIDE_BTF": "yes" if one.profile.hide_btf else "",
            "CGROUP": one.profile.cgroup,
            "MOUNTS": " ".join(one.profile.mounts),
            "SYSCTLS": " ".join(f"{name}={value}" for name, value in one.profile.sysctls.items()),
            "INIT": one.system.init,
        }
        host_key = self.folder / one.name / "host_key"
        private = {
            "files/etc/ssh/host_key": plain_file(host_key.read_bytes(), mode=0o600),
            "files/root/.ssh/authorized_keys": plain_file((self.folder / "client_key.pub").read_bytes(), mode=0o600),
        }
        return {
            **{name: Entry(stat.S_IFDIR | 0o755) for name in ("dev", "root", "files")},
            **{name: Entry(stat.S_IFDIR | 0o700) for name in ("files/root", "files/root/.ssh")},
            "init": plain_file((_HERE / "guest_early.sh").read_bytes(), mode=0o755),
            "bin/busybox": plain_file(Path(busybox).read_bytes(), mode=0o755),
            **{f"modules/{name}.ko": plain_file(data) for name, data in modules},
            "modules/order": plain_file(" ".join(f"{name}.ko" for name, _ in modules).encode()),
            "files/etc/corollout/init.sh": plain_file((_HERE / "guest_init.sh").read_bytes()),
            "files/etc/corollout/guest": plain_file(
                "".join(f"{name}={shlex.quote(value)}\n" for name, value in told.items()).encode()
            ),
            "files/etc/hostname": plain_file(f"{one.name}\n".encode()),
            "files/etc/ssh/sshd_config": plain_file(_SSHD_CONFIG),
            **private,
        }

    def _wait(self, one: Guest, port: int, until: float) -> None:
        """Wait for the greeting of the guest's sshd: QEMU accepts connections long before anybody listens."""
        files = self.folder / one.name
        while not _greets(port):
            gone = one.name not in self.standing()
            if gone or time.monotonic() > until:
                said = _tail(files / "trouble") + _tail(files / "console")
                why = "ended" if gone else f"did not answer within {_BOOT_S:g} s"
                raise GuestLost(f"{one.name} {why}; its last words: {printable(said, limit=_CONSOLE_TAIL)}")
            time.sleep(0.2)

    def _inventory(self, ports: Sequence[int]) -> str:
        key, known = self.folder.absolute() / "client_key", self.folder.absolute() / "known_hosts"
        rows = [
            f'\n[[host]]\nname = "{one.name}"\naddress = "{_LOOPBACK}"\nport = {port}\nuser = "root"\n'
            f'key_file = "{key}"\nknown_hosts = "{known}"\n'
            f'addresses = ["{self.address(one)}"]\ninterface = "eth0"\n'
            f'labels = {{ role = "web", lab = "guests", kernel = "{one.series}" }}\n'
            for one, port in zip(self.guests, ports, strict=True)
        ]
        return "# Host guests, as `corollout hosts import` reads them.\n" + "".join(rows)


def _network(number: int, host: int) -> str:
    """An address of the benchmarking range 198.18.0.0/15 (RFC 2544), of the half that the namespaced lab leaves."""
    return f"198.19.{number}.{host}"


def _free_ports(count: int) -> list[int]:
    """Ports that are free now; that another process takes one before QEMU does is told by QEMU."""
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(socket.create_server((_LOOPBACK, 0))) for _ in range(count)]
        return [int(one.getsockname()[1]) for one in made]


def _greets(port: int) -> bool:
    try:
        with socket.create_connection((_LOOPBACK, port), timeout=5) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _public(key: Path) -> str:
    return " ".join(key.with_suffix(".pub").read_text().split()[:2])


def _tail(path: Path) -> str:
    try:
        return path.read_bytes()[-_CONSOLE_TAIL:].decode(errors="replace")
    except OSError:
        return ""
