"""The second world of the fault matrix: real agents on namespaced hosts behind real sshds, and what strikes them there.

The agent that is sent is the real one with a start of its own: around each step of its table it looks for a doom, a
file that a row put on the host, and carries it out. Everything else it does is the product's.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fault_matrix import FORWARD, Fault, Row, Snapshot
from fault_snapshot import COMMAND, parse
from lab_fleet import LabFleet

from fleet.lab.hosts import LabHost
from fleet.lab.namespaces import Lab
from fleet.record import open_record
from fleet.rollout.driving.engine import run_rollout
from fleet.rollout.execute import ssh
from fleet.rollout.execute.artefacts import Artefacts
from probes.agent.apply import STEPS
from probes.agent.compiled import START
from probes.agent.zipapp import build_agent

LEVEL = "agents"
NUMBER = 91  # of the lab of tests: its own names and networks
HOSTS = (LabHost("one", ("tracefs", "securityfs")), LabHost("two", ("tracefs", "securityfs")))
HOME = "/run/lab"
DOOM = f"{HOME}/doom"
FILLER = "/var/lib/corollout/filler"
POLICY = Path(__file__).parents[2] / "fleet" / "lab" / "policy.yaml"
PROGRAMS = ("tcp-flow", "net-policy")

_START = f"""{START}
import signal
from probes.agent import apply

def fill():
    os.system("mount -o remount,size=48m /var/lib/corollout")
    file = os.open({FILLER!r}, os.O_WRONLY | os.O_CREAT, 0o600)
    for size in (1 << 20, 4096, 1):
        try:
            while True:
                os.write(file, b"x" * size)
        except OSError:
            pass
    os.close(file)

def cut():
    pid = os.getppid()
    while pid > 1:
        with open("/proc/%d/stat" % pid) as file:
            name, rest = file.read().rsplit(")", 1)
        if "sshd" in name:
            return os.kill(pid, signal.SIGKILL)
        pid = int(rest.split()[1])

DOOMS = {{"agent-killed": lambda: os.kill(os.getpid(), signal.SIGKILL), "ssh-cut": cut, "disk-full": fill}}
COMMANDS = {{}}

def strike(where):
    try:
        with open({DOOM!r}) as file:
            doom, _, place = file.read().partition(" ")
    except OSError:
        return
    if place == where:
        os.rename({DOOM!r}, {DOOM!r} + ".struck")
        DOOMS[doom]() if doom in DOOMS else os.system(COMMANDS[doom])

def around(step):
    def do(attempt):
        strike(step.name + " before")
        step.do(attempt)
        strike(step.name + " after")
    return step._replace(do=do)

apply.STEPS = tuple(around(step) for step in apply.STEPS)
from probes.agent.main import run

run()
"""

AT_STEPS = (
    Fault("agent-killed", "SIGKILL of the agent while it applies", ("PAUSED", "HALTED"), again=1),
    Fault("ssh-cut", "SIGKILL of the session's sshd while the agent applies", ("PAUSED", "HALTED")),
    Fault("disk-full", "no byte is left on the host's disk until a person frees it", ("PAUSED", "HALTED")),
)
_PID = "python3 -c 'import json,sys;print(json.load(open(sys.argv[1]))[sys.argv[2]][\"pid\"])' {path}/{file} {key}"


def _kill(file: str, key: str) -> str:
    """A shell command that kills a process of the program at {path}, by the agent's own state."""
    return f"kill -9 $({_PID.format(path='{path}', file=file, key=key)})"


# What is done to a host once its program runs, as a shell command.
BAKING = "bake"
IN_BAKE: tuple[tuple[Fault, str], ...] = (
    (Fault("holder-killed", "SIGKILL of the program's holder while the wave bakes", ("PAUSED", "HALTED"), again=2),
     _kill("state.json", "holder")),
    (Fault("runner-killed", "SIGKILL of the runner (the holder's child) while the wave bakes", ("PAUSED", "HALTED"),
           again=2), _kill("status.json", "child")),
)  # fmt: skip


