"""The lab's hosts as rows: what makes each one different, and the files it is started from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LabHost:
    """One namespaced host.

    ``traits`` are words that ``init.sh`` acts on; with ``bpf_errno`` a seccomp filter answers ``bpf()`` with it;
    ``key_changed`` puts another key into known_hosts than the host shows.
    """

    name: str
    traits: tuple[str, ...] = ("tracefs",)
    bpf_errno: str = ""
    key_changed: bool = False
    role: str = "web"


HOSTS: tuple[LabHost, ...] = (
    LabHost("plain-1", ("tracefs", "securityfs"), role="web"),
    LabHost("plain-2", role="client"),
    LabHost("no-btf", ("tracefs", "no-btf"), role="web"),
    LabHost("seccomp-eperm", bpf_errno="EPERM", role="web"),
    LabHost("seccomp-enosys", bpf_errno="ENOSYS", role="client"),
    LabHost("no-python", ("tracefs", "no-python"), role="web"),
    LabHost("key-changed", key_changed=True, role="web"),
    LabHost("silent", ("silent",), role="web"),
)
