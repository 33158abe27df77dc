"""Test fixture: hosts that follow a script instead of running an agent. Their state is in files, so that it outlives a
controller that is killed, and a ledger says what was really done to each.

A host keeps the agent's promises that a rollout relies on: tokens never go back, the same token and spec again change
nothing, ``applied`` counts real attachments.
"""

from __future__ import annotations

import fcntl
import json
import threading
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fleet.record import Record
from fleet.rollout.execute import AgentGarbled, AgentRefused
from fleet.rollout.planning.plan import Plan, PlannedHost, Wave
from fleet.rollout.planning.settings import WaveSettings
from inventory.connect.errors import CommandTimeout, Unreachable
from inventory.host import Host

KERNEL = {"build_id": "ab" * 20, "release": "6.1.0-28-amd64"}
KERNEL_ID = f"{KERNEL['build_id']}/x86_64"
BUDGET = {
    "cpu_percent": 1.0, "ns_per_event": 1000.0, "memory_mib": 96.0, "loss_percent": 0.1, "interval_s": 1.0,
    "strikes": 2, "action": "detach",
}  # fmt: skip
SAMPLE = {"at": 1.0, "window_s": 1.0, "cpu_percent": 0.1, "ns_per_event": 90, "events": 10, "memory_bytes": 1 << 20,
          "lost": 0, "records": 10, "loss_percent": 0.0}  # fmt: skip


class TestClock:
    """Waiting takes no time, and the time goes on all the same."""

    __test__ = False

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._now = start
        self._lock = threading.Lock()

    def now(self) -> float:
        with self._lock:
            self._now += 0.001
            return self._now

    def elapsed(self) -> float:
        return self.now()

    def wait(self, stop: threading.Event, seconds: float) -> None:
        with self._lock:
            self._now += seconds


def spec_of(host: str, *, build: str = "b" * 64, revert_s: float = 0.0) -> dict[str, Any]:
    return {
        "schema": "corollout.spec/1", "program": "tcp-flow", "kind": "tracing", "variant": "core",
        "build": f"sha256:{build}", "generation": 1, "host": host, "files": {"object": "1" * 64, "runner": "2" * 64},
        "btf": None, "record": "event", "optional": [], "scope": {"kind": "host"}, "config": {}, "budget": BUDGET,
        "fail_mode": "detach", "boot": "stay-off", "lease_s": 0.0, "revert_s": revert_s, "kernel": dict(KERNEL),
    }  # fmt: skip


def plan_of(
    *waves: list[str], plan_id: str = "plan-1", build: str = "b" * 64, revert_s: float = 0.0,
    kernels: dict[str, str] | None = None, approvals: Container[int] = (), **settings: Any,
) -> Plan:  # fmt: skip
    """A plan of these waves; bakes are short, one sample is enough. *kernels*: ids of hosts that have another;
    *approvals*: waves that a person says when to begin."""
    chosen = WaveSettings(**{"samples": 1, "breaches": 1, "bake_s": 2.0, "canary_bake_s": 2.0, **settings})
    ids = kernels or {}
    frozen = tuple(
        Wave(n, f"wave {n}", chosen.bake_s,
             tuple(PlannedHost(h, ids.get(h, KERNEL_ID), "core", f"sha256:{build}", "f" * 64) for h in names),
             approval=n in approvals)
        for n, names in enumerate(waves)
    )  # fmt: skip
    specs = {h: spec_of(h, build=build, revert_s=revert_s) for names in waves for h in names}
    own_keys = ("host", "btf", "scope", "config", "kernel")
    shared = {k: v for k, v in next(iter(specs.values())).items() if k not in own_keys}
    own = {h: {k: s[k] for k in own_keys} for h, s in specs.items()}
    return Plan(plan_id, "tcp-flow", 5.0, chosen, frozen, (), {"core": shared}, own)


def prepare(record: Record, plan: Plan) -> str:
    """Put hosts, plan and rollout into *record*; returns the rollout's id."""
    record.import_hosts([Host(h.host, connection="local") for h in plan.hosts], "test")
    record.save_plan(plan)
    return record.create_rollout(plan.id, "ann")


# Held while one of this process's threads is at a host: who stops the process takes it first, as no controller that is
# stopped holds up a host in life.
AT_A_HOST = threading.RLock()


