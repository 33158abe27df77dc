"""One host at a time, over a way that somebody else opened: learn it, decide, bring a program there or take it away.

What Ansible's modules stand on. The same facts, decisions, specs and agent as a rollout's, without waves and gates;
the record learns the host and hears of every order, and hands out the token.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from btf.archive.archive import Archive
from btf.fault import EXIT_NO, Fault
from fleet.compatibility.verdict import Choice
from fleet.prepare import Wishes, prepare
from fleet.record import Record, open_record
from fleet.rollout.execute import Executor
from fleet.rollout.execute.artefacts import Artefacts
from fleet.rollout.execute.runner import RunnerExecutor, runner
from fleet.rollout.execute.ssh import MAX_ANSWER, NOT_RUN, AgentExecutor, HostExecutor, NoPython, agent_zipapp
from fleet.rollout.hosts.watch import Observed, observe
from fleet.rollout.planning.settings import WaveSettings
from fleet.survey import decide, harvest
from inventory.collect import ScanOutcome, collect_facts
from inventory.connect import Completed, Connection
from inventory.facts import Facts
from inventory.host import Host
from probes.agent.spec import check_spec
from probes.catalogue import Program, find_program, load_catalogue

Spec = Mapping[str, Any]
Open = Callable[[], AbstractContextManager[Executor]]  # a new connection each time
APPLYING_S = 120.0  # how long an earlier call on the host is waited for
_PAUSE_S = 2.0


class Unfit(Fault):
    """The program does not run on this host as it is."""

    code = "COR-PLN-020"
    exit = EXIT_NO
    remedy = "`corollout explain HOST PROGRAM` says why, and what would unlock it."


class NotRunning(Fault):
    """What was applied does not run."""

    code = "COR-ROL-028"
    remedy = "The host's status and holder.log say why; what it had begun was undone there."


@dataclass(frozen=True, slots=True)
class Home:
    """The record, archive and artefacts of one controller, and the programs it knows."""

    folder: Path
    program_dirs: tuple[Path, ...] = ()
    server: str | None = None  # postgresql://…, when the record is not a file of the folder

    def record(self) -> Record:
        """Open the record; a home that is not there yet is made."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return open_record(self.server or self.folder / "fleet.db", create=self.server is None)

    @property
    def archive(self) -> Archive:
        """The BTF archive."""
        return Archive(self.folder / "btf")

    @property
    def artefacts(self) -> Artefacts:
        """The files made for hosts."""
        return Artefacts(self.folder / "artefacts")

    def program(self, name: str) -> Program:
        """Return a program of the catalogue, or raise ProgramUnknown."""
        return find_program(name, load_catalogue(self.program_dirs))


class Visitor(AgentExecutor):
    """An agent that comes with the question and is gone with the answer: nothing of it stays on the host."""

    def _run(self, verb: str, *arguments: str, stdin: bytes = b"", timeout: float | None = None) -> Completed:
        if stdin:
            raise AssertionError("a visitor only asks")
        asked = shlex.join(["--state", self._host.state_dir, verb, *arguments])
        command = _VISIT.format(run=f"python3 $d {asked}")
        limit = timeout or self._deadline_s
        done = self._connection.run(command, stdin=agent_zipapp()[0], timeout=limit, limit=MAX_ANSWER)
        if done.status in NOT_RUN and not done.stdout:
            raise NoPython(f"{self._host.name} has no python3 that runs")
        return done


class VisitingRunner(RunnerExecutor):
    """The same for hosts without Python."""

    def _run(self, verb: str, *arguments: str, timeout: float | None = None) -> Completed:
        command = _VISIT.format(run=f"chmod 700 $d && $d {shlex.join([verb, *arguments])}")
        return self._shell(command, stdin=runner()[0], timeout=timeout)


_VISIT = "d=$(mktemp) && trap 'rm -f $d' EXIT && cat > $d && {run}"


