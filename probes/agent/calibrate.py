"""What attaching costs on this host, measured by the runner once per boot and kept. Changes nothing else."""

import os
from typing import Any, Dict, Optional

from probes.agent.faults import CannotRun, NotHere, Refusal
from probes.agent.scope import boot_id
from probes.agent.state import programs, read_json, write_json
from probes.agent.store import artefact
from probes.agent.verify import run_child

_MS = 100
_LIMIT_S = 30.0


def stored_calibration(root: str) -> Dict[str, Any]:
    """Return this boot's calibration, or an empty one: then ``cost`` takes its defaults."""
    document = read_json(_path(root))
    return document if document and document.get("boot_id") == boot_id() else {}


def measure(root: str, runner: str) -> Dict[str, Any]:
    """Run the runner's calibration, keep it and return it; *runner* is a digest."""
    status, events, stderr = run_child([artefact(root, runner), "calibrate", "--ms", str(_MS)], _LIMIT_S)
    found = [e for e in events if e.get("event") == "calibration"]
    if status or not found:
        raise CannotRun("the runner could not calibrate: %s" % (stderr.strip() or "status %d" % status))
    document = {
        "boot_id": boot_id(),
        "runner": runner,
        "floor_ns": _positive(found[0].get("floor_ns")),
        "stats_ns": _positive(found[0].get("stats_ns")),
        "attach_ns": {str(k): _positive(v) for k, v in (found[0].get("attach_ns") or {}).items()},
        "absent": [str(v) for v in found[0].get("absent") or []],
    }
    write_json(_path(root), document)
    return document


def ensure(root: str, runner: Optional[str]) -> None:
    """Calibrate when this boot has not been; a host that cannot goes on with the defaults."""
    if runner is None or stored_calibration(root):
        return
    try:
        measure(root, runner)
    except Refusal:
        pass


def any_runner(root: str) -> str:
    """Return the digest of a runner that some program here uses, or raise NotHere."""
    for name in programs(root):
        state = read_json(os.path.join(root, "programs", name, "state.json")) or {}
        digest = ((state.get("spec") or {}).get("files") or {}).get("runner")
        if digest and os.path.exists(artefact(root, digest)):
            return str(digest)
    raise NotHere("no runner has been staged by an apply yet; name one with --runner")


def _path(root: str) -> str:
    return os.path.join(root, "calibration.json")


def _positive(value: Any) -> float:
    return max(0.0, float(value)) if isinstance(value, (int, float)) else 0.0
