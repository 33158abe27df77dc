"""An executor for hosts without Python: the static runner alone holds `core` builds of tracing programs.

The same promises as the agent's: orders with tokens, what is sent is checked by digest, what stands is read back from
the kernel. What needs Python on the host (readable records, other variants, programs that stay) is refused by name.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

from btf.fault import printable
from fleet.rollout.execute import AgentGarbled, AgentRefused, Document, Spec
from fleet.rollout.execute.artefacts import Artefacts
from inventory.connect import Completed, Connection
from inventory.host import Host
from probes.agent.faults import (
    HOLDER_GONE,
    REBOOTED,
    ArtefactAbsent,
    Busy,
    NotAttached,
    Rejected,
    ScopeUnresolved,
    StaleToken,
)
from probes.catalogue import RUNNER

MAX_ANSWER = 4 * 1024 * 1024
MAX_EVENTS = 4096
_NO_RUNNER = 97  # our exit codes, of the shell around the runner
_NO_GZIP = 96
_OWN_NETNS = "/proc/self/ns/net"
# The runner's words → the agent's codes: what the rollout decides on is the same for both.
_CODES = {"token": StaleToken.code, "lock": Busy.code, "open": ArtefactAbsent.code,
          **dict.fromkeys(("load", "btf", "map"), Rejected.code)}  # fmt: skip
_NEEDS_PYTHON = "COR-AGT-031"


@functools.cache
def runner() -> tuple[bytes, str]:
    """Return the runner and its SHA-256."""
    data = RUNNER.read_bytes()
    return data, hashlib.sha256(data).hexdigest()


@functools.lru_cache(maxsize=16)
def _packed(data: bytes) -> bytes:
    """Return what is sent of *data*; packed once, not for each host."""
    return gzip.compress(data, 6, mtime=0)


class RunnerExecutor:
    """Runs the runner's verbs over one open connection."""

    def __init__(self, host: Host, connection: Connection, artefacts: Artefacts, *, deadline_s: float) -> None:
        self._host = host
        self._connection = connection
        self._artefacts = artefacts
        self._deadline_s = deadline_s
        self._root = f"{host.state_dir}/alone"

    def stage(self, spec: Spec) -> int:
        """Bring the artefacts of *spec* that are missing; returns bytes sent."""
        _refuse_what_needs_python(spec)
        self._run("version")
        sent = 0
        for digest in _wanted(spec):
            path = self._artefact(digest)
            if self._shell(f"[ -f {shlex.quote(path)} ]").status:
                sent += self._bring(path, self._artefacts.get(digest), digest, mode="0600")
        return sent

    def check(self, spec: Spec) -> Document:
        """Verify-load without attaching."""
        return self._answer("verify", self._run("verify", *self._object(spec)), "verified")

    def apply(self, spec: Spec, token: int) -> Document:
        """Make the host run *spec*; the same token and build again change nothing."""
        budget = spec["budget"]
        limits = ",".join(
            f"{name}={budget[name]:g}"
            for name in ("cpu_percent", "ns_per_event", "memory_mib", "loss_percent", "strikes")
        )
        words = ["keep", *self._object(spec), *self._configured(spec), "--state", self._folder(spec["program"])]
        words += ["--token", str(token), "--build", str(spec["build"]), "--lease", f"{spec['lease_s']:g}"]
        words += ["--interval", f"{budget['interval_s']:g}", "--budget", limits]
        ready = self._answer("keep", self._run(*words), "ready", "kept")
        if ready.get("event") == "kept":
            return {**self._entry(spec["program"]), "already": True}
        return {"ok": True, "already": False, "observed": {"alive": True, "programs": ready.get("programs")}}

    def confirm(self, program: str, token: int) -> Document:
        """Nothing the runner holds has a revert timer: it ends with its process."""
        return {"ok": True, "program": program, "token": token, "already": True}

    def status(self, program: str | None = None) -> Document:
        """Return the status document, as the agent would."""
        events = self._events(self._run("kept", self._root, timeout=60.0))
        host = next((e for e in events if e.get("event") == "host"), None)
        if host is None:
            raise AgentGarbled(f"{self._host.name}: the runner does not say what stands")
        return {
            "schema": "corollout.status/1",
            "ok": True,
            "boot_id": host.get("boot_id"),
            "kernel": {"release": host.get("release"), "build_id": host.get("build_id") or None},
            "now": host.get("now"),
            "agent": "runner",
            "programs": [e for e in entries_of(events, host) if program in (None, e["program"])],
        }

    def ask(self, question: Document) -> Document:  # noqa: ARG002  the agent's signature
        """Refuse: what asks services needs Python on the host."""
        raise _python(f"services of {self._host.name} cannot be asked")

    def renew(self, program: str, lease_s: float) -> Document:
        """Extend a lease."""
        return self._answer(
            "renew", self._run("renew", "--state", self._folder(program), "--lease", f"{lease_s:g}"), "renewed"
        )

    def remove(self, program: str, token: int) -> Document:
        """End what is kept of *program*; idempotent."""
        done = self._run("stop", "--state", self._folder(program), "--token", str(token))
        return {"ok": True, **self._answer("stop", done, "stopped")}

    def records(self, program: str, *, since: int | None = None, limit: int = 100) -> list[bytes]:  # noqa: ARG002  the agent's signature
        """Refuse: what the runner wrote down is raw, and what makes it readable needs Python on the host."""
        raise _python(f"records of {program} are kept raw on {self._host.name}")

    def _entry(self, program: str) -> dict[str, Any]:
        return next((dict(e) for e in self.status(program)["programs"]), {})

    def _folder(self, program: str) -> str:
        return f"{self._root}/{program}"

    def _artefact(self, digest: str) -> str:
        return f"{self._host.state_dir}/artefacts/{digest}"

    def _object(self, spec: Spec) -> list[str]:
        words = [self._artefact(spec["files"]["object"])]
        words += ["--btf", self._artefact(spec["btf"])] if spec.get("btf") else []
        for name in spec["optional"]:
            words += ["--optional", name]
        return words

    def _configured(self, spec: Spec) -> list[str]:
        """What the program's adapter wants the runner told; evaluated here, for the host has no Python."""
        words = ["--record", spec["record"]] if spec.get("record") else []
        digest = spec["files"].get("adapter")
        function = getattr(_adapter(self._artefacts.get(digest)), "core_arguments", None) if digest else None
        wanted = function(spec["config"], self._scope(spec["scope"])) if function else {}
        if set(wanted) - {"set"}:
            raise _python(f"{spec['program']} is configured by more than single map entries")
        for text in wanted.get("set", ()):
            words += ["--set", text]
        return words

    def _scope(self, scope: Mapping[str, Any]) -> dict[str, Any]:
        """The scope with the inode numbers of the host; 0 where it does not restrict."""
        kind = scope["kind"]
        resolved = {"kind": kind, "netns": 0, "cgroup": 0}
        path = scope.get("path") or (_OWN_NETNS if kind == "netns" else None)
        if kind != "host":
            told = self._shell(f"ls -diL -- {shlex.quote(str(path))}").stdout.split()
            if not told or not told[0].isdigit():
                message = f"{path or 'no path'}: not there on {self._host.name}"
                document = {"ok": False, "code": ScopeUnresolved.code, "message": message}
                raise AgentRefused(message, agent_code=ScopeUnresolved.code, document=document)
            resolved[kind] = int(told[0])
        return resolved

    def _run(self, verb: str, *arguments: str, timeout: float | None = None) -> Completed:
        data, digest = runner()
        place = f"{self._host.state_dir}/agent/{digest}.runner"
        command = f"[ -x {shlex.quote(place)} ] || exit {_NO_RUNNER}; exec " + shlex.join([place, verb, *arguments])
        done = self._shell(command, timeout=timeout)
        if done.status == _NO_RUNNER:
            self._bring(place, data, digest, mode="0700")
            done = self._shell(command, timeout=timeout)
        return done

    def _shell(self, command: str, *, stdin: bytes = b"", timeout: float | None = None) -> Completed:
        return self._connection.run(command, stdin=stdin, timeout=timeout or self._deadline_s, limit=MAX_ANSWER)

    def _bring(self, place: str, data: bytes, digest: str, *, mode: str) -> int:
        """Upload beside the place, check the digest there, then put it in place; packed where the host can unpack."""
        quoted, folder = shlex.quote(place), shlex.quote(place.rpartition("/")[0])
        for unpack, sent in (("gzip -dc", _packed(data)), ("cat", data)):
            command = (
                f"umask 077 && mkdir -p {folder} && d={quoted}.$$ && {{ command -v {unpack.split()[0]} >/dev/null || "
                f"exit {_NO_GZIP}; }} && {unpack} > $d && echo {digest}'  '$d | sha256sum -c - >/dev/null && "
                f"chmod {mode} $d && mv $d {quoted} || {{ rm -f $d; exit 1; }}"
            )
            done = self._shell(command, stdin=sent)
            if done.status == 0:
                return len(sent)
            if done.status != _NO_GZIP:
                break
        said = printable(done.stderr.decode(errors="replace"), 200)
        raise AgentGarbled(f"{self._host.name}: {place.rpartition('/')[2][:12]} could not be put in place: {said}")

    def _events(self, done: Completed) -> list[dict[str, Any]]:
        found = []
        for line in done.stdout.splitlines()[:MAX_EVENTS]:
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict):
                found.append(event)
        return found

    def _answer(self, verb: str, done: Completed, *wanted: str) -> dict[str, Any]:
        events = self._events(done)
        error = next((e for e in events if e.get("event") == "error"), None)
        if error is not None:
            stage = str(error.get("stage"))
            words = printable(str(error.get("message", "no reason given")), 300)
            document = {**error, "ok": False, "code": _CODES.get(stage, NotAttached.code)}
            raise AgentRefused(words, agent_code=document["code"], document=document)
        answer = next((e for e in events if e.get("event") in wanted), None)
        if answer is None or done.status:
            said = printable((done.stderr or done.stdout).decode(errors="replace").strip() or "nothing", 200)
            raise AgentGarbled(f"{self._host.name}: runner {verb} ended with {done.status} and said {said}")
        return answer


