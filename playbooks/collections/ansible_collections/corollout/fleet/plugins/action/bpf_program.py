# Copyright: Corollout contributors
# Licensed under the Apache License, Version 2.0: https://www.apache.org/licenses/LICENSE-2.0
"""A program present on a host, or absent from it; idempotent, with check mode and diff."""

from __future__ import annotations

import typing as t
from pathlib import Path

from ansible.plugins.action import ActionBase
from ansible_collections.corollout.fleet.plugins.plugin_utils.desk import HOST, Desk, corollout, settled

_SHOWN = ("state", "variant", "build", "generation", "spec")
_GONE = {"state": "absent"}

SPEC: dict[str, t.Any] = {
    **HOST,
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "on_unfit": {"type": "str", "choices": ["fail", "skip"], "default": "fail"},
    "policies": {"type": "list", "elements": "path", "default": []},
    "audit": {"type": "bool", "default": False},
    "controllers": {"type": "list", "elements": "str", "default": []},
    "scope": {"type": "str", "choices": ["host", "netns", "cgroup"]},
    "budget": {"type": "dict", "default": {}},
    "token": {"type": "int"},
}


class ActionModule(ActionBase):
    """Runs on the controller; on the host only Corollout's agent acts."""

    TRANSFERS_FILES = False
    _requires_connection = True
    _supports_check_mode = True

    def run(self, tmp: t.Any = None, task_vars: t.Any = None) -> dict[str, t.Any]:
        """Compare what the host says with what is wanted, and change it when they differ."""
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec(argument_spec=SPEC)
        do = self._present if arguments["state"] == "present" else self._absent
        return {**result, **settled(lambda: do(Desk(self, task_vars or {}, arguments), arguments))}

    def _present(self, desk: Desk, arguments: dict[str, t.Any]) -> dict[str, t.Any]:
        one, home, name = desk.one, desk.home, desk.host.name
        with home.record() as record:
            one.learn(record, home.archive, desk.host, desk.line())
            choice = one.choose(record, home.archive, name, desk.program)
            decided = {"decision": {k: v for k, v in one.names_of(choice).items() if k != "assessments"}}
            if choice.variant is None:
                text = f"{desk.program.name} does not run here: {choice.summary}"
                if arguments["on_unfit"] == "skip":
                    return {"skipped": True, "changed": False, "msg": text, **decided}
                return {"failed": True, "msg": text, "code": one.Unfit.code, "remedy": one.Unfit.remedy, **decided}
            spec = one.make_spec(record, home, name, desk.program, _wishes(arguments))
            seen = one.ask(desk.connect, desk.program.name)
            digest = corollout("probes.agent.spec").check_spec(dict(spec)).digest
            after = {**{k: spec.get(k) for k in _SHOWN}, "state": "running", "spec": digest}
            answer = self._answer(seen, after, changed=not one.stands(seen, spec), **decided)
            if answer["changed"] and not self._task.check_mode:
                answer["token"] = self._token(record, desk, "apply", seen, arguments, spec["build"])
                one.bring(desk.connect, spec, answer["token"])
        return answer

    def _absent(self, desk: Desk, arguments: dict[str, t.Any]) -> dict[str, t.Any]:
        one = desk.one
        seen = one.ask(desk.connect, desk.program.name)
        gone = seen.state == "absent" or (seen.state == "stopped" and not seen.reason)
        answer = self._answer(seen, _GONE, changed=not gone)
        if answer["changed"] and not self._task.check_mode:
            with desk.home.record() as record:
                answer["token"] = self._token(record, desk, "remove", seen, arguments, "")
            one.take_away(desk.connect, desk.program.name, answer["token"])
        return answer

    def _answer(self, seen: t.Any, after: dict[str, t.Any], *, changed: bool, **more: t.Any) -> dict[str, t.Any]:
        gone = seen.state == "absent" or (seen.state == "stopped" and not seen.reason)
        before = dict(_GONE) if gone else {**{k: seen.entry.get(k) for k in _SHOWN}, "state": seen.state}
        answer: dict[str, t.Any] = {
            "changed": changed,
            "stood": not changed,
            "before": before,
            "after": after,
            "token": seen.token,
            **more,
        }
        if self._task.diff:
            answer["diff"] = [{"before": before, "after": after if changed else before}]
        return answer

    @staticmethod
    def _token(record: t.Any, desk: Desk, verb: str, seen: t.Any, arguments: dict[str, t.Any], detail: str) -> int:
        """Return the token that was given, else the record's next, which is above the clock and above the host's."""
        if arguments["token"] is not None:
            return int(arguments["token"])
        return int(
            record.order(desk.host.name, desk.program.name, verb, actor="ansible", above=seen.token, detail=detail)
        )


def _wishes(arguments: dict[str, t.Any]) -> t.Any:
    """What was asked of the program beyond its being there."""
    return corollout("fleet.prepare").Wishes(
        policies=tuple(Path(p).read_bytes() for p in arguments["policies"]),
        audit=arguments["audit"],
        controllers=tuple(arguments["controllers"]),
        scope=arguments["scope"],
        limits={str(k): float(v) for k, v in arguments["budget"].items()},
    )
