"""What stands on this host: the state files judged against the boot, the processes and the kernel. Changes nothing."""

import fcntl
import os
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional

from probes.agent import guard
from probes.agent import scope as scopes
from probes.agent.faults import HOLDER_GONE, INTERRUPTED, NOT_IN_KERNEL, REBOOTED, SpecMalformed
from probes.agent.observe import observe
from probes.agent.others import others
from probes.agent.process import alive
from probes.agent.spec import check_spec
from probes.agent.state import Place, boot_seconds, programs, read_json
from probes.agent.watchdog import Standing as WatchdogStanding

SCHEMA = "corollout.status/1"
VERSION = "1"


Read = Callable[[str], Optional[Dict[str, Any]]]

# What ``state.json`` says of a program that nobody is to hold: always, or when it names no holder.
OVER = ("stopped", "failed", "waiting", "crash-looping")
OVER_UNHELD = ("reverted", "tripped", "expired")


class Standing(NamedTuple):
    """A program's state and the reason for it; ``status`` is its living or last holder's document, or empty."""

    state: str
    reason: Optional[str]
    status: Dict[str, Any]


def standing(place: Place, state: Dict[str, Any], read: Read = read_json) -> Standing:
    """Return how *state* (of ``state.json``) stands now, by boot, process and the holder's last word."""
    status = read(place.status) or {}
    if not state.get("holder") or status.get("holder") != state.get("holder"):
        status = {}
    recorded, reason = str(state.get("state") or "stopped"), state.get("reason")
    if recorded in OVER or (recorded in OVER_UNHELD and not state.get("holder")):
        return Standing(recorded, reason, {})
    if state.get("boot_id") != scopes.boot_id():
        return Standing("stopped", "%s: the host has rebooted since" % REBOOTED, {})
    if status.get("state") in ("tripped", "expired", "failed", "stopped"):
        return Standing(str(status["state"]), status.get("reason"), status)
    living = alive(state.get("holder"))
    if recorded == "applying":
        if locked_by_another(place.root):
            return Standing("applying", reason, status)
        generation = (state.get("intent") or {}).get("generation")
        text = "%s: the apply of generation %s was cut off" % (INTERRUPTED, generation)
        return Standing("running" if living else "failed", text, status)
    if living:
        return Standing(recorded, reason, status)
    last = (state.get("restarts") or {}).get("last")
    if last and not state.get("holder"):
        return Standing("failed", str(last), status)
    stays = "; what it pinned stays in force" if (state.get("spec") or {}).get("fail_mode") == "static" else ""
    return Standing("failed", "%s: the holder died%s" % (HOLDER_GONE, stays), status)


def locked_by_another(root: str) -> bool:
    """Tell whether some agent call holds the lock."""
    try:
        descriptor = os.open(os.path.join(root, "lock"), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def program_status(place: Place) -> Optional[Dict[str, Any]]:
    """Return one program's row of the status document; None when it was never applied here."""
    state = read_json(place.state)
    if state is None:
        return None
    stands = standing(place, state)
    document = state.get("spec") or state.get("intent") or state.get("failed") or {}
    try:
        spec = check_spec(document)
    except SpecMalformed:
        spec = None
    observed: Dict[str, Any] = {"alive": False, "programs": []}
    if spec and state.get("boot_id") == scopes.boot_id():
        observed = observe(place.root, spec, stands.status)
    name, reason = stands.state, stands.reason
    if name == "running" and stands.status and not observed["alive"]:
        name, reason = "failed", "%s: the holder lives, and the kernel shows no program of it" % NOT_IN_KERNEL
    lease = read_json(place.lease)
    armed = read_json(place.revert)
    past = guard.history(state.get("restarts"), scopes.boot_id())
    return {
        "program": place.program,
        "variant": document.get("variant"),
        "build": document.get("build"),
        "generation": document.get("generation"),
        "spec": spec.digest if spec else None,
        "token": state.get("token"),
        "state": name,
        "reason": reason,
        "applied": state.get("applied", 0),
        "observed": observed,
        "sample": stands.status.get("sample"),
        "watchdog": stands.status.get("watchdog") or WatchdogStanding().document(),
        "lease": {"expires": _wall(lease["expires_boot"])} if lease and name == "running" else None,
        "revert": {"at": _wall(armed["at_boot"])} if armed and armed.get("boot_id") == scopes.boot_id() else None,
        "boot": document.get("boot"),
        "restarts": {"recent": len(past.recent), "boots": past.boots, "total": past.total, "last": past.last},
        "counters": stands.status.get("counters") or [],
        "errors": stands.status.get("errors") or {"count": 0, "last": None},
    }


def _wall(at_boot: float) -> float:
    """Return when seconds since boot will be, by the wall clock as it is now: somebody may have set it since."""
    return time.time() + float(at_boot) - boot_seconds()


def status_document(root: str, only: Optional[str]) -> Dict[str, Any]:
    """Return the status document of all programs, or of the *only* one asked for."""
    names = [only] if only else programs(root)
    rows: List[Dict[str, Any]] = []
    for name in names:
        row = program_status(Place(root, name))
        if row:
            rows.append(row)
    document = {
        "schema": SCHEMA,
        "ok": True,
        "boot_id": scopes.boot_id(),
        "kernel": scopes.kernel(),
        "now": time.time(),
        "agent": VERSION,
        "programs": rows,
    }
    if not only:
        document["others"] = others(p["id"] for row in rows for p in row["observed"]["programs"])
    return document
