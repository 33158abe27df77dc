"""What one kernel can be made to look like: each profile is a row, applied at boot or by the guest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from btf.fault import EXIT_USAGE, Fault

NOBODY = 65534
_TRACER = ("bpf", "net_admin", "perfmon")


class ProfileUnknown(Fault):
    """No profile of that name."""

    code = "COR-LAB-021"
    exit = EXIT_USAGE
    remedy = "`corollout prove --help` lists the profiles."


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of host. ``caps``: those it has, or those it lacks when a name begins with ``-``; None = all of them."""

    name: str
    summary: str
    parameters: tuple[str, ...] = ()  # of the kernel
    hide_btf: bool = False
    user: int = 0
    caps: tuple[str, ...] | None = None
    cgroup: str = "v2"  # v1, v2 or hybrid
    mounts: tuple[str, ...] = ("bpffs", "debugfs", "securityfs", "tracefs")
    memlock_kib: int | None = None  # RLIMIT_MEMLOCK, hard and soft
    sysctls: Mapping[str, int] = field(default_factory=dict)

    def document(self) -> dict[str, object]:
        """What the guest is told."""
        return asdict(self)


_ROWS = (
    Profile("plain", "root, everything mounted, nothing hidden"),
    Profile("no-btf", "an empty tmpfs over /sys/kernel/btf", hide_btf=True),
    Profile("lockdown-integrity", "lockdown=integrity", ("lockdown=integrity",)),
    Profile("lockdown-confidentiality", "lockdown=confidentiality", ("lockdown=confidentiality",)),
    Profile("unprivileged", "an ordinary user", user=NOBODY, caps=()),
    Profile("capable", "an ordinary user with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN", user=NOBODY, caps=_TRACER),
    Profile("cgroup-v1", "cgroup v1 only", cgroup="v1"),
    Profile("cgroup-hybrid", "cgroup v1 with v2 beside it", cgroup="hybrid"),
    Profile("no-tracefs", "neither tracefs nor debugfs is mounted", mounts=("bpffs", "securityfs")),
    Profile("no-debugfs", "tracefs is mounted, debugfs is not", mounts=("bpffs", "securityfs", "tracefs")),
    Profile(
        "memlock-64k", "root that cannot raise RLIMIT_MEMLOCK above 64 KiB", caps=("-sys_resource",), memlock_kib=64
    ),
    Profile("no-stats", "run counts of BPF programs are off", sysctls={"kernel.bpf_stats_enabled": 0}),
)
PROFILES: Mapping[str, Profile] = {row.name: row for row in _ROWS}


def profile(name: str) -> Profile:
    """Return the profile *name* or raise ProfileUnknown."""
    try:
        return PROFILES[name]
    except KeyError:
        raise ProfileUnknown(f"no profile is called {name!r}; there are {', '.join(PROFILES)}") from None
