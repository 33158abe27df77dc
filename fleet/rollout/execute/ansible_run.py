"""One ansible-runner run for a slice of hosts: each host its own command and input, each its own end.

The play has one task, the collection's ``agent_call``, and gathers no facts. What a host says travels in files, so that
events stay small; events say only how it ended. The handler puts them on a queue and nothing else: a slow one would
turn a good play into an error (ansible-runner issue 1343). Everything of a run is in one folder, removed at its end.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from btf.fault import EXIT_FAILURE, printable
from fleet.rollout.execute.ansible_inventory import write_inventory
from fleet.rollout.execute.ansible_words import failed, unreachable
from fleet.rollout.execute.slices import Call
from inventory.connect import Completed
from inventory.connect.errors import CommandTimeout, Refused, Unreachable
from inventory.host import Host

FORKS = 25
GRACE_S = 60.0  # beyond what the calls of a run may take: starting, connecting, ending
_ENDS = ("runner_on_ok", "runner_on_failed", "runner_on_unreachable")
_PLAY = "Call the agent of each host of a slice"


class AnsibleUnusable(Refused):
    """Ansible itself did not get to any host."""

    code = "COR-ROL-025"
    exit = EXIT_FAILURE
    remedy = "Try `ansible -m ping` with the same inventory on this machine; --via ssh goes without Ansible."


class NotInInventory(Refused):
    """The user's Ansible inventory does not have the host."""

    code = "COR-ROL-026"
    remedy = "Names must be the same here and there: `ansible-inventory --list`, `corollout hosts list`."


def playbooks() -> Path:
    """Return the folder of our playbooks and collection: inside the wheel, or beside the packages."""
    import fleet

    package = Path(fleet.__file__).parent
    inside = package / "playbooks"
    return inside if inside.is_dir() else package.parent / "playbooks"


