"""Rollouts on real agents: each host is this machine with a state directory of its own, over the local connection.

The program is a fallback (so no kernel is needed) that leaves a real mark outside the agent's state and can burn.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_hosts import BUDGET

from fleet.record import open_record
from fleet.rollout.driving.engine import run_rollout
from fleet.rollout.execute import AgentRefused
from fleet.rollout.execute.artefacts import ArtefactLost, Artefacts
from fleet.rollout.execute.ssh import agent_executors
from fleet.rollout.planning.plan import Plan, PlannedHost, Wave
from fleet.rollout.planning.service import Service
from fleet.rollout.planning.settings import WaveSettings
from inventory.connect.errors import CommandTimeout
from inventory.connect.local import LocalConnection
from inventory.host import Host
from probes.agent import scope

FALLBACK = b"""
import os, time

def _mark(context):
    return os.path.join(context.config["outside"], context.host)

def run(context):
    with open(_mark(context), "a") as file:
        file.write("on\\n")
    context.ready({"hooks": ["file"]})
    while not context.stopping(0.05):
        until = time.monotonic() + context.config.get("burn_s", 0)
        while time.monotonic() < until:
            pass

def remove(context):
    try:
        os.unlink(_mark(context))
    except FileNotFoundError:
        pass
"""
ROOT = Path(__file__).parents[2]
NAMES = ("alpha", "beta", "gamma")


class Lab:
    """A home with a record, a plan and hosts that are folders here."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.outside = folder / "outside"
        self.outside.mkdir(parents=True)
        self.hosts = {n: Host(n, connection="local", state_dir=str(folder / "hosts" / n)) for n in NAMES}
        self.artefacts = Artefacts(self.home / "artefacts")
        self.module = self.artefacts.put(FALLBACK)
        with open_record(self.home / "fleet.db", create=True) as record:
            record.import_hosts(self.hosts.values(), "test")
        self.connect = agent_executors(self.hosts, self.artefacts, deadline_s=60.0)

    def plan(self, plan_id: str, *, generation: int = 1, budget: dict[str, Any] | None = None, **config: Any) -> str:
        build = f"sha256:{generation:064x}"
        settings = WaveSettings(samples=1, breaches=1, canary_bake_s=0.5, bake_s=0.5, deadline_s=20.0)
        waves = tuple(
            Wave(i, f"wave {i}", 0.5, tuple(PlannedHost(n, "k/x86_64", "fallback", build, "f" * 64) for n in names))
            for i, names in enumerate((NAMES[:1], NAMES[1:]))
        )
        here = scope.kernel()
        shared = {
            "schema": "corollout.spec/1", "program": "sample-trace", "kind": "tracing", "variant": "fallback",
            "build": build, "generation": generation, "files": {"module": self.module}, "record": None,
            "optional": [], "fail_mode": "detach", "boot": "stay-off", "lease_s": 3600, "revert_s": 0,
            "budget": {**BUDGET, "cpu_percent": 400.0, "memory_mib": 512.0, "interval_s": 0.3, **(budget or {})},
        }  # fmt: skip
        own = {
            n: {"host": n, "btf": None, "scope": {"kind": "host"}, "kernel": here,
                "config": {"outside": str(self.outside), **config}}
            for n in NAMES
        }  # fmt: skip
        plan = Plan(plan_id, "sample-trace", 5.0, settings, waves, (), {"fallback": shared}, own)
        with open_record(self.home / "fleet.db") as record:
            record.save_plan(plan)
            return record.create_rollout(plan_id, "ann")

    def go(self, rollout: str, *verbs: str) -> str:
        with open_record(self.home / "fleet.db") as record:
            for verb in verbs:
                record.request(rollout, verb, "ann")
        return run_rollout(self.home, rollout, executor_factory=self.connect)

    def row(self, name: str) -> dict[str, Any]:
        with self.connect(self.hosts[name]) as executor:
            return dict(executor.status("sample-trace"))["programs"][0]

    def marks(self) -> dict[str, int]:
        """host → how often the program was really started there."""
        return {p.name: len(p.read_text().split()) for p in self.outside.iterdir()}

    def close(self) -> list[str]:
        for host in self.hosts.values():
            with self.connect(host) as executor:
                executor.remove("sample-trace", 2**50)
        return [p for p in _processes() if str(self.home.parent) in p]


