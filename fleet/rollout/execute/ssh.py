"""An executor over a connection: it runs the agent's zipapp on the host. Knows no rollout and keeps no state.

The zipapp lies on the host under its own digest, so that a controller never runs an agent it did not build, and two
controllers of different versions do not overwrite each other's. What a host answers is bounded and checked.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from btf.fault import EXIT_NO, Fault, printable
from fleet.rollout.execute import AgentGarbled, AgentRefused, Document, Executor, ExecutorFactory, Spec
from fleet.rollout.execute.artefacts import Artefacts
from fleet.rollout.execute.kept import Kept
from fleet.rollout.execute.runner import RunnerExecutor
from inventory.connect import Completed, Connection, open_connection
from inventory.host import Host

MAX_ANSWER = 4 * 1024 * 1024
_CODE = re.compile(r"COR-[A-Z]{3}-\d{3}\Z")
_NO_AGENT = 97  # our exit code for: the zipapp is not there yet
NOT_RUN = (126, 127)  # the shell's for: python3 cannot be run, or is not there; the agent has no such codes


class NoPython(Fault):
    """The host has no python3, so no agent; the runner alone may do."""

    code = "COR-ROL-023"
    exit = EXIT_NO
    remedy = "Install python3 on the host (3.6 or newer), or roll out tracing programs' core builds alone."


@functools.cache
def agent_zipapp() -> tuple[bytes, str]:
    """Return the agent's zipapp and its SHA-256; built once."""
    from probes.agent.zipapp import build_agent

    data = build_agent()
    return data, hashlib.sha256(data).hexdigest()


class AgentExecutor:
    """Runs the agent's verbs over one open connection."""

    def __init__(self, host: Host, connection: Connection, artefacts: Artefacts, *, deadline_s: float) -> None:
        self._host = host
        self._connection = connection
        self._artefacts = artefacts
        self._deadline_s = deadline_s

    def stage(self, spec: Spec) -> int:
        """Bring the artefacts of *spec* that are missing; returns bytes sent."""
        wanted = [*spec["files"].values(), *([spec["btf"]] if spec.get("btf") else [])]
        missing = self._verb("missing", *wanted).get("missing")
        if not isinstance(missing, list):
            raise AgentGarbled(f"{self._host.name}: the agent does not say what is missing")
        sent = 0
        for digest in dict.fromkeys(wanted):  # of what the host names, only what was planned
            if digest in missing:
                packed = self._artefacts.packed(digest)
                self._verb("stage", digest, stdin=packed)
                sent += len(packed)
        return sent

    def check(self, spec: Spec) -> Document:
        """Verify-load without attaching."""
        return self._verb("check", "--spec", "-", stdin=_json(spec))

    def apply(self, spec: Spec, token: int) -> Document:
        """Make the host run *spec*."""
        return self._verb("apply", "--spec", "-", "--token", str(token), stdin=_json(spec))

    def confirm(self, program: str, token: int) -> Document:
        """Cancel the revert timer."""
        return self._verb("confirm", "--program", program, "--token", str(token))

    def status(self, program: str | None = None) -> Document:
        """Return the status document."""
        return self._verb("status", *(("--program", program) if program else ()), timeout=60.0)

    def ask(self, question: Document) -> Document:
        """Ask a service on the host."""
        return self._verb("ask", "--question", "-", stdin=_json(question), timeout=120.0)

    def renew(self, program: str, lease_s: float) -> Document:
        """Extend a lease."""
        return self._verb("renew", "--program", program, "--lease-s", f"{lease_s:g}")

    def remove(self, program: str, token: int) -> Document:
        """Undo everything of *program*."""
        return self._verb("remove", "--program", program, "--token", str(token))

    def records(self, program: str, *, since: int | None = None, limit: int = 100) -> list[bytes]:
        """Return the newest records of *program*, or the first after *since*, as lines that nobody has checked yet."""
        after = () if since is None else ("--since", str(since))
        done = self._run("records", "--program", program, *after, "--limit", str(limit))
        if done.status != 0:
            self._answer("records", done)
        return done.stdout.splitlines()

    def _verb(self, verb: str, *arguments: str, stdin: bytes = b"", timeout: float | None = None) -> Document:
        return self._answer(verb, self._run(verb, *arguments, stdin=stdin, timeout=timeout))

    def _run(self, verb: str, *arguments: str, stdin: bytes = b"", timeout: float | None = None) -> Completed:
        _, digest = agent_zipapp()
        place = f"{self._host.state_dir}/agent/{digest}.pyz"
        command = f"[ -f {shlex.quote(place)} ] || exit {_NO_AGENT}; exec python3 " + shlex.join(
            [place, "--state", self._host.state_dir, verb, *arguments]
        )
        limit = timeout or self._deadline_s
        done = self._connection.run(command, stdin=stdin, timeout=limit, limit=MAX_ANSWER)
        if done.status == _NO_AGENT:
            self._bring_agent(place)
            done = self._connection.run(command, stdin=stdin, timeout=limit, limit=MAX_ANSWER)
        if done.status in NOT_RUN and not done.stdout:
            raise NoPython(f"{self._host.name} has no python3 that runs")
        return done

    def _bring_agent(self, place: str) -> None:
        """Upload the zipapp beside its place, check its digest there, then put it in place: never half an agent."""
        data, digest = agent_zipapp()
        quoted, folder = shlex.quote(place), shlex.quote(place.rpartition("/")[0])
        command = (
            f"umask 077 && mkdir -p {folder} && d={quoted}.$$ && cat > $d && "
            f"echo {digest}'  '$d | sha256sum -c - >/dev/null && mv $d {quoted} || {{ rm -f $d; exit 1; }}"
        )
        done = self._connection.run(command, stdin=data, timeout=self._deadline_s, limit=65536)
        if done.status != 0:
            said = done.stderr.decode(errors="replace")
            raise AgentGarbled(f"{self._host.name}: the agent could not be put in place: {printable(said, 200)}")

    def _answer(self, verb: str, done: Completed) -> Document:
        document = _parsed(done.stdout)
        if not isinstance(document, dict):
            said = printable((done.stderr or done.stdout).decode(errors="replace").strip() or "nothing", 200)
            raise AgentGarbled(f"{self._host.name}: agent {verb} ended with {done.status} and said {said}")
        if document.get("ok") is False:
            code = document.get("code")
            raise AgentRefused(
                str(document.get("message", "no reason given")),
                agent_code=code if isinstance(code, str) and _CODE.match(code) else "COR-AGT-099",
                document=document,
                remedy=str(document["remedy"]) if document.get("remedy") else None,
            )
        if done.status != 0:
            raise AgentGarbled(f"{self._host.name}: agent {verb} ended with {done.status}")
        return document