class ScriptedHosts:
    """The hosts under one folder. ``script[host]`` says how each misbehaves; keys are read where they matter below."""

    def __init__(self, root: Path, script: dict[str, dict[str, Any]] | None = None) -> None:
        self.root = root
        self.script = script if script is not None else {}
        self.before: Callable[[str, str], None] = lambda host, verb: None  # called at each verb, before it acts
        self.after: Callable[[str, str], None] = lambda host, verb: None
        self.service: Callable[[str, bool, Any], Any] = lambda host, running, question: {
            "asked": question["count"], "errors": 0, "latencies_us": [1000.0] * question["count"]
        }  # fmt: skip

    def connect(self, host: Host, *, fresh: bool = False) -> Any:
        return self._open(host.name)

    @contextmanager
    def _open(self, name: str) -> Iterator[ScriptedExecutor]:
        if "connect" in self.script.get(name, {}).get("silent", ()):
            raise Unreachable(f"{name}: no route")
        yield ScriptedExecutor(self, name)

    @contextmanager
    def state(self, name: str) -> Iterator[dict[str, Any]]:
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        with AT_A_HOST, (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            path = folder / "state.json"
            state = json.loads(path.read_text()) if path.exists() else {"token": 0, "applied": 0, "state": "absent"}
            yield state
            draft = folder / "draft"
            draft.write_text(json.dumps(state))
            draft.replace(path)

    def seen(self, name: str) -> dict[str, Any]:
        with self.state(name) as state:
            return dict(state)

    def calls(self, name: str, verb: str | None = None) -> list[str]:
        path = self.root / name / "calls"
        lines = path.read_text().split() if path.exists() else []
        return [c for c in lines if verb in (None, c)]


class ScriptedExecutor:
    """One connection to one scripted host."""

    def __init__(self, fleet: ScriptedHosts, name: str) -> None:
        self.fleet, self.name = fleet, name
        self.script = fleet.script.get(name, {})

    def _begin(self, verb: str) -> None:
        self.fleet.before(self.name, verb)
        (self.fleet.root / self.name).mkdir(parents=True, exist_ok=True)
        with (self.fleet.root / self.name / "calls").open("a") as calls:
            calls.write(verb + "\n")
        if verb in self.script.get("silent", ()):
            raise Unreachable(f"{self.name}: no answer to {verb}")
        if verb in self.script.get("garbled", ()):
            raise AgentGarbled(f"{self.name}: said nothing")
        code = self.script.get("refuse", {}).get(verb)
        if code:
            raise AgentRefused(f"{verb} refused", agent_code=code, document={"ok": False, "code": code})

    def stage(self, spec: Any) -> int:
        self._begin("stage")
        return 100

    def check(self, spec: Any) -> Any:
        self._begin("check")
        return {"ok": True}

    def apply(self, spec: Any, token: int) -> Any:
        self._begin("apply")
        with self.fleet.state(self.name) as state:
            if token < state["token"]:
                raise AgentRefused("stale token", agent_code="COR-AGT-003", document={"ok": False})
            already = state["token"] == token and state["state"] == "running"
            if not already:
                state |= {"token": token, "state": "running", "build": spec["build"], "confirmed": False}
                state["applied"] += 1
        self.fleet.after(self.name, "apply")
        if self.script.get("drop") and len(self.fleet.calls(self.name, "apply")) <= self.script["drop"]:
            raise CommandTimeout(f"{self.name}: the connection dropped during apply")
        return {"ok": True, "already": already}

    def confirm(self, program: str, token: int) -> Any:
        self._begin("confirm")
        with self.fleet.state(self.name) as state:
            state["confirmed"] = True
        return {"ok": True}

    def status(self, program: str | None = None) -> Any:
        self._begin("status")
        state = self.fleet.seen(self.name)
        window = {"at": float(len(self.fleet.calls(self.name, "status")))}  # every look finds a new one
        kernel = {**KERNEL, **self.script.get("kernel", {})}
        document: dict[str, Any] = {"schema": "corollout.status/1", "boot_id": self.script.get("boot_id", "boot-1"),
                                    "kernel": kernel, "now": 1.0, "programs": []}  # fmt: skip
        if state["state"] != "absent":
            tripped = self.script.get("trip") and state["state"] == "running"
            document["programs"].append({
                "program": "tcp-flow", "variant": "core", "build": state.get("build"), "token": state["token"],
                "applied": state["applied"], "revert": None,
                "lease": {"expires": 1.0 + self.script["lease"]} if "lease" in self.script else None,
                "state": "tripped" if tripped else state["state"],
                "reason": "COR-AGT-020: cpu_percent 9 over 1" if tripped else None,
                "observed": {"alive": state["state"] == "running" and not tripped},
                "sample": {**SAMPLE, **window, **self.script.get("sample", {})}
                if state["state"] == "running" else None,
            })  # fmt: skip
        return document

    def ask(self, question: Any) -> Any:
        """``service[host]`` of the fleet says what is felt: called with the host and whether it runs the program."""
        self._begin("ask")
        running = self.fleet.seen(self.name)["state"] == "running"
        return self.fleet.service(self.name, running, question)

    def renew(self, program: str, lease_s: float) -> Any:
        self._begin("renew")
        return {"ok": True}

    def remove(self, program: str, token: int) -> Any:
        self._begin("remove")
        with self.fleet.state(self.name) as state:
            if token < state["token"]:
                raise AgentRefused("stale token", agent_code="COR-AGT-003", document={"ok": False})
            state |= {"token": token, "state": "stopped"}
        return {"ok": True}
