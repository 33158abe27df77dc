"""What the kernel says is there: programs by the descriptors of the process that holds them, or by their pins.

Nothing here believes a state file. Reads only.
"""

import os
from typing import Any, Dict, List, Mapping, Sequence

from probes.agent import scope as scopes
from probes.agent.faults import Refusal
from probes.agent.process import alive
from probes.agent.spec import Spec
from probes.agent.store import artefact
from probes.agent.verify import run_child


def held_programs(pid: int) -> Dict[int, str]:
    """Return id → tag of every BPF program that *pid* holds a descriptor of, links' programs included."""
    folder = "/proc/%d/fdinfo" % pid
    found: Dict[int, str] = {}
    try:
        names = os.listdir(folder)
    except OSError:
        return found
    for name in names:
        fields = _fields(os.path.join(folder, name))
        if "prog_id" in fields:
            try:
                found[int(fields["prog_id"])] = fields.get("prog_tag", "")
            except ValueError:
                continue
    return found


def _fields(path: str) -> Dict[str, str]:
    try:
        with open(path, "rb") as file:
            text = file.read(16384).decode("ascii", "replace")
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def observe(root: str, spec: Spec, status: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the status document's ``observed``: what is alive of what a holder's *status* tells of."""
    ready = status.get("ready") or {}
    claimed: Sequence[Mapping[str, Any]] = ready.get("programs") or []
    child = status.get("child")
    living = alive(child)
    observed: Dict[str, Any] = {"alive": False, "programs": []}
    if spec.variant.startswith("core") and spec.static:
        observed["programs"] = _pinned(root, spec)
        hooked = {p["name"] for p in observed["programs"] if p["attached"]}
        wanted = {p.get("name") for p in claimed if p.get("attached")}
        observed["alive"] = bool(hooked) and wanted <= hooked
    elif claimed:
        held = held_programs(child["pid"]) if living and child else {}
        observed["programs"] = [_row(p, held[p["id"]]) for p in claimed if p.get("id") in held]
        observed["alive"] = len(observed["programs"]) == len(claimed)
    else:
        observed["alive"] = living
    if ready.get("hooks"):
        observed["hooks"] = ready["hooks"]
    if "rules" in ready:
        observed["rules"] = ready["rules"]
    return observed


def _row(program: Mapping[str, Any], tag: str) -> Dict[str, Any]:
    return {"name": program.get("name"), "id": program.get("id"), "tag": tag, "attached": program.get("attached", [])}


def _pinned(root: str, spec: Spec) -> List[Dict[str, Any]]:
    """Return the pinned programs with the traffic control filters that run them, both as the kernel has them."""
    try:
        folder = scopes.pin_folder(spec.program)
        if not os.path.isdir(folder):
            return []
        status, events, _ = run_child([artefact(root, spec.files["runner"]), "pins", folder], 10)
    except Refusal:
        return []
    found = [e for e in events if e.get("event") == "pins"]
    if status or not found:
        return []
    hooks: Dict[Any, List[str]] = {}
    for row in found[0].get("filters", []):
        where = "tc:%s:%s" % (row.get("interface"), row.get("direction"))
        hooks.setdefault(row.get("program_id"), []).append(where)
    return [dict(_row(p, str(p.get("tag"))), attached=hooks.get(p.get("id"), [])) for p in found[0].get("programs", [])]
