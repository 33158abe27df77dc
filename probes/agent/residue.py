"""What carries our mark on this host and belongs to no recorded program: found by looking, removed on request.

Ours is only what our mark proves: our folder on the BPF file system and the filters that run what is pinned there, our
tag in rules, sets and filters, our state directory in a process's command line or a unit's first line. What is not
proven is not touched. A program of any state directory that was used in this boot keeps what is its own.
"""

import glob
import hashlib
import os
import re
import shutil
import signal
import time
from functools import partial
from typing import Any, Dict, Iterator, List, Mapping, Optional, Set

from probes.agent import calibrate, residue_net, supervise, units
from probes.agent import scope as scopes
from probes.agent.faults import BpffsAbsent, NotHere, Refusal, StateUnwritable
from probes.agent.process import alive, identity, stop, stopped
from probes.agent.residue_net import Item
from probes.agent.state import Place, programs, read_json, write_bytes
from probes.agent.status import locked_by_another
from probes.agent.store import artefact
from probes.agent.verify import run_child

ROOTS = "/run/corollout/roots"
MAX_TOLD = 32
_OURS = ("hold", "child", "revert", "supervise")
_ENDS_ITSELF = ("revert", "supervise")  # within seconds of having nothing to do
_KEPT = re.compile(r"(state\.json|journal\.jsonl(\.1)?)\Z")  # a tombstone, and what happened
_DRAFT = re.compile(r"\.(\d+)\.new\Z")


def register(root: str) -> None:
    """Note that *root* is used in this boot, so that no other state directory's cleaning takes what is its own."""
    name = hashlib.sha256(root.encode()).hexdigest()[:16]
    try:
        os.makedirs(ROOTS, 0o755, exist_ok=True)
        write_bytes(os.path.join(ROOTS, name), root.encode(), durable=False)
        for path, one in _registered().items():
            if not os.path.isdir(one):
                os.unlink(path)
    except (OSError, StateUnwritable):
        pass  # no /run to write to: then there is one state directory here, or a careful person


def effects(root: str) -> List[Item]:
    """Return what is left that does something: processes, pins, filters, rules, sets, units."""
    claimed = _claimed(root)
    found = list(_pins(root, set(claimed)))
    found += [Item("process", text, partial(_end, known)) for text, known in _processes(root)]
    found += residue_net.found(claimed)
    for path, owner in sorted(units.owned().items()):
        if owner == root and not supervise.needed(root):
            found.append(Item("unit", path, partial(units.uninstall, root)))
        elif not os.path.isdir(owner):
            found.append(Item("unit", path, partial(units.uninstall, owner)))
    return found


def storage(root: str, older_s: float) -> List[Item]:
    """Return the files under *root* that nobody names any more and that are at least *older_s* seconds old."""
    paths = sorted(set(_unnamed_artefacts(root)) | set(_unused_agents(root)) | set(_remains(root)))
    limit = time.time() - older_s
    return [Item("file", path, partial(_unlink, path)) for path in paths if _changed(path) <= limit]


def told(root: str) -> List[Dict[str, str]]:
    """Return the status document's ``residue``: at most MAX_TOLD effects; nothing while an agent call is at work."""
    if locked_by_another(root):
        return []
    return [item.document() for item in effects(root)[:MAX_TOLD]]


def clean(root: str, older_s: float, check: bool) -> Dict[str, Any]:
    """Remove everything that is left, or with *check* only name it. Lock held; idempotent."""
    items = effects(root) + storage(root, older_s)
    removed: List[Dict[str, str]] = []
    left: List[Dict[str, str]] = []
    for item in [] if check else items:
        try:
            item.remove()
            removed.append(item.document())
        except (Refusal, OSError) as error:
            left.append(dict(item.document(), why=str(error)[:400]))
    if not check:
        _prune_folders(root)
    return {"residue": [item.document() for item in items] if check else left, "removed": removed}


def _registered() -> Dict[str, str]:
    """Return file → state directory of all that were used in this boot."""
    found = {}
    for path in glob.glob(os.path.join(ROOTS, "*")):
        try:
            with open(path, encoding="utf-8") as file:
                found[path] = file.read(4096)
        except (OSError, ValueError):
            continue
    return found


def _claimed(root: str) -> Dict[str, List[Dict[str, Any]]]:
    """Return program → states of it, one for each state directory of this boot where it may have something in place."""
    roots = [root] + [one for one in _registered().values() if os.path.isdir(one)]
    found: Dict[str, List[Dict[str, Any]]] = {}
    for one in dict.fromkeys(roots):
        for name in programs(one):
            state = read_json(Place(one, name).state) or {}
            if state.get("boot_id") == scopes.boot_id() and state.get("state") != "stopped":
                found.setdefault(name, []).append(state)
    return found


def _pins(root: str, claimed: Set[str]) -> Iterator[Item]:
    try:
        folder = os.path.dirname(scopes.pin_folder("any"))
        names = os.listdir(folder)
    except (BpffsAbsent, OSError):
        return
    for name in sorted(names):
        path = os.path.join(folder, name)
        if name not in claimed and os.path.isdir(path):
            yield Item("pins", path, partial(_unpin, root, path))


