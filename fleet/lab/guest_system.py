"""Root file systems of host guests: a distribution installed package by package, made into a disk image once and kept.

In the cache, ``guests/NAME_RELEASE_RECIPE.ext4``, where RECIPE is a digest of what is installed and of how; an image
appears whole or not at all, and takes the place of the system's former one. Building needs root, booting does not.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from btf.fault import Fault, printable
from fleet.lab.apt import Apt, Package, PackageUnknown
from fleet.lab.debian_kernels import apt_of, wanted
from fleet.lab.kernel_store import Kernel, Origin, scratch_folder

# What a host of a fleet has: a way in, a Python for the agent, what the fallbacks of networking programs use.
PACKAGES = ("openssh-server", "python3", "kmod", "iproute2", "iptables", "ipset")
_LEFT_OUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*")
_RECIPE = 1  # to be raised when images must be built again although what is installed is the same
_FREE_BYTES = 1 << 30  # room for what a guest writes; the file is sparse
# No journal: it starts from the same image every time. The others are newer than 5.10 or only cost time.
_FEATURES = "^has_journal,^metadata_csum,^orphan_file"


class SystemUnbuildable(Fault):
    """The root file system of a guest could not be made."""

    code = "COR-LAB-040"
    remedy = "Run as root on Debian with mmdebstrap and e2fsprogs (`make setup` installs them), and with 4 GB to spare."


@dataclass(frozen=True, slots=True)
class System:
    """What one guest runs: ``kernel`` by name, ``packages`` beside those of every guest, headers of that kernel?

    With ``disk`` it boots the root file system of that other row, whose modules lie idle: its own kernel has none.
    ``init`` is the init system that takes over once the guest is made; without one the guest's own script goes on,
    and the machine ends where a host would reboot.
    """

    kernel: str
    packages: tuple[str, ...] = ()
    headers: bool = False
    memory_mib: int = 512
    disk: str = ""
    init: str = ""

    @property
    def suite(self) -> str:
        """The distribution's name."""
        return wanted(self.kernel).suite

    @property
    def name(self) -> str:
        """What its images are called by: two systems of one suite are kept side by side."""
        return f"{self.suite}-{Path(self.init).name}" if self.init else self.suite


# The series of a kernel → the system around it. The oldest compiles BCC builds: LLVM needs the memory.
SYSTEMS: Mapping[str, System] = {
    "5.10": System("debian:5.10", ("python3-bpfcc",), headers=True, memory_mib=1024),
    "6.1": System("debian:6.1"),
    "6.12": System("debian:6.12"),
    "no-bpf": System("small:no-bpf", disk="6.12"),
    "no-btf": System("small:no-btf", disk="6.12"),
    "6.1-systemd": System("debian:6.1", ("systemd-sysv",), init="/lib/systemd/systemd"),
}


def image_path(system: System, kernel: Kernel, *, cache: Path) -> Path:
    """Return where the image of *system* around *kernel* is, or would be."""
    recipe = repr((_RECIPE, PACKAGES, system.packages, system.headers, kernel.version, _LEFT_OUT, _FEATURES))
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    return cache / "guests" / f"{system.name}_{kernel.release}_{digest}.ext4"


