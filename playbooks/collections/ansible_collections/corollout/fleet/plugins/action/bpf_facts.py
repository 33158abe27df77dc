# Copyright: Corollout contributors
# Licensed under the Apache License, Version 2.0: https://www.apache.org/licenses/LICENSE-2.0
"""What a host can really do, asked by Corollout's collector over the task's connection."""

from __future__ import annotations

import typing as t

from ansible.plugins.action import ActionBase
from ansible_collections.corollout.fleet.plugins.plugin_utils.desk import Desk, corollout, settled

_LONG = ("kconfig", "hook.tracepoints", "netfilter.rules")

SPEC: dict[str, t.Any] = {
    "names": {"type": "list", "elements": "str", "default": []},
    "record": {"type": "bool", "default": False},
    "home": {"type": "path"},
    "host": {"type": "str"},
}


class ActionModule(ActionBase):
    """Runs on the controller; the host runs the collector and is not changed."""

    TRANSFERS_FILES = False
    _requires_connection = True
    _supports_check_mode = True

    def run(self, tmp: t.Any = None, task_vars: t.Any = None) -> dict[str, t.Any]:
        """Collect, keep in the record when asked to, and return as facts."""
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec(argument_spec=SPEC)
        return {**result, **settled(lambda: self._facts(task_vars or {}, arguments))}

    def _facts(self, task_vars: dict[str, t.Any], arguments: dict[str, t.Any]) -> dict[str, t.Any]:
        desk = Desk(self, task_vars, arguments)
        if arguments["record"]:
            with desk.home.record() as record:
                facts = desk.one.learn(record, desk.home.archive, desk.host, desk.line())
        else:
            facts = corollout("inventory.collect").collect_facts(desk.line())
        wanted = tuple(arguments["names"])
        shown = [f for f in facts.values() if (f.name.startswith(wanted) if wanted else f.name not in _LONG)]
        document = {
            "kernel": facts.kernel_id,
            "digest": facts.digest,
            "answers": {f.name: f.answer.value for f in shown},
            "values": {f.name: f.value for f in shown if f.value is not None},
        }
        return {"changed": False, "ansible_facts": {"corollout": document}}
