"""What a rollout can do to one host, as one small interface; ``ssh`` implements it through the agent.

Every method may raise ``inventory.connect.errors.Unreachable`` (the outcome is unknown), ``Refused`` (a person must
act first), ``AgentRefused`` (the host said no, and why) or ``AgentGarbled`` (no answer came back: unknown, too).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from btf.fault import Fault
from inventory.host import Host

Spec = Mapping[str, Any]  # corollout.spec/1
Document = Mapping[str, Any]  # what the agent answered


class AgentRefused(Fault):
    """The host's agent refused; ``agent_code`` is its code, ``document`` its whole answer."""

    code = "COR-ROL-020"
    remedy = "See the agent's own code and message; `corollout explain` expands the code."

    def __init__(self, message: str, *, agent_code: str, document: Document, remedy: str | None = None) -> None:
        super().__init__(f"{agent_code}: {message}", remedy=remedy)
        self.agent_code = agent_code
        self.document = document


class AgentGarbled(Fault):
    """Something other than the agent's answer came back."""

    code = "COR-ROL-021"
    remedy = "Check that python3 runs on the host and what its shell prints; then ask the host's status."


class Executor(Protocol):
    """One open way to one host's agent."""

    def stage(self, spec: Spec) -> int:
        """Bring the agent and the artefacts that are missing; returns bytes sent. Idempotent."""
        ...

    def check(self, spec: Spec) -> Document:
        """Load without attaching, and say what the kernel said."""
        ...

    def apply(self, spec: Spec, token: int) -> Document:
        """Make the host run *spec*; the same token and spec again change nothing."""
        ...

    def confirm(self, program: str, token: int) -> Document:
        """Cancel the revert timer: this connection got through with the program in place."""
        ...

    def status(self, program: str | None = None) -> Document:
        """Return what the host observes (``corollout.status/1``)."""
        ...

    def ask(self, question: Document) -> Document:
        """Ask a service on the host: ``{"asked", "errors", "latencies_us", "trouble"}``. Changes nothing."""
        ...

    def renew(self, program: str, lease_s: float) -> Document:
        """Extend a lease to *lease_s* seconds from now."""
        ...

    def remove(self, program: str, token: int) -> Document:
        """Undo everything of *program*; idempotent."""
        ...


class ExecutorFactory(Protocol):
    """The way to any host's agent."""

    def __call__(self, host: Host, *, fresh: bool = False) -> AbstractContextManager[Executor]:
        """Return a way to *host*'s agent, perhaps over a connection that was open already; *fresh*: over a new one.

        What must be seen over a new connection says so: that a program does not cut its host off, and what came of an
        apply that nothing was heard of.
        """
        ...
