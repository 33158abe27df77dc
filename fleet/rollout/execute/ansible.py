"""An executor through Ansible, for those who own their hosts that way: the same agent, called in slices of hosts.

What differs from ``ssh`` is only how a command gets to its host, so every verb, token and outcome is the same.
Ansible is not imported here, and none of its exit codes is passed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fleet.rollout.execute import ExecutorFactory
from fleet.rollout.execute.artefacts import Artefacts
from fleet.rollout.execute.kept import Kept
from fleet.rollout.execute.slices import Call, Slices
from fleet.rollout.execute.ssh import agent_executors
from inventory.connect import Completed, Connection
from inventory.host import Host


class AnsibleConnection:
    """A way to one host; see ``inventory.connect.Connection``. Its first command opens a connection of its own."""

    def __init__(self, host: Host, slices: Slices) -> None:
        self._host = host
        self._slices = slices
        self._fresh = True

    def run(
        self, command: str, *, stdin: bytes = b"", timeout: float = 60.0, limit: int = 8 * 1024 * 1024
    ) -> Completed:
        """Run *command* together with what other threads ask of other hosts now."""
        fresh, self._fresh = self._fresh, False
        return self._slices.run(Call(self._host, command, stdin, timeout, limit, fresh))

    def close(self) -> None:
        """Do nothing: Ansible's connections end with their run."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def ansible_executors(
    hosts: Mapping[str, Host],
    artefacts: Artefacts,
    folder: Path,
    *,
    inventory: Path | None = None,
    timeout_s: float = 10.0,
    deadline_s: float = 600.0,
) -> ExecutorFactory:
    """Return a factory of executors through Ansible; *folder* holds what a run needs while it runs.

    With *inventory*, an Ansible inventory of the user's, its connection variables say how hosts are reached, and only
    the names are ours. *timeout_s* bounds connecting, *deadline_s* one call.
    """
    from fleet.rollout.execute.ansible_run import AnsibleRun

    slices = Slices(AnsibleRun(hosts, folder, inventory=inventory, timeout_s=timeout_s).carry)

    def connect(host: Host, **_: Any) -> Connection:
        return AnsibleConnection(host, slices)

    kept = Kept(most=0)  # Ansible keeps its connections itself, and each of ours begins with a new one
    return agent_executors(hosts, artefacts, connect=connect, timeout_s=timeout_s, deadline_s=deadline_s, kept=kept)
