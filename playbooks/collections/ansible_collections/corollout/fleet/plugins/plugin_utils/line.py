# Copyright: Corollout contributors
# Licensed under the Apache License, Version 2.0: https://www.apache.org/licenses/LICENSE-2.0
"""A way to a host through Ansible's own connection, with its user, its become and its jump hosts.

Only the remote shell is used: no module is copied, no temporary folder made, and no Python of a certain age needed.
It has the shape that Corollout's own connections have, so the same code drives the agent over both.
"""

from __future__ import annotations

import contextlib
import os
import signal
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.text.converters import to_bytes


class CommandLate(AnsibleActionFail):
    """A command did not end in time; whether it took effect is unknown."""


class Said(t.NamedTuple):
    """How a command ended, and what it wrote."""

    status: int
    stdout: bytes
    stderr: bytes
    truncated: bool = False


class Line:
    """Runs commands on the host of a task. ``fresh`` first ends what connection an earlier task may share."""

    def __init__(self, action: t.Any, *, fresh: bool = False) -> None:
        self._action = action
        if fresh and action._connection.transport in ("ssh", "paramiko", "paramiko_ssh"):
            action._connection.reset()

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 60.0, limit: int = 8 * 1024 * 1024) -> Said:
        """Run *command*; *timeout* in seconds bounds it, *limit* in bytes each stream. Raises CommandLate."""
        with _alarm(timeout):
            # Never without input: Ansible would ask for a terminal then, which mixes the streams and rewrites lines.
            done = self._action._low_level_execute_command(command, in_data=stdin or b"\n")
        out, err = (to_bytes(done[name], errors="surrogateescape") for name in ("stdout", "stderr"))
        if max(len(out), len(err)) > limit:
            return Said(-1, out[:limit], err[:limit], truncated=True)
        return Said(int(done["rc"]), out, err)

    def close(self) -> None:
        """Do nothing: the connection is Ansible's."""

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@contextlib.contextmanager
def _alarm(seconds: float) -> t.Iterator[None]:
    """Raise CommandLate after *seconds*: a task runs alone in a process of its own."""

    def late(_number: int, _frame: t.Any) -> None:
        _end_children()
        raise CommandLate(f"the command did not end within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    left, _interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left)  # a timeout of the task's own goes on
        signal.signal(signal.SIGALRM, before)


def _end_children() -> None:
    """End the ssh that waits for the command; without this it would outlive the task."""
    with contextlib.suppress(OSError, ValueError):
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            children = [int(pid) for pid in file.read().split()]
        for pid in children:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGTERM)
