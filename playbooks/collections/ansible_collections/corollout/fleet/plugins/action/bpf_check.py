# Copyright: Corollout contributors
# Licensed under the Apache License, Version 2.0: https://www.apache.org/licenses/LICENSE-2.0
"""Would this program run on this host, by which build, and what would unlock more."""

from __future__ import annotations

import typing as t

from ansible.plugins.action import ActionBase
from ansible_collections.corollout.fleet.plugins.plugin_utils.desk import HOST, Desk, corollout, settled

SPEC: dict[str, t.Any] = {**HOST, "load": {"type": "bool", "default": False}}


class ActionModule(ActionBase):
    """Runs on the controller; the host is asked for facts, and with ``load`` tries the build without attaching it."""

    TRANSFERS_FILES = False
    _requires_connection = True
    _supports_check_mode = True

    def run(self, tmp: t.Any = None, task_vars: t.Any = None) -> dict[str, t.Any]:
        """Learn the host, decide, and return the decision."""
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec(argument_spec=SPEC)
        return {**result, **settled(lambda: self._check(task_vars or {}, arguments))}

    def _check(self, task_vars: dict[str, t.Any], arguments: dict[str, t.Any]) -> dict[str, t.Any]:
        desk = Desk(self, task_vars, arguments)
        one, home = desk.one, desk.home
        with home.record() as record:
            one.learn(record, home.archive, desk.host, desk.line())
            choice = one.choose(record, home.archive, desk.host.name, desk.program)
            answer: dict[str, t.Any] = {"changed": False, "fits": choice.variant is not None, **one.names_of(choice)}
            if arguments["load"] and choice.variant is not None and not self._task.check_mode:
                wishes = corollout("fleet.prepare").Wishes()
                spec = one.make_spec(record, home, desk.host.name, desk.program, wishes)
                answer["loaded"] = self._load(desk, spec)
        return answer

    @staticmethod
    def _load(desk: Desk, spec: t.Any) -> dict[str, t.Any]:
        refused = corollout("fleet.rollout.execute").AgentRefused
        try:
            with desk.connect() as executor:
                executor.stage(spec)
                executor.check(spec)
        except refused as fault:
            return {"ok": False, "code": fault.agent_code, "message": fault.message}
        return {"ok": True, "code": "", "message": ""}
