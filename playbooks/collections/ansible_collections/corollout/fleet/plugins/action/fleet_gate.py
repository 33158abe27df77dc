# Copyright: Corollout contributors
# Licensed under the Apache License, Version 2.0: https://www.apache.org/licenses/LICENSE-2.0
"""Wait on the controller until a wave of a rollout has passed its gate."""

from __future__ import annotations

import time
import typing as t

from ansible.plugins.action import ActionBase
from ansible_collections.corollout.fleet.plugins.plugin_utils.desk import corollout, home_of, server_of, settled

_PASSED = ("passed", "skipped")
_LOST = ("failed",)
_OVER = ("HALTED", "ABORTED", "ROLLING_BACK", "ROLLED_BACK", "ROLLBACK_INCOMPLETE")  # what had passed no longer counts

SPEC: dict[str, t.Any] = {
    "rollout": {"type": "str", "required": True},
    "wave": {"type": "int"},
    "home": {"type": "path"},
    "timeout": {"type": "int", "default": 3600},
    "poll": {"type": "float", "default": 5.0},
}


class ActionModule(ActionBase):
    """Reads the record; touches no host."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: t.Any = None, task_vars: t.Any = None) -> dict[str, t.Any]:
        """Look until the wave is over, the rollout has ended, or time is up."""
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec(argument_spec=SPEC)
        return {**result, **settled(lambda: self._wait(arguments))}

    def _wait(self, arguments: dict[str, t.Any]) -> dict[str, t.Any]:
        until = time.monotonic() + arguments["timeout"]
        place = server_of(arguments["home"]) or home_of(arguments["home"]) / "fleet.db"
        while True:
            with corollout("fleet.record").open_record(place, read_only=True) as record:
                view = record.rollout(arguments["rollout"])
            answer = self._seen(view, arguments["wave"])
            if answer["over"] or self._task.check_mode:
                return answer
            if time.monotonic() > until:
                return {**answer, "failed": True, "msg": f"{view.id} is still {view.state}"}
            time.sleep(max(0.2, arguments["poll"]))

    @staticmethod
    def _seen(view: t.Any, number: int | None) -> dict[str, t.Any]:
        """Return how the rollout, or one wave of it, stands."""
        waves = [w for w in view.waves if number is None or w.number == number]
        gates = [{"number": w.number, "state": w.state, "gate": dict(w.gate or {})} for w in waves]
        answer: dict[str, t.Any] = {"changed": False, "state": view.state, "reason": view.reason, "waves": gates}
        lost = any(w.state in _LOST for w in waves) or view.state in _OVER
        passed = bool(waves) and all(w.state in _PASSED for w in waves) and not lost
        answer["over"] = passed or lost or view.ended_at is not None
        if answer["over"] and not passed:
            answer |= {"failed": True, "msg": f"{view.id} is {view.state}: {view.reason or 'the wave did not pass'}"}
        return answer
