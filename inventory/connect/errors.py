"""Why a host could not be reached, as faults with a remedy.

Unreachable          no answer in time, or none at all: counted apart, never success and never failure
├── ConnectTimeout   something accepts and stays silent
├── CommandTimeout   the command did not end in time
├── NotSsh           something answers that is no SSH server
└── ConnectionLost   it was there and went away in the middle
    └── NotBegun     before the command was sent
Refused              a person must act first
├── HostKeyUnknown   no known_hosts entry
├── HostKeyChanged   the entry and the host disagree
├── AuthenticationFailed
├── KeyUnusable      our own key file or known_hosts cannot be read
└── JumpImpossible   the inventory's jump hosts are missing or go in a circle
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


class NotSsh(Unreachable):
    """Something answers on the port, but not in SSH."""

    code = "COR-SSH-004"
    remedy = "Check address and port in the inventory: another service answers there."


class ConnectionLost(Unreachable):
    """The connection ended in the middle; whether a running command took effect is unknown."""

    code = "COR-SSH-005"
    remedy = "Ask the host's status before doing it again."


class NotBegun(ConnectionLost):
    """The connection was gone before the command was sent: nothing happened on the host."""

    code = "COR-SSH-006"
    remedy = "Try again: a new connection shows whether the host is there."


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


class KeyUnusable(Refused):
    """A key file or known_hosts file on this machine cannot be used."""

    code = "COR-SSH-014"
    remedy = "Check the path in the inventory and the file's permissions; keys with a passphrase belong into the agent."


class JumpImpossible(Refused):
    """The jump hosts of the inventory do not lead to the host."""

    code = "COR-SSH-015"
    remedy = "Every jump must name another host of the inventory, without a circle; import the inventory again."
