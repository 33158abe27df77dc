"""Read a kernel's name: version, distribution flavour, build number. For display and explanation only.

No decision may rest on what this module says: vendors carry newer features under older numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,5}))?")
_CANDIDATE = re.compile(r"-rc(\d{1,3})")
# What a release string betrays about who built it, first match wins.
_FLAVOURS = (
    (re.compile(r"\.el\d+uek"), "Oracle UEK"),
    (re.compile(r"\.el(\d+)"), "RHEL {0}"),
    (re.compile(r"\.fc(\d+)"), "Fedora {0}"),
    (re.compile(r"\.amzn(\d+)"), "Amazon Linux {0}"),
    (re.compile(r"-microsoft-standard"), "WSL"),
    (re.compile(r"\.arch\d|-arch\d"), "Arch"),
    (re.compile(r"-talos"), "Talos"),
    (re.compile(r"-flatcar"), "Flatcar"),
    (re.compile(r"-\d+-(?:generic|aws|azure|gcp|oracle|kvm|lowlatency)(?:-|\Z)"), "Ubuntu"),
    (re.compile(r"-\d+-(?:cloud-)?(?:amd64|arm64)|\+deb\d+|~bpo\d+"), "Debian"),
    (re.compile(r"-default\Z"), "SUSE"),
    (re.compile(r"\+\Z"), "COS or self-built"),
)
_BUILD = re.compile(r"\d+\.\d+\.\d+-(\d+)")
_MACHINES = {"amd64": "x86_64", "x86": "x86_64", "x64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True, slots=True, order=True)
class KernelVersion:
    """What a release string says. Ordered by version; ``build`` is the vendor's number (957 in 3.10.0-957.el7)."""

    major: int
    minor: int
    patch: int
    candidate: int = 9999  # -rcN; a release is newer than all its candidates
    build: int = 0
    flavour: str = ""

    def __str__(self) -> str:
        text = f"{self.major}.{self.minor}.{self.patch}"
        return text if self.candidate == 9999 else f"{text}-rc{self.candidate}"


def parse_release(release: str) -> KernelVersion | None:
    """Return what ``uname -r`` says, or None when it begins with no version."""
    found = _VERSION.match(release)
    if not found:
        return None
    major, minor, patch = (int(part or 0) for part in found.groups())
    candidate, build = _CANDIDATE.search(release), _BUILD.match(release)
    flavour = next((name.format(*hit.groups()) for sign, name in _FLAVOURS if (hit := sign.search(release))), "")
    return KernelVersion(
        major, minor, patch, int(candidate[1]) if candidate else 9999, int(build[1][:9]) if build else 0, flavour
    )


def canonical_machine(machine: str) -> str:
    """Return the kernel's own word for an architecture: ``amd64`` is ``x86_64``."""
    return _MACHINES.get(machine, machine)
