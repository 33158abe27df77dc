"""An apt of our own: sources, lists and cache in one folder; the machine's apt is neither changed nor waited for.

One folder serves one suite and architecture, and one process at a time: :meth:`Apt.locked`. apt checks the signatures
with the keyring it is given, and the digest of every package against the signed list.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from btf.fault import EXIT_UNREACHABLE, EXIT_USAGE, Fault, printable

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_QUIET_S = 3.0  # progress is told at most this often
# The words of gpgv (up to bookworm) and sqv (from trixie on) for a key that is not in the keyring.
_UNKNOWN_KEY = re.compile(r"NO_PUBKEY|Missing key|is not signed|couldn't be verified|not available", re.IGNORECASE)
_CONFIGURATION = """\
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "{folder}";
Dir::State::lists "{folder}/lists";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}";
Dir::Cache::archives "{folder}/archives";
APT::Architecture "{architecture}";
#clear APT::Architectures;
APT::Architectures {{ "{architecture}"; }};
Acquire::Languages "none";
Acquire::Retries "2";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Update::Post-Invoke-Stats;
"""


class AptMissing(Fault):
    """This machine has no apt, or not the keyring that Debian's signatures are checked with."""

    code = "COR-LAB-011"
    exit = EXIT_USAGE
    remedy = "Install apt, dpkg and debian-archive-keyring, or name a kernel by the path of its vmlinuz."


class KeyUnknown(Fault):
    """The archive is signed with a key this machine's keyring does not have."""

    code = "COR-LAB-012"
    remedy = "Install a newer debian-archive-keyring, or give its file with --keyring; signatures are never skipped."


class MirrorSilent(Fault):
    """The mirror did not give what was asked for."""

    code = "COR-LAB-013"
    exit = EXIT_UNREACHABLE
    remedy = "Run it again: what is complete is kept. --mirror names another mirror."


class PackageUnknown(Fault):
    """The suite has no such package."""

    code = "COR-LAB-014"
    exit = EXIT_USAGE
    remedy = "`corollout lab kernels` lists the names; not every architecture is in every suite."


@dataclass(frozen=True, slots=True)
class Package:
    """One version of one package, as the signed list describes it; ``depends`` has the first of each alternative."""

    name: str
    version: str
    sha256: str
    size: int
    depends: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Apt:
    """A private apt for one suite and architecture. ``say`` is told progress, one line each."""

    folder: Path
    mirror: str
    suite: str
    architecture: str
    keyring: Path = KEYRING
    say: Callable[[str], None] = lambda _line: None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this folder alone and (re)write its configuration; the lock ends with the process, however it ends."""
        for tool in ("apt-get", "apt-cache", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise AptMissing(f"{tool} is not on this machine")
        if not self.keyring.is_file():
            raise AptMissing(f"no keyring at {self.keyring}")
        for part in ("lists/partial", "archives/partial"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.say(f"waiting for another process that fetches from {self.suite}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            folder = str(self.folder.absolute())
            (self.folder / "status").touch()
            (self.folder / "apt.conf").write_text(_CONFIGURATION.format(folder=folder, architecture=self.architecture))
            (self.folder / "sources.list").write_text(
                f"deb [signed-by={self.keyring.absolute()}] {self.mirror} {self.suite} main\n"
            )
            yield

    def update(self) -> None:
        """Fetch the suite's list of packages and check its signature. Raises KeyUnknown or MirrorSilent."""
        code, said = self._run("apt-get", "-q", "update", "-o", "APT::Update::Error-Mode=any")
        if code:
            complaint = _complaint(said)
            raise (KeyUnknown if _UNKNOWN_KEY.search(said) else MirrorSilent)(f"{self.suite}: {complaint}")

    def show(self, name: str) -> Package:
        """Return the newest version of a package in the lists at hand. Raises PackageUnknown."""
        _, said = self._run("apt-cache", "show", "--no-all-versions", name)
        fields = {k: v.strip() for k, _, v in (line.partition(":") for line in said.splitlines()) if k[:1].isalpha()}
        try:
            depends = tuple(
                re.split(r"[\s(|:]", d.strip(), maxsplit=1)[0] for d in fields.get("Depends", "").split(",")
            )
            return Package(fields["Package"], fields["Version"], fields["SHA256"], int(fields["Size"]), depends)
        except (KeyError, ValueError):
            raise PackageUnknown(f"{self.suite} has no package {name} for {self.architecture}") from None

    def download(self, packages: Sequence[Package], folder: Path) -> list[Path]:
        """Fetch *packages* into *folder*, digests checked by apt; return the files. Raises MirrorSilent."""
        wanted = [f"{p.name}={p.version}" for p in packages]
        code, said = self._run("apt-get", "-q", "download", *wanted, inside=folder)
        files = sorted(folder.glob("*.deb"))
        if code or len(files) != len(packages):
            raise MirrorSilent(f"{self.suite}: {_complaint(said)}")
        return files

    def _run(self, *command: str, inside: Path | None = None) -> tuple[int, str]:
        """Run an apt tool with our configuration; tell progress; end it when we are interrupted."""
        tool, *arguments = command
        read, write = os.pipe()
        with os.fdopen(read, errors="replace") as status:
            try:
                process = subprocess.Popen(
                    [tool, "-c", str(self.folder.absolute() / "apt.conf"), "-o", f"APT::Status-Fd={write}", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    cwd=inside,
                    pass_fds=(write,),
                    env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
                )
            finally:
                os.close(write)
            teller = threading.Thread(target=self._tell, args=(status,), daemon=True)
            teller.start()
            try:
                said, _ = process.communicate()
            except BaseException:
                process.terminate()
                process.wait()
                raise
            teller.join()
        return process.returncode, said.decode(errors="replace")

    def _tell(self, status: Iterator[str]) -> None:
        told = time.monotonic()
        for line in status:
            # dlstatus:<item>:<percent of all>:<words>
            parts = line.strip().split(":", 3)
            if len(parts) == 4 and parts[0] == "dlstatus" and time.monotonic() - told > _QUIET_S:
                told = time.monotonic()
                self.say(f"{self.suite} {self.architecture}: {float(parts[2]):.0f} %")


def _complaint(said: str) -> str:
    """The lines of apt that say what went wrong: its errors, else its warnings, else the last it said."""
    said_lines = said.splitlines()
    for prefix in ("E:", "W:"):
        if lines := [line.removeprefix(prefix).strip() for line in said_lines if line.startswith(prefix)]:
            return printable("; ".join(lines))
    return printable(said_lines[-1]) if said_lines else "apt failed without a word"