def _parsed(data: bytes) -> Any:
    """The JSON value in *data*, or None."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _json(spec: Mapping[str, Any]) -> bytes:
    return json.dumps(spec, sort_keys=True, separators=(",", ":")).encode()


class HostExecutor:
    """The agent where the host has Python, the runner alone where not: what the host says at the first verb decides."""

    def __init__(self, host: str, agent: AgentExecutor, alone: RunnerExecutor, without: set[str]) -> None:
        self._host, self._agent, self._alone, self._without = host, agent, alone, without

    def _do(self, verb: str, *arguments: Any, **options: Any) -> Any:
        if self._host not in self._without:
            try:
                return getattr(self._agent, verb)(*arguments, **options)
            except NoPython:
                self._without.add(self._host)
        return getattr(self._alone, verb)(*arguments, **options)

    def stage(self, spec: Spec) -> int:
        """Bring what is missing; returns bytes sent."""
        return int(self._do("stage", spec))

    def check(self, spec: Spec) -> Document:
        """Verify-load without attaching."""
        return cast("Document", self._do("check", spec))

    def apply(self, spec: Spec, token: int) -> Document:
        """Make the host run *spec*."""
        return cast("Document", self._do("apply", spec, token))

    def confirm(self, program: str, token: int) -> Document:
        """Cancel the revert timer."""
        return cast("Document", self._do("confirm", program, token))

    def status(self, program: str | None = None) -> Document:
        """Return the status document."""
        return cast("Document", self._do("status", program))

    def ask(self, question: Document) -> Document:
        """Ask a service on the host."""
        return cast("Document", self._do("ask", question))

    def renew(self, program: str, lease_s: float) -> Document:
        """Extend a lease."""
        return cast("Document", self._do("renew", program, lease_s))

    def remove(self, program: str, token: int) -> Document:
        """Undo everything of *program*."""
        return cast("Document", self._do("remove", program, token))

    def records(self, program: str, *, since: int | None = None, limit: int = 100) -> list[bytes]:
        """Return the newest records of *program*, or the first after *since*."""
        return cast("list[bytes]", self._do("records", program, since=since, limit=limit))


def agent_executors(
    hosts: Mapping[str, Host],
    artefacts: Artefacts,
    *,
    connect: Callable[..., Connection] = open_connection,
    timeout_s: float = 10.0,
    deadline_s: float = 600.0,
    kept: Kept | None = None,
) -> ExecutorFactory:
    """Return a factory of executors, over SSH or locally; *hosts* holds jump hosts, *deadline_s* bounds one call.

    Connections stay open in *kept*, by default one of its own.
    """

    without: set[str] = set()  # hosts that turned out to have no Python
    keeping = Kept() if kept is None else kept

    @contextmanager
    def opened(host: Host, *, fresh: bool = False) -> Iterator[Executor]:
        opening = functools.partial(connect, host, hosts=hosts, timeout_s=timeout_s)
        with keeping.lend(host, hosts, opening, fresh=fresh) as connection:
            agent = AgentExecutor(host, connection, artefacts, deadline_s=deadline_s)
            alone = RunnerExecutor(host, connection, artefacts, deadline_s=deadline_s)
            yield HostExecutor(host.name, agent, alone, without)

    return opened
