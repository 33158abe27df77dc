"""What starts the supervisor, now and at boot: a systemd unit, a cron line, or nothing, which the status then says.

systemd is used where it is process 1 of this very host: an agent inside somebody's namespaces leaves it alone. Files
outside our state carry a line that names the state directory they belong to, and are recognised by it.
"""

import glob
import hashlib
import os
import shutil
import subprocess
from typing import Dict, List, NamedTuple, NoReturn, Optional, Sequence

from probes.agent.faults import StateUnwritable
from probes.agent.state import DEFAULT_ROOT, forget, write_bytes

UNITS = "/etc/systemd/system"
CRON = "/etc/cron.d"
OWNER = "# corollout state: "
_BOOTED = "/run/systemd/system"
_SCOPED = "COROLLOUT_SCOPE"
_COMMAND_S = 30
_MAX_FILE = 64 * 1024

# Nothing here makes a mount namespace (holders need the host's own mounts, BCC its modules and headers), forbids
# writable and executable memory (BCC compiles in it) or takes what bpf() and netfilter ask for.
_UNIT = """%(owner)s
[Unit]
Description=Corollout's programs on this host (%(root)s)
After=local-fs.target network.target

[Service]
ExecStart=%(command)s
Restart=always
RestartSec=5
KillMode=process
LimitMEMLOCK=infinity
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
SystemCallArchitectures=native
RestrictAddressFamilies=AF_UNIX AF_NETLINK AF_INET AF_INET6 AF_PACKET
CapabilityBoundingSet=~CAP_SYS_BOOT CAP_SYS_TIME CAP_MKNOD CAP_AUDIT_CONTROL CAP_WAKE_ALARM CAP_SYS_TTY_CONFIG CAP_MAC_ADMIN CAP_MAC_OVERRIDE CAP_LINUX_IMMUTABLE CAP_SYS_PACCT

[Install]
WantedBy=multi-user.target
"""  # noqa: E501 - a line of a unit file


class Files(NamedTuple):
    """Where a state directory's unit and cron line are, whether or not they exist."""

    unit: str
    cron: str

    @property
    def name(self) -> str:
        """The unit's name."""
        return os.path.basename(self.unit)


def files(root: str) -> Files:
    """Return the places of the files that belong to *root*."""
    name = "corollout"
    if root != DEFAULT_ROOT:
        name += "-" + hashlib.sha256(root.encode()).hexdigest()[:8]
    return Files(os.path.join(UNITS, name + ".service"), os.path.join(CRON, name))


def _own_host() -> bool:
    """Tell whether we are in the namespaces of process 1: what it starts is then where we are."""
    try:
        return all(os.readlink("/proc/self/ns/" + n) == os.readlink("/proc/1/ns/" + n) for n in ("mnt", "net", "pid"))
    except OSError:
        return False


def systemd_here() -> bool:
    """Tell whether systemd runs this host and can be asked."""
    runs = os.path.isdir(_BOOTED) and _read("/proc/1/comm").strip() == "systemd"
    return runs and bool(shutil.which("systemctl")) and _own_host()


def _cron_here() -> bool:
    """Tell whether a cron daemon that reads CRON runs: it is there, and it is ours."""
    if not (os.path.isdir(CRON) and _own_host()):
        return False
    return any(_read(path).strip() in ("cron", "crond") for path in glob.glob("/proc/[0-9]*/comm"))


def install(root: str, command: Sequence[str]) -> bool:
    """See to it that *command* runs, now and after a boot; True when systemd runs it, False when the caller must."""
    places = files(root)
    if systemd_here():
        text = _UNIT % {"owner": OWNER + root, "root": root, "command": _quoted(command)}
        changed = _read(places.unit) != text
        try:
            if changed:
                write_bytes(places.unit, text.encode(), mode=0o644)
                _systemctl("daemon-reload")
            if changed or not _enabled(places):
                _systemctl("enable", places.name)
            return _systemctl("restart" if changed else "start", places.name)
        except StateUnwritable:
            return False  # /etc may be read-only; then it runs, and nothing starts it at boot
    if _cron_here():
        words = " ".join("'%s'" % word.replace("'", "'\\''") for word in command)
        line = "%s\nSHELL=/bin/sh\n@reboot root exec %s >/dev/null 2>&1\n" % (OWNER + root, words.replace("%", "\\%"))
        try:
            if _read(places.cron) != line:
                write_bytes(places.cron, line.encode(), mode=0o644)
        except StateUnwritable:
            pass
    return False


def uninstall(root: str) -> None:
    """Take away what ``install`` made; idempotent. The supervisor that systemd runs ends with it."""
    places = files(root)
    forget(places.cron)
    if os.path.exists(places.unit):
        _systemctl("disable", places.name)
        forget(places.unit)
        _systemctl("daemon-reload")
        _systemctl("stop", "--no-block", places.name)
        _systemctl("reset-failed", places.name)


def starts_at_boot(root: str) -> str:
    """Say in words what starts the supervisor after a boot."""
    places = files(root)
    if _read(places.unit) and _enabled(places):
        return "systemd: " + places.name
    if _read(places.cron):
        return "cron: " + places.cron
    return "nothing will start it"


def owned() -> Dict[str, str]:
    """Return path → state directory of every unit and cron line that carries our line, whosever it is."""
    found = {}
    for path in glob.glob(os.path.join(UNITS, "corollout*.service")) + glob.glob(os.path.join(CRON, "corollout*")):
        first = _read(path).split("\n", 1)[0]
        if first.startswith(OWNER) and not os.path.islink(path):
            found[path] = first[len(OWNER) :]
    return found


def into_scope(name: str, command: List[str]) -> Optional[NoReturn]:
    """Go on as *command* in a transient unit of our own, so that the end of the SSH session is not the end of it.

    logind may end everything of a session with it (KillUserProcesses). Returns when that is done already, there is no
    systemd, or it does not serve us.
    """
    runner = shutil.which("systemd-run")
    if os.environ.get(_SCOPED) or not runner or not systemd_here():
        return None
    words = [runner, "--scope", "--quiet"]
    if not _run(words + ["--unit=%s-try-%d" % (name, os.getpid()), "true"]):
        return None
    os.environ[_SCOPED] = name
    os.execv(runner, words + ["--unit=%s-%d" % (name, os.getpid()), "--"] + command)


def _enabled(places: Files) -> bool:
    return os.path.islink(os.path.join(UNITS, "multi-user.target.wants", places.name))


def _systemctl(*words: str) -> bool:
    return _run(["systemctl"] + list(words))


def _run(command: List[str]) -> bool:
    try:
        null = subprocess.DEVNULL
        done = subprocess.run(command, stdin=null, stdout=null, stderr=null, timeout=_COMMAND_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _quoted(command: Sequence[str]) -> str:
    """Return *command* as systemd reads an ExecStart: quoted, with its specifiers and variables meant literally."""
    words = []
    for word in command:
        text = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        words.append('"%s"' % text.replace("%", "%%").replace("$", "$$"))
    return " ".join(words)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_FILE)
    except OSError:
        return ""