def build(system: System, kernel: Kernel, *, cache: Path, origin: Origin | None = None) -> Path:
    """Return the image of *system*, from the cache or else built; one process builds, others wait for it."""
    origin, cache = origin or Origin(), cache.absolute()
    image = image_path(system, kernel, cache=cache)
    if image.exists():
        return image
    for tool in ("mmdebstrap", "mke2fs", "unshare", "chroot"):
        if not _which(tool):
            raise SystemUnbuildable(f"{tool} is not on this machine")
    if os.geteuid() != 0:
        raise SystemUnbuildable("making a root file system needs root")
    image.parent.mkdir(parents=True, exist_ok=True)
    with (image.parent / f"{system.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if image.exists():
            return image
        apt = apt_of(wanted(system.kernel), cache=cache, origin=origin)
        with scratch_folder(image.parent) as scratch:
            tree = scratch / "tree"
            _install(system, apt, tree)
            _add_kernel(kernel, tree)
            if system.headers:
                _add_headers(kernel, apt, tree, scratch)
            _make_image(tree, scratch / "image")
            for former in image.parent.glob(f"{system.name}_*.ext4"):
                former.unlink()  # a guest that runs from it keeps it until it ends
            (scratch / "image").rename(image)
    return image


def _install(system: System, apt: Apt, tree: Path) -> None:
    """Install the packages into *tree*; apt checks the signatures with the keyring it is given."""
    packages = ",".join((*PACKAGES, *system.packages))
    apt.say(f"guest {system.suite}: installing {packages}")
    options = [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT]
    _run(
        "mmdebstrap",
        *("--mode=root", "--variant=minbase", f"--architectures={apt.architecture}", "--format=directory"),
        *("--dpkgopt=force-unsafe-io", "--aptopt=Acquire::Languages none", f"--keyring={apt.keyring}", *options),
        *(f"--include={packages}", system.suite, str(tree)),
        f"deb [signed-by={apt.keyring.absolute()}] {apt.mirror} {system.suite} main",
        say=lambda line: apt.say(f"guest {system.suite}: {line}"),
    )
    for leftover in (*tree.glob("etc/ssh/ssh_host_*"), *tree.glob("var/cache/apt/*.bin")):
        leftover.unlink()


def _add_kernel(kernel: Kernel, tree: Path) -> None:
    """Give the system the modules of its kernel; the image itself is booted from outside."""
    if kernel.modules is None:
        raise SystemUnbuildable(f"{kernel.name} comes without modules")
    shutil.copytree(kernel.modules, tree / "lib/modules" / kernel.release, symlinks=True, dirs_exist_ok=True)
    _run("chroot", str(tree), "depmod", kernel.release)


def _add_headers(kernel: Kernel, apt: Apt, tree: Path, scratch: Path) -> None:
    """Lay the headers of exactly this kernel where BCC looks, without the compiler that their package depends on."""
    with apt.locked():
        try:
            parts = _header_packages(kernel, apt)
        except PackageUnknown:
            apt.update()
            parts = _header_packages(kernel, apt)
        debs = scratch / "debs"
        debs.mkdir()
        unpacked = scratch / "headers"
        for deb in apt.download(parts, debs):
            _run("dpkg-deb", "-x", str(deb), str(unpacked))
    shutil.copytree(unpacked / "usr/src", tree / "usr/src", symlinks=True, dirs_exist_ok=True)
    for link in unpacked.glob(f"*/modules/{kernel.release}/*"):
        shutil.copy2(link, tree / "lib/modules" / kernel.release / link.name, follow_symlinks=False)


def _header_packages(kernel: Kernel, apt: Apt) -> list[Package]:
    own = apt.show(f"linux-headers-{kernel.release}")
    return [own, *(apt.show(name) for name in own.depends if name.startswith("linux-headers-"))]


def _make_image(tree: Path, image: Path) -> None:
    used = sum(entry.lstat().st_blocks for entry in tree.rglob("*")) * 512
    size_kib = (used + used // 8 + _FREE_BYTES) >> 10
    _run("mke2fs", "-q", "-t", "ext4", "-O", _FEATURES, "-d", str(tree), str(image), f"{size_kib}k")


def _run(*command: str, say: Callable[[str], None] = lambda _line: None) -> None:
    """Run a tool in mount and process namespaces of its own, so that neither mounts nor processes outlive it."""
    argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--", *command]
    said: list[str] = []
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=_environment(), text=True
    ) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                said = [*said[-20:], line.strip()]
                if line.startswith("I: "):
                    say(line[3:].strip())
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise SystemUnbuildable(f"{command[0]}: {printable(_complaint(said))}")


def _complaint(said: Sequence[str]) -> str:
    errors = [line for line in said if line.startswith(("E:", "W:"))]
    return "; ".join(errors or said[-3:]) or "it failed without a word"


def _environment() -> dict[str, str]:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return {**os.environ, "PATH": path, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}


def _which(tool: str) -> str | None:
    return shutil.which(tool, path=_environment()["PATH"])