def _processes() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    yield made
    left = made.close()
    assert left == []  # nothing of a test outlives it


def test_rolled_out_read_back_and_rolled_back(lab: Lab) -> None:
    rollout = lab.plan("p1")
    assert lab.go(rollout) == "COMPLETED"
    assert lab.marks() == dict.fromkeys(NAMES, 1)
    with open_record(lab.home / "fleet.db") as record:
        steps = {s.host: s for s in record.steps(rollout)}
        samples = [s for s in record.samples(rollout) if s.outcome == "ok"]
    assert {s.state for s in steps.values()} == {"healthy"}
    for name in NAMES:
        row = lab.row(name)
        assert (row["state"], row["applied"], row["token"]) == ("running", 1, steps[name].token)
    assert {s.host for s in samples} == set(NAMES)
    assert all(s.cpu_percent is not None and s.memory_bytes for s in samples)
    assert lab.go(rollout, "rollback") == "ROLLED_BACK"
    assert lab.marks() == {}


def test_rollback_of_a_newer_build_brings_the_older_one_back(lab: Lab) -> None:
    assert lab.go(lab.plan("p1")) == "COMPLETED"
    second = lab.plan("p2", generation=2)
    assert lab.go(second) == "COMPLETED"
    assert lab.row("beta")["generation"] == 2
    assert lab.go(second, "rollback") == "ROLLED_BACK"
    assert {lab.row(n)["generation"] for n in NAMES} == {1}
    assert {lab.row(n)["state"] for n in NAMES} == {"running"}


def test_a_program_that_burns_halts_its_rollout(lab: Lab) -> None:
    rollout = lab.plan("p1", budget={"cpu_percent": 1.0, "strikes": 1}, burn_s=0.05)
    assert lab.go(rollout) == "HALTED"
    with open_record(lab.home / "fleet.db") as record:
        view = record.rollout(rollout)
        assert view.reason.startswith("gate-failed: wave 0")
        assert record.step(rollout, "beta").state == "pending"
    assert "beta" not in lab.marks()


def test_a_connection_that_drops_during_apply_is_asked_after(lab: Lab) -> None:
    """The agent goes on and finishes; the controller lost the answer."""
    dropped = []

    class Dropping(LocalConnection):
        def run(self, command: str, **options: Any) -> Any:
            done = super().run(command, **options)
            if " apply " in command and not dropped:
                dropped.append(command)
                raise CommandTimeout("the line went dead")
            return done

    lab.connect = agent_executors(lab.hosts, lab.artefacts, connect=lambda host, **_: Dropping())
    rollout = lab.plan("p1")
    assert lab.go(rollout) == "COMPLETED"
    assert dropped
    assert lab.marks() == dict.fromkeys(NAMES, 1)
    assert lab.row("alpha")["applied"] == 1


CONTROLLER = """
import os, signal, sys
from pathlib import Path
from fleet.record import open_record
from fleet.rollout.driving.engine import run_rollout
from fleet.rollout.execute.artefacts import Artefacts
from fleet.rollout.execute.ssh import AgentExecutor, agent_executors

home, rollout, when = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
with open_record(home / "fleet.db") as record:
    hosts = record.definitions()
apply = AgentExecutor.apply

def doomed(self, spec, token):
    if spec["host"] != "beta":
        return apply(self, spec, token)
    if when == "after":
        apply(self, spec, token)
    elif when == "during":  # the agent is at work when its controller dies
        import threading, time
        threading.Thread(target=apply, args=(self, spec, token)).start()
        state = Path(self._host.state_dir) / "programs/sample-trace/state.json"
        while not state.exists():
            time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGKILL)

AgentExecutor.apply = doomed
run_rollout(home, rollout, executor_factory=agent_executors(hosts, Artefacts(home / "artefacts")))
"""


