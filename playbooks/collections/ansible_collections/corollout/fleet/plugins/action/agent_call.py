# Copyright: Corollout contributors
# Licensed under the Apache License, Version 2.0: https://www.apache.org/licenses/LICENSE-2.0
"""One command on each host of a slice, each with its own input; what ``corollout rollout --via ansible`` runs."""

from __future__ import annotations

import json
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.corollout.fleet.plugins.plugin_utils.line import CommandLate, Line

SPEC: dict[str, t.Any] = {"calls": {"type": "path", "required": True}}


class ActionModule(ActionBase):
    """Runs on the controller; the host sees a shell command and its input."""

    TRANSFERS_FILES = False
    _requires_connection = True

    def run(self, tmp: t.Any = None, task_vars: t.Any = None) -> dict[str, t.Any]:
        """Make the host's call and leave its answer in the files it names."""
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec(argument_spec=SPEC)
        name = (task_vars or {})["inventory_hostname"]
        try:
            with open(arguments["calls"], encoding="utf-8") as file:
                call = json.load(file)[name]
            with open(f"{call['files']}.in", "rb") as file:
                stdin = file.read()
        except (OSError, ValueError, KeyError) as error:
            raise AnsibleActionFail(f"there is no call for {name}: {error}") from error
        try:
            said = Line(self, fresh=call["fresh"]).run(
                call["command"], stdin=stdin, timeout=call["timeout"], limit=call["limit"]
            )
        except CommandLate as late:
            return {**result, "failed": True, "timed_out": True, "msg": str(late)}
        for ending, data in (("out", said.stdout), ("err", said.stderr)):
            with open(f"{call['files']}.{ending}", "wb") as file:
                file.write(data)
        return {**result, "changed": False, "status": said.status, "truncated": said.truncated, "files": call["files"]}