class AnsibleRun:
    """Runs slices; *folder* holds the files of runs, *hosts* the jump hosts, *inventory* is the user's own or None."""

    def __init__(self, hosts: Mapping[str, Host], folder: Path, *, inventory: Path | None, timeout_s: float) -> None:
        self._hosts = hosts
        self._folder = folder
        self._inventory = inventory
        self._timeout_s = timeout_s
        _sweep(folder)

    def carry(self, calls: Sequence[Call]) -> None:
        """Carry out *calls*, at most one per host, and set the answer of each as its host is done."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        place = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=self._folder))
        try:
            able = self._write(place, calls)
            if able:
                self._run(place, {call.host.name: call for call in able})
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _write(self, place: Path, calls: Sequence[Call]) -> list[Call]:
        """Write what the run reads; a call whose host cannot be reached as described is answered at once."""
        able = list(calls)
        if self._inventory is None:
            able, refused = write_inventory(place, calls, self._hosts, timeout_s=self._timeout_s)
            for call, fault in refused:
                call.answer.set_exception(fault)
        rows: dict[str, dict[str, Any]] = {}
        for number, call in enumerate(able):
            (place / f"{number}.in").write_bytes(call.stdin)
            rows[call.host.name] = {
                "command": call.command, "timeout": call.timeout, "limit": call.limit, "fresh": call.fresh,
                "files": str(place / str(number)),
            }  # fmt: skip
        (place / "calls.json").write_text(json.dumps(rows))
        (place / "ansible.cfg").touch()
        (place / "limit").write_text("".join(f"{name}\n" for name in rows))
        return able

    def _run(self, place: Path, calls: dict[str, Call]) -> None:
        events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        longest = max(call.timeout for call in calls.values())
        ended: dict[str, Any] = {}

        def run() -> None:
            try:
                import ansible_runner

                done = ansible_runner.run(
                    private_data_dir=str(place),
                    ident="run",
                    playbook=[_play(place / "calls.json")],
                    inventory=str(self._inventory.absolute() if self._inventory else place / "hosts.json"),
                    cmdline=f"--limit '@{place / 'limit'}'",
                    forks=min(len(calls), FORKS),
                    envvars=self._environment(place),
                    settings={"idle_timeout": longest + GRACE_S, "pexpect_timeout": 5},
                    timeout=int((longest + GRACE_S) * (1 + len(calls) // FORKS)),
                    event_handler=lambda event: events.put(event) or False,  # type: ignore[func-returns-value]
                    quiet=True,
                )
                ended.update(status=done.status, rc=done.rc)
            except Exception as error:  # whatever the library raises, hosts without an end are unknown
                ended["error"] = f"{type(error).__name__}: {error}"
            finally:
                events.put(None)

        threading.Thread(target=run, name="ansible", daemon=True).start()
        while (event := events.get()) is not None:
            if event.get("event") in _ENDS:
                self._end(calls, event)
        said = _said(place) or str(ended.get("error", ""))
        begun = any(call.answer.done() for call in calls.values())
        for name, call in calls.items():
            if call.answer.done():
                continue
            if ended.get("status") == "timeout":
                call.answer.set_exception(CommandTimeout(f"{name}: Ansible did not end in time"))
            elif self._inventory is not None and "could not match supplied host pattern" in said.lower():
                call.answer.set_exception(NotInInventory(f"{name}: {self._inventory} does not have it"))
            elif not begun and ended.get("rc") != 0:
                call.answer.set_exception(AnsibleUnusable(f"Ansible did not start: {printable(said, 300)}"))
            else:
                call.answer.set_exception(Unreachable(f"{name}: Ansible ended and said nothing of it: {said[:200]}"))

    @staticmethod
    def _end(calls: Mapping[str, Call], event: Mapping[str, Any]) -> None:
        """Set the answer of the host that *event* speaks of."""
        data = event.get("event_data") or {}
        result = data.get("res") or {}
        name = str(data.get("host"))
        call = calls.get(name)
        if call is None or call.answer.done():
            return
        if event["event"] == "runner_on_unreachable":
            call.answer.set_exception(unreachable(name, result.get("msg")))
        elif event["event"] == "runner_on_failed":
            call.answer.set_exception(failed(name, result, call.timeout))
        else:
            try:
                files = Path(str(result["files"]))
                out, err = (files.with_suffix(end).read_bytes() for end in (".out", ".err"))
                cut = result["truncated"] is True
                call.answer.set_result(Completed(int(result["status"]), out, err, truncated=cut))
            except (OSError, KeyError, TypeError, ValueError) as error:
                call.answer.set_exception(Unreachable(f"{name}: its answer is gone: {printable(str(error), 200)}"))

    def _environment(self, place: Path) -> dict[str, str]:
        """What Ansible is told; with hosts of ours no configuration of the user's has a say."""
        collections = str(playbooks() / "collections")
        told = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONUTF8": "1",
            "ANSIBLE_HOST_KEY_CHECKING": "True",  # the runner's own default is not to check
            "ANSIBLE_GATHERING": "explicit",
            "ANSIBLE_LOCAL_TEMP": str(place / "tmp"),
            "ANSIBLE_TIMEOUT": str(int(self._timeout_s) or 1),
            "ANSIBLE_SSH_ARGS": "-C -o ControlMaster=no -o ControlPath=none",  # a new connection is a new connection
            "ANSIBLE_COLLECTIONS_ON_ANSIBLE_VERSION_MISMATCH": "ignore",
            "ANSIBLE_DEPRECATION_WARNINGS": "False",
        }
        if self._inventory is None:
            told |= {"ANSIBLE_CONFIG": str(place / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": collections}
            told["ANSIBLE_INVENTORY_ENABLED"] = "ansible.builtin.yaml"
            return told
        theirs = Path("ansible.cfg").absolute()
        if "ANSIBLE_CONFIG" not in os.environ and theirs.is_file():
            told["ANSIBLE_CONFIG"] = str(theirs)  # the run has a folder of its own, and would not find it
        others = os.environ.get("ANSIBLE_COLLECTIONS_PATH", "~/.ansible/collections:/usr/share/ansible/collections")
        return {**told, "ANSIBLE_COLLECTIONS_PATH": f"{collections}:{others}"}


def _play(calls: Path) -> dict[str, Any]:
    task = {"name": "Call", "corollout.fleet.agent_call": {"calls": str(calls)}}
    return {"name": _PLAY, "hosts": "all", "gather_facts": False, "tasks": [task]}


def _said(place: Path) -> str:
    """The last of what Ansible wrote, as one line."""
    try:
        return printable((place / "artifacts" / "run" / "stdout").read_text(errors="replace")[-1000:], 800)
    except OSError:
        return ""


def _sweep(folder: Path) -> None:
    """Remove what runs of processes that were killed have left."""
    with contextlib.suppress(OSError):
        for place in folder.iterdir():
            pid = place.name.partition("-")[0]
            if pid.isdigit() and not Path(f"/proc/{pid}").exists():
                shutil.rmtree(place, ignore_errors=True)