def _unpin(root: str, folder: str) -> None:
    """Remove pins with the filters that run what is pinned; the runner proves that they do."""
    runner = _runner(root)
    _, events, _ = run_child([runner, "pins", folder], 10)
    said = [e for e in events if e.get("event") == "pins"]
    words = [runner, "detach", "--pin", folder]
    for pins in said[:1]:
        names = {p.get("id"): p.get("name") for p in pins.get("programs", [])}
        for row in pins.get("filters", []):
            where = (names.get(row.get("program_id")), row.get("interface"), row.get("direction"))
            words += ["--attach", "%s=tc:%s:%s" % where]
    status, _, stderr = run_child(words, 30)
    if status or os.path.isdir(folder):
        raise StateUnwritable("%s: not all could be undone: %s" % (folder, stderr.strip() or "status %d" % status))
    scopes.leave_bpffs(os.path.basename(folder))


def _runner(root: str) -> str:
    """Return a runner: what a program here names, or else what is stored and says that it is one."""
    try:
        return artefact(root, calibrate.any_runner(root))
    except NotHere:
        for path in sorted(glob.glob(os.path.join(root, "artefacts", "*"))):
            with open(path, "rb") as file:
                head = file.read(17)
            executable = head[:4] == b"\x7fELF" and head[16:] in (b"\2", b"\3")  # ET_EXEC, ET_DYN; objects are ET_REL
            if executable and any(e.get("event") == "version" for e in run_child([path, "version"], 10)[1]):
                return path
        raise


def _processes(root: str) -> Iterator[Any]:
    """Yield (text, identity) of our processes that no state names: nor are they children of one that is named."""
    known: Set[int] = {os.getpid()}
    for name in programs(root):
        place = Place(root, name)
        state, status = read_json(place.state) or {}, read_json(place.status) or {}
        parties = [state.get("holder"), state.get("retiring")]
        if status.get("holder") == state.get("holder"):
            parties.append(status.get("child"))
        known |= _pids(parties)
    known |= _pids([(read_json(supervise.path(root)) or {}).get("process")])
    for pid, words in _command_lines():
        verb = _verb(root, words)
        if verb is None or pid in known or _parent(pid) in known:
            continue
        process = identity(pid)
        if process and (verb not in _ENDS_ITSELF or stopped(pid)):
            yield "%d: %s" % (pid, verb), process


def _pids(parties: List[Optional[Mapping[str, Any]]]) -> Set[int]:
    return {int(party["pid"]) for party in parties if party and alive(party)}


def _verb(root: str, words: List[str]) -> Optional[str]:
    """Return what a command line does for *root*, None when it is not ours or another state directory's."""
    if words and os.path.dirname(words[0]) == os.path.join(root, "artefacts"):
        return "runner"
    for verb in _OURS:
        if verb in words[2:5] and "--state" in words and words[words.index("--state") + 1 :][:1] == [root]:
            return verb
    return None


def _command_lines() -> Iterator[Any]:
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as file:
                words = file.read(65536).decode("utf-8", "replace").split("\0")[:-1]
        except OSError:
            continue
        yield int(path.split("/")[2]), words


def _parent(pid: int) -> int:
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            return int(file.read(4096).rpartition(b")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def _end(known: Dict[str, int]) -> None:
    if stopped(known["pid"]):
        os.kill(known["pid"], signal.SIGKILL)  # it would not take a SIGTERM
    if not stop(known, 10.0):
        raise StateUnwritable("process %d does not end" % known["pid"])


def _documents(root: str) -> Iterator[Dict[str, Any]]:
    """Yield every spec that a program here may still need."""
    for name in programs(root):
        state = read_json(Place(root, name).state) or {}
        if not _tombstone(state):
            yield from (d for d in (state.get(k) for k in ("spec", "intent", "failed", "previous")) if d)


def _tombstone(state: Dict[str, Any]) -> bool:
    return state.get("state") == "stopped" and not state.get("reason")


def _unnamed_artefacts(root: str) -> Iterator[str]:
    named: Set[Any] = set()
    for document in _documents(root):
        named |= set((document.get("files") or {}).values()) | {document.get("btf")}
    yield from (p for p in glob.glob(os.path.join(root, "artefacts", "*")) if os.path.basename(p) not in named)


def _unused_agents(root: str) -> Iterator[str]:
    """Yield the zipapps that no process runs and nothing starts, and what was compiled of them or half brought.

    A running one still imports from its files.
    """
    used = {word for _, words in _command_lines() for word in words[:3]}
    used |= set((read_json(supervise.path(root)) or {}).get("command") or ())
    for path in glob.glob(os.path.join(root, "agent", "*.pyz*")):
        if path[: path.rindex(".pyz") + 4] not in used:
            yield path


def _remains(root: str) -> Iterator[str]:
    """Yield what removed programs left but for their tombstones, and drafts whose writers died."""
    folder = os.path.join(root, "programs")
    idle = all(_tombstone(read_json(Place(root, name).state) or {}) for name in programs(root))
    if idle:
        yield from (p for p in (os.path.join(root, "calibration.json"),) if os.path.exists(p))
    for top, _, names in os.walk(root):
        for name in names:
            path = os.path.join(top, name)
            draft = _DRAFT.search(name)
            program = os.path.relpath(path, folder).split(os.sep)[0]
            gone = path.startswith(folder + os.sep) and _gone(Place(root, program))
            if (draft and not identity(int(draft.group(1)))) or (gone and not _KEPT.match(name)):
                yield path


def _gone(place: Place) -> bool:
    state = read_json(place.state)
    return state is None or _tombstone(state)


def _prune_folders(root: str) -> None:
    for top, folders, _ in os.walk(root, topdown=False):
        for name in folders:
            try:
                os.rmdir(os.path.join(top, name))
            except OSError:
                continue  # not empty


def _changed(path: str) -> float:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return float("inf")


def _unlink(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)