def doomed_agent(commands: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """The agent's zipapp with the start above; *commands* are more dooms, by name, for a shell."""
    data = io.BytesIO(b"")
    start = _START.replace("COMMANDS = {}", f"COMMANDS = {dict(commands)!r}")
    with zipfile.ZipFile(io.BytesIO(build_agent())) as whole, zipfile.ZipFile(data, "w") as made:
        for entry in whole.infolist():
            made.writestr(entry, start if entry.filename == "__main__.py" else whole.read(entry.filename))
    return b"#!/usr/bin/env python3\n" + data.getvalue()


class AgentWorld:
    """Real hosts, a home, and one rollout of *program*."""

    in_bake = IN_BAKE
    timeout_s, deadline_s = 20.0, 120.0

    def __init__(self, fleet: LabFleet, program: str, *options: str) -> None:
        self.fleet, self.program, self.home = fleet, program, fleet.home
        self.place = self.home / "fleet.db"
        self.hosts = fleet.inventory()
        plan = fleet.plan(program, *options)
        with open_record(self.place) as record:
            self.rollout = record.create_rollout(plan, "ann")
            self.canary = record.steps(self.rollout, wave=0)[0].host
        times = {"timeout_s": self.timeout_s, "deadline_s": self.deadline_s}
        factory = ssh.agent_executors(self.hosts, Artefacts(self.home / "artefacts"), **times)
        self.meet: Callable[[str, str], None] = lambda host, verb: None
        self.connect = self._watched(factory)

    def _watched(self, factory: Any) -> Any:
        @contextmanager
        def opened(host: Any, **options: Any) -> Iterator[Any]:
            with factory(host, **options) as executor:
                yield _Told(executor, host.name, self)

        return opened

    def go(self) -> str:
        run_rollout(self.home, self.rollout, executor_factory=self.connect)
        with open_record(self.place, read_only=True) as record:
            return record.rollout(self.rollout).state

    def strike(self, row: Row) -> str:
        if row.boundary == BAKING:
            return self._in_bake(dict(self.in_bake)[row.fault])
        doom = f"{row.fault.name} {row.boundary}"
        self.fleet.shell(self.canary, f"mkdir -p {HOME}; rm -f {DOOM}*; printf '{doom}' >{DOOM}")
        said = self.go()
        return said if self.struck() else "not met"

    def struck(self) -> bool:
        """Whether the canary's agent met its doom."""
        return bool(self.fleet.shell(self.canary, f"ls {DOOM}.struck 2>/dev/null").strip())

    def _in_bake(self, command: str) -> str:
        """Do this to the canary when it is asked how it is for the second time after its order was carried out."""
        calls: list[str] = []
        done: list[str] = []

        def meet(host: str, verb: str) -> None:
            if host != self.canary or done:
                return
            calls.append(verb)
            if "apply" in calls and calls[calls.index("apply") :].count("status") == 2:
                path = f"/var/lib/corollout/programs/{self.program}"
                done.append(self.fleet.shell(host, f"{{\n{command.format(path=path)}\n}} && echo ok"))

        self.meet = meet
        said = self.go()
        self.meet = lambda host, verb: None
        return said if done == ["ok\n"] else "not met"

    def mend(self, row: Row) -> None:
        self.fleet.shell(self.canary, f"rm -f {DOOM}* {FILLER}")

    def snapshot(self) -> dict[str, Snapshot]:
        return {name: parse(self.fleet.shell(name, COMMAND)) for name in self.hosts}


class _Told:
    """An executor that tells the world which calls came back."""

    def __init__(self, executor: Any, host: str, world: AgentWorld) -> None:
        self._executor, self._host, self._world = executor, host, world

    def __getattr__(self, verb: str) -> Any:
        method = getattr(self._executor, verb)
        if not callable(method):
            return method

        def calling(*arguments: Any, **named: Any) -> Any:
            answer = method(*arguments, **named)
            self._world.meet(self._host, verb)
            return answer

        return calling


@contextmanager
def agent_fleet(number: int = NUMBER) -> Iterator[LabFleet]:
    """The hosts, scanned, with the doomed agent in the place of the product's."""
    doomed = doomed_agent()
    real = ssh.agent_zipapp
    with tempfile.TemporaryDirectory(prefix="corollout-faults-") as folder, contextlib.ExitStack() as stack:
        lab = Lab(Path(folder) / "lab", number=number, hosts=HOSTS)
        fleet = LabFleet(lab, Path(folder) / "home", patience_s=600.0)
        stack.callback(lab.down)
        stack.callback(setattr, ssh, "agent_zipapp", real)
        inventory = lab.up()
        ssh.agent_zipapp = lambda: (doomed, sha256(doomed).hexdigest())
        fleet.run("init")
        fleet.run("hosts", "import", str(inventory))
        fleet.run("hosts", "scan", "--timeout", "20")
        yield fleet


def options_of(fleet: LabFleet, program: str) -> tuple[str, ...]:
    """What a plan of *program* is asked with here."""
    if program == "net-policy":
        return ("--policy", str(POLICY), "--controller", f"{fleet.lab.gateway}/32")
    return ("--scope", "netns")


def rows() -> list[Row]:
    """Each doom around each step of the agent's table, for a tracing and a networking program; and what follows."""
    places = [f"{step.name} {when}" for step in STEPS for when in ("before", "after")]
    found = [Row(LEVEL, f, FORWARD, place, p) for p in PROGRAMS for f in AT_STEPS for place in places]
    found += [Row(LEVEL, fault, FORWARD, BAKING, p) for p in PROGRAMS for fault, _ in IN_BAKE]
    return found
