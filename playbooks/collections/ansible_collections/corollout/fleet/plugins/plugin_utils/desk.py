# Copyright: Corollout contributors
# Licensed under the Apache License, Version 2.0: https://www.apache.org/licenses/LICENSE-2.0
"""What the action plugins share: Corollout on the controller, the task's host, and faults as results.

Corollout is imported when a task runs, so that documentation and syntax checks work without it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import typing as t
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible_collections.corollout.fleet.plugins.plugin_utils.line import Line

HOST = {
    "program": {"type": "str", "required": True},
    "home": {"type": "path"},
    "host": {"type": "str"},
    "programs": {"type": "list", "elements": "path", "default": []},
}


def corollout(module: str) -> t.Any:
    """Import a module of Corollout, or say what is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise AnsibleActionFail(
            f"the Python that runs Ansible has no Corollout ({error}): install the package corollout beside Ansible"
        ) from error


def home_of(home: str | None) -> Path:
    """Return the folder of the record: the one given, else where the ``corollout`` command has it."""
    if home:
        return Path(home)
    if os.environ.get("COROLLOUT_HOME"):
        return Path(os.environ["COROLLOUT_HOME"])
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if state else Path.home() / ".local" / "state") / "corollout"


def server_of(home: str | None) -> str | None:
    """Return the address of a record on a server, which the ``corollout`` command would use, too; *home* outdoes it."""
    return None if home else os.environ.get("COROLLOUT_DATABASE") or None


def settled(work: t.Callable[[], dict[str, t.Any]]) -> dict[str, t.Any]:
    """Return what *work* returns; a fault of Corollout becomes a failed result with its code and remedy."""
    fault_class = corollout("btf.fault").Fault
    try:
        return work()
    except fault_class as fault:
        return {"failed": True, "msg": str(fault), "code": str(fault.code), "remedy": fault.advice}


class Desk:
    """Corollout's record and agent for the host of one task."""

    def __init__(self, action: t.Any, task_vars: dict[str, t.Any], arguments: dict[str, t.Any]) -> None:
        self.one = corollout("fleet.onehost")
        self._action = action
        dirs = tuple(Path(p) for p in arguments["programs"]) if "programs" in arguments else ()
        self.home = self.one.Home(home_of(arguments.get("home")).absolute(), dirs, server_of(arguments.get("home")))
        self.host = self._host(task_vars, arguments.get("host"))
        self.program = self.home.program(arguments["program"]) if "program" in arguments else None

    def _host(self, task_vars: dict[str, t.Any], wanted: str | None) -> t.Any:
        """Return the host as Ansible reaches it; *wanted* is its name in the record, when that differs."""
        source = corollout("inventory.sources.ansible_inventory")
        name = str(task_vars["inventory_hostname"])
        seen = {key: self._action._templar.template(task_vars[key]) for key in source.NAMES if key in task_vars}
        if self._action._connection.transport not in ("ssh", "local"):
            seen["ansible_connection"] = "ssh"  # whatever leads there: only this task's own line is used
        return source.host_of(wanted or name, _groups(task_vars), seen, f"host {name}")

    def line(self) -> Line:
        """Return a way to the host."""
        return Line(self._action)

    @contextlib.contextmanager
    def connect(self) -> t.Iterator[t.Any]:
        """Yield the agent of the host, over a connection of its own."""
        line = Line(self._action, fresh=True)
        if self._action._task.check_mode:  # what only looks leaves nothing, not even the agent
            yield self.one.visiting(self.host, line, self.home.artefacts)
            return
        ssh = corollout("fleet.rollout.execute.ssh")
        with ssh.agent_executors({}, self.home.artefacts, connect=lambda _host, **_: line)(self.host) as executor:
            yield executor


def _groups(task_vars: dict[str, t.Any]) -> list[str]:
    return sorted(str(name) for name in task_vars.get("group_names", []) if name not in ("all", "ungrouped"))
