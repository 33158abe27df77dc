"""Why a host could not be reached, as faults with a remedy.

Unreachable          no answer in time, or none at all: counted apart, never success and never failure
├── ConnectTimeout   something accepts and stays silent
└── CommandTimeout   the command did not end in time
Refused              a person must act first
├── HostKeyUnknown   no known_hosts entry
├── HostKeyChanged   the entry and the host disagree
└── AuthenticationFailed
"""

from __future__ import annotations

from btf.fault import EXIT_UNREACHABLE, Fault


class Unreachable(Fault):
    """The host did not answer."""

    code = "COR-SSH-001"
    exit = EXIT_UNREACHABLE
    remedy = "Check that the host is up and that this machine may reach its SSH port."


class ConnectTimeout(Unreachable):
    """Something accepted the connection and said nothing in time."""

    code = "COR-SSH-002"
    remedy = "The port accepts and stays silent: check the host's load and its sshd."


class CommandTimeout(Unreachable):
    """A command did not end in time; whether it took effect is unknown."""

    code = "COR-SSH-003"
    remedy = "Ask the host's status before doing it again."


class Refused(Fault):
    """The connection was refused by a check of ours or of the host's; a person must act."""

    code = "COR-SSH-010"
    exit = EXIT_UNREACHABLE
    remedy = "See the detail."


class HostKeyUnknown(Refused):
    """No known_hosts entry for the host."""

    code = "COR-SSH-011"
    remedy = "Verify the host's key by another way, then add it to known_hosts."


class HostKeyChanged(Refused):
    """The host shows another key than known_hosts holds."""

    code = "COR-SSH-012"
    remedy = "Someone reinstalled the host or stands in between: verify, then replace its known_hosts entry."


class AuthenticationFailed(Refused):
    """The host did not accept our keys."""

    code = "COR-SSH-013"
    remedy = "Check user, key file and agent (ssh-add -l)."