def visiting(host: Host, connection: Connection, artefacts: Artefacts) -> Executor:
    """Return an executor that can be asked for the status, and leaves nothing."""
    agent = Visitor(host, connection, artefacts, deadline_s=120.0)
    alone = VisitingRunner(host, connection, artefacts, deadline_s=120.0)
    return HostExecutor(host.name, agent, alone, set())


def learn(record: Record, archive: Archive, host: Host, connection: Connection) -> Facts:
    """Ask *host* what it can do and keep it, and its kernel's BTF where the archive lacks it. Raises what silenced it.

    A host that the record does not know is added; one that it knows is reached as the record has it.
    """
    if host.name not in record.definitions():
        record.import_hosts([host], "ansible", actor="ansible")

    begin = time.monotonic()
    facts = collect_facts(connection)  # on this thread: Ansible's connections and alarms belong to it
    outcome = ScanOutcome(host, facts, None, time.monotonic() - begin)
    record.record_scan(outcome)
    for _ in harvest(record, archive, [outcome], connect=lambda _host: connection):
        pass
    return facts


def choose(record: Record, archive: Archive, host: str, program: Program) -> Choice:
    """Return the decision for *host* as it is now known, and keep it."""
    return decide(record, archive, [program], hosts=[host])[0]


def make_spec(record: Record, home: Home, host: str, program: Program, wishes: Wishes) -> Spec:
    """Return what *host* is to run, with everything it names kept in the home. Raises Unfit."""
    settings = WaveSettings(include_unchanged=True)
    plan = prepare(record, home.archive, home.artefacts, program, settings, wishes, host=host)
    if plan.skipped:
        raise Unfit(f"{program.name} on {host}: {plan.skipped[0].code}: {plan.skipped[0].detail}")
    spec: Spec = json.loads(json.dumps(plan.spec(host)))
    return spec


def ask(connect: Open, program: str, *, wait: Callable[[float], None] = time.sleep) -> Observed:
    """Return what the host says of *program*; an earlier call that is still at it is waited for."""
    until = time.monotonic() + APPLYING_S
    while True:
        with connect() as executor:
            seen = observe(executor.status(program), program)
        if seen.state != "applying" or time.monotonic() > until:
            return seen
        wait(_PAUSE_S)


def stands(seen: Observed, spec: Spec) -> bool:
    """Whether the host runs exactly *spec*, by its own word."""
    told = seen.entry.get("spec")  # the runner alone, where there is no Python, names the build only
    same = told == check_spec(dict(spec)).digest if told else seen.entry.get("build") == spec["build"]
    return same and seen.state == "running" and seen.alive and not seen.cut_off


def bring(connect: Open, spec: Spec, token: int) -> Observed:
    """Stage, check and apply *spec*, then see it run over a new connection and confirm it there."""
    program = str(spec["program"])
    with connect() as executor:
        executor.stage(spec)
        executor.check(spec)
        executor.apply(spec, token)
    with connect() as executor:
        seen = observe(executor.status(program), program)
        if not seen.runs(str(spec["build"]), token):
            raise NotRunning(f"{spec['host']}: applied, and then {seen.state}: {seen.reason or 'it does not run'}")
        if spec["revert_s"]:
            executor.confirm(program, token)
    return seen


def take_away(connect: Open, program: str, token: int) -> None:
    """Undo everything of *program* on the host."""
    with connect() as executor:
        executor.remove(program, token)


def names_of(choice: Choice) -> dict[str, Any]:
    """Return a decision in plain words and lists, as a play takes it."""
    answers: Sequence[dict[str, Any]] = [
        {
            "variant": a.variant, "verdict": a.verdict.value, "evidence": a.evidence.value, "lost": list(a.lost),
            "reasons": [{"code": r.code, "answer": r.answer.value, "detail": r.detail}
                        for r in a.reasons if r.answer.value != "yes"],
        }
        for a in choice.assessments
    ]  # fmt: skip
    return {
        "verdict": choice.verdict.value,
        "variant": choice.variant,
        "summary": choice.summary,
        "kernel": choice.kernel_id,
        "assessments": list(answers),
        "unlocks": [{"code": u.code, "action": u.action} for u in choice.unlocks],
    }
