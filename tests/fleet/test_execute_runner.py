"""The executor for hosts without Python, on the running kernel: the same promises as the agent's."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.rollout.execute import AgentRefused
from fleet.rollout.execute.artefacts import Artefacts
from fleet.rollout.execute.runner import RunnerExecutor, entries_of
from fleet.rollout.execute.ssh import agent_executors
from fleet.rollout.hosts.watch import observe
from inventory.connect import Completed
from inventory.connect.local import LocalConnection
from inventory.host import Host
from probes.catalogue import find_program, load_catalogue

INSIDE = ("unshare", "-m", "sh", "-c", 'mount -t tracefs none /sys/kernel/tracing && exec sh -c "$@"', "sh")


class NoPython(LocalConnection):
    """This machine as a host whose python3 cannot be run, with tracefs mounted for what we do alone."""

    def run(self, command: str, **options: Any) -> Completed:
        hidden = "python3() { return 127; }; " + command.replace("exec python3", "exec /nowhere/python3")
        return super().run(shlex.join([*INSIDE, hidden]), **options)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host("alone", connection="local", state_dir=str(tmp_path / "state"))


@pytest.fixture
def spec(tmp_path: Path) -> dict[str, Any]:
    program = find_program("tcp-flow", load_catalogue())
    build = program.build("core")
    artefacts = Artefacts(tmp_path / "artefacts")
    for path in build.files.values():
        artefacts.put(path.read_bytes())
    budget = {"cpu_percent": 50.0, "ns_per_event": 1e6, "memory_mib": 96.0, "loss_percent": 1.0, "strikes": 2,
              "interval_s": 0.5}  # fmt: skip
    return {
        "program": "tcp-flow", "kind": "tracing", "variant": "core", "build": build.digest, "generation": 1,
        "files": dict(build.digests), "btf": None, "record": "flow_record", "optional": ["flow_perf"],
        "scope": {"kind": "host"}, "config": {}, "budget": budget, "lease_s": 600.0, "revert_s": 0.0,
    }  # fmt: skip


@pytest.fixture
def alone(tmp_path: Path, host: Host) -> Iterator[RunnerExecutor]:
    executor = RunnerExecutor(host, NoPython(), Artefacts(tmp_path / "artefacts"), deadline_s=60.0)
    yield executor
    executor.remove("tcp-flow", 10**12)


@pytest.mark.kernel
def test_an_order_is_carried_out_once_and_undone(alone: RunnerExecutor, spec: dict[str, Any], host: Host) -> None:
    assert alone.stage(spec) > 0
    assert alone.stage(spec) == 0
    assert [p["name"] for p in alone.check(spec)["programs"] if p["loaded"]] == ["flow"]
    first = alone.apply(spec, 7)
    assert not first["already"]
    seen = observe(alone.status(), "tcp-flow")
    assert seen.runs(spec["build"], 7)
    again = alone.apply(spec, 7)
    assert again["already"]
    assert again["observed"]["programs"] == first["observed"]["programs"]
    with pytest.raises(AgentRefused) as refused:
        alone.apply(spec, 6)
    assert refused.value.agent_code == "COR-AGT-003"
    before = seen.entry["lease"]["expires"]
    alone.renew("tcp-flow", 6000.0)
    assert observe(alone.status("tcp-flow"), "tcp-flow").entry["lease"]["expires"] > before + 5000
    end = time.monotonic() + 30
    while not (sample := observe(alone.status(), "tcp-flow").entry.get("sample")):
        assert time.monotonic() < end
    assert sample["cpu_percent"] < 50
    alone.remove("tcp-flow", 8)
    assert not observe(alone.status(), "tcp-flow").alive
    kept = Path(host.state_dir) / "alone" / "tcp-flow"
    assert sorted(p.name for p in kept.iterdir()) == ["lock", "token"]


@pytest.mark.kernel
@pytest.mark.parametrize("change", [{"variant": "fallback"}, {"kind": "networking"}])
def test_what_needs_python_is_refused_by_name(
    alone: RunnerExecutor, spec: dict[str, Any], change: dict[str, Any]
) -> None:
    with pytest.raises(AgentRefused) as refused:
        alone.stage({**spec, **change})
    assert refused.value.agent_code == "COR-AGT-031"
    assert "needs Python" in refused.value.message


@pytest.mark.kernel
def test_a_host_that_turns_out_to_have_no_python_is_served_by_the_runner(
    tmp_path: Path, host: Host, spec: dict[str, Any]
) -> None:
    connect = agent_executors({}, Artefacts(tmp_path / "artefacts"), connect=lambda *_, **__: NoPython())
    with connect(host) as executor:
        executor.stage(spec)
        executor.apply(spec, 7)
    with connect(host) as executor:
        status = executor.status()
        assert status["agent"] == "runner"
        assert observe(status, "tcp-flow").runs(spec["build"], 7)
        executor.remove("tcp-flow", 8)


@pytest.mark.kernel
def test_a_scope_is_resolved_on_the_host(alone: RunnerExecutor, spec: dict[str, Any]) -> None:
    alone.stage(spec)
    alone.apply({**spec, "scope": {"kind": "netns"}}, 7)
    with pytest.raises(AgentRefused) as refused:
        alone.apply({**spec, "scope": {"kind": "cgroup", "path": "/nowhere"}}, 8)
    assert refused.value.agent_code == "COR-AGT-015"


STANDING = {"event": "standing", "program": "tcp-flow", "token": 7, "holding": 7, "build": "b", "busy": False,
            "holder": True, "alive": True}  # fmt: skip
STATUS = {"event": "status", "state": "running", "boot_id": "now", "programs": []}


@pytest.mark.parametrize(
    ("said", "standing", "state"),
    [
        (STATUS, {}, "running"),
        (STATUS, {"holder": False, "alive": False}, "failed"),
        ({**STATUS, "boot_id": "before"}, {"holder": False, "alive": False}, "stopped"),
        ({**STATUS, "state": "expired"}, {"holder": False, "alive": False}, "expired"),
        (STATUS, {"busy": True, "token": 8}, "applying"),
        (None, {"holder": False, "alive": False}, "stopped"),
    ],
)
def test_what_stands_in_the_agents_words(said: Any, standing: dict[str, Any], state: str) -> None:
    events = [*([said] if said else []), {**STANDING, **standing}]
    (entry,) = entries_of(events, {"boot_id": "now"})
    assert entry["state"] == state
    assert entry["observed"]["alive"] == (state == "running" or "holder" not in standing)