def entries_of(events: Sequence[Mapping[str, Any]], host: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a status document from the runner's ``status`` and ``standing`` events, in their order.

    A ``standing`` follows its ``status``. Another boot's status is a reboot, a holder that is gone a death.
    """
    entries, said = [], {}
    for event in events:
        if event.get("event") == "status":
            said = dict(event)
        elif event.get("event") == "standing" and isinstance(event.get("program"), str):
            entries.append(_entry(event, said, host))
            said = {}
    return entries


def _entry(standing: Mapping[str, Any], said: Mapping[str, Any], host: Mapping[str, Any]) -> dict[str, Any]:
    state, reason = said.get("state") or "stopped", said.get("reason") or None
    alive = standing.get("alive") is True
    if state == "running" and not standing.get("holder"):
        rebooted = said.get("boot_id") != host.get("boot_id")
        state = "stopped" if rebooted else "failed"
        reason = f"{REBOOTED}: the host has rebooted since" if rebooted else f"{HOLDER_GONE}: the holder died"
    if standing.get("busy") and standing.get("holding") != standing.get("token"):
        state, reason = "applying", None
    expires = standing.get("lease_expires")
    return {
        "program": standing["program"], "variant": "core", "build": standing.get("build") or said.get("build"),
        "generation": None, "token": standing.get("token"), "state": state, "reason": reason, "applied": None,
        "observed": {"alive": alive, "programs": said.get("programs") if alive else []}, "sample": said.get("sample"),
        "watchdog": said.get("watchdog"), "lease": {"expires": expires} if expires and alive else None,
        "revert": None, "counters": [], "errors": {"count": 0, "last": None},
    }  # fmt: skip


def _wanted(spec: Spec) -> Iterable[str]:
    """What of a spec's artefacts a host without Python can use."""
    return dict.fromkeys([spec["files"]["object"], *([spec["btf"]] if spec.get("btf") else [])])


def _python(message: str) -> AgentRefused:
    document = {"ok": False, "code": _NEEDS_PYTHON, "message": message}
    remedy = "Install python3 on the host (3.6 or newer) and scan it again."
    return AgentRefused(f"{message}: needs Python", agent_code=_NEEDS_PYTHON, document=document, remedy=remedy)


def _refuse_what_needs_python(spec: Spec) -> None:
    for what, simple in (
        (f"variant {spec['variant']}", str(spec["variant"]).startswith("core")),
        (f"a {spec['kind']} program", spec["kind"] == "tracing"),
    ):
        if not simple:
            raise _python(f"{spec['program']}: {what}")


@functools.cache
def _adapter(source: bytes) -> ModuleType:
    module = ModuleType("corollout_adapter")
    exec(compile(source, "adapter.py", "exec"), module.__dict__)  # noqa: S102 - the program's own code, kept by its digest
    return module