@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_controller_killed_in_wave_1_goes_on_and_applies_nobody_twice(lab: Lab, when: str) -> None:
    rollout = lab.plan("p1")
    script = lab.home / "controller.py"
    script.write_text(CONTROLLER)
    command = [sys.executable, str(script), str(lab.home), rollout, when]
    killed = subprocess.run(command, timeout=120, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert killed.returncode == -signal.SIGKILL
    with open_record(lab.home / "fleet.db") as record:
        assert record.step(rollout, "alpha").state == "healthy"
        order = record.step(rollout, "beta")
        assert order.state == "applying"
    assert lab.go(rollout) == "COMPLETED"
    assert {n: lab.row(n)["applied"] for n in NAMES} == dict.fromkeys(NAMES, 1)
    assert lab.marks() == dict.fromkeys(NAMES, 1)
    assert lab.row("beta")["token"] == order.token
    with open_record(lab.home / "fleet.db") as record:
        verbs = [e.verb for e in record.events(limit=10_000, host="beta") if e.verb.startswith("apply")]
    assert verbs == ["apply", "apply-again"]


# The executor by itself


def test_the_agent_and_artefacts_travel_once(lab: Lab) -> None:
    rollout = lab.plan("p1")
    with open_record(lab.home / "fleet.db") as record:
        document = record.plan("p1").document
    spec = {**document["shared"]["fallback"], **document["own"]["alpha"]}
    with lab.connect(lab.hosts["alpha"]) as executor:
        assert executor.stage(spec) > 0
        assert executor.stage(spec) == 0
    assert len(list(Path(lab.hosts["alpha"].state_dir).glob("agent/*.pyz"))) == 1
    assert rollout


def test_a_service_is_asked_by_the_agent_on_its_host(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as service, lab.connect(lab.hosts["alpha"]) as executor:
        question = Service(f"tcp:127.0.0.1:{service.getsockname()[1]}", count=5).question
        answer = executor.ask(question)
        assert (answer["asked"], answer["errors"], len(answer["latencies_us"])) == (5, 0, 5)
        with pytest.raises(AgentRefused) as caught:
            executor.ask({**question, "probe": "tcp:192.0.2.1:80"})
    assert caught.value.agent_code == "COR-AGT-040"


def test_an_agent_damaged_on_its_way_is_never_put_in_place(lab: Lab) -> None:
    class Cutting(LocalConnection):
        def run(self, command: str, *, stdin: bytes = b"", **options: Any) -> Any:
            return super().run(command, stdin=stdin[:1000] if "sha256sum" in command else stdin, **options)

    connect = agent_executors(lab.hosts, lab.artefacts, connect=lambda host, **_: Cutting())
    with connect(lab.hosts["alpha"]) as executor, pytest.raises(Exception, match="COR-ROL-021"):
        executor.status()
    assert list(Path(lab.hosts["alpha"].state_dir).glob("agent/*")) == []


def test_the_agents_refusal_keeps_its_code_and_remedy(lab: Lab) -> None:
    with lab.connect(lab.hosts["alpha"]) as executor, pytest.raises(AgentRefused) as caught:
        executor.apply({"schema": "nonsense"}, 5)
    assert caught.value.agent_code == "COR-AGT-002"
    assert "plan again" in caught.value.advice.lower() or "plan" in caught.value.advice


@pytest.mark.parametrize("noise", [b"", b"Welcome!\n", b"[1]", b"\x1b[31m{", b'{"ok": ' + b"[" * 100_000])
def test_noise_instead_of_an_answer_is_unknown_never_yes(lab: Lab, noise: bytes) -> None:
    class Noisy(LocalConnection):
        def run(self, command: str, **options: Any) -> Any:
            return super().run("head -c 200000 " + str(lab.home / "noise"), **{**options, "stdin": b""})

    (lab.home / "noise").write_bytes(noise)
    connect = agent_executors(lab.hosts, lab.artefacts, connect=lambda host, **_: Noisy())
    with connect(lab.hosts["alpha"]) as executor, pytest.raises(Exception, match="COR-ROL-021") as caught:
        executor.status()
    assert str(caught.value).isprintable()


def test_artefacts_are_what_they_were_or_lost(tmp_path: Path) -> None:
    kept = Artefacts(tmp_path / "artefacts")
    digest = kept.put(b"bytes")
    assert kept.put(b"bytes") == digest
    assert kept.get(digest) == b"bytes"
    (tmp_path / "artefacts" / digest).write_bytes(b"other")
    with pytest.raises(ArtefactLost, match="changed"):
        kept.get(digest)
    with pytest.raises(ArtefactLost):
        kept.packed("0" * 64)
