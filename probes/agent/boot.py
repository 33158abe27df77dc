"""Reboot policy: what becomes of each program when the boot is not the one it was attached in. Lock held by callers.

A program is attached again only where its spec says so, on the kernel it was chosen for, after its artefacts were
hashed and its build was loaded once more. What the host itself had ended stays ended, and what was never confirmed
counts as not confirmed.
"""

import time
from typing import Any, Dict, Optional

from probes.agent import guard, revert
from probes.agent import scope as scopes
from probes.agent.apply import CHECKS, Attempt, lease, put_back
from probes.agent.faults import (
    CRASH_LOOPING,
    KERNEL_CHANGED,
    REBOOTED,
    STAYS_OFF,
    UNCONFIRMED,
    WAITS,
    ArtefactAbsent,
    DigestMismatch,
    KernelDiffers,
    NotHere,
    Refusal,
    Rejected,
)
from probes.agent.spec import Spec, check_spec
from probes.agent.state import Place, boot_seconds, note, read_json, write_json
from probes.agent.status import OVER, OVER_UNHELD

_LASTING = (ArtefactAbsent, DigestMismatch, Rejected)  # trying again would not help


def after_boot(place: Place) -> Optional[str]:
    """Do what the program's spec says after a reboot; return its new state, None when there was nothing to do."""
    state = read_json(place.state)
    if state is None or state.get("boot_id") == scopes.boot_id():
        return None
    recorded = state.get("state")
    if recorded in OVER or (recorded in OVER_UNHELD and not state.get("holder")):
        return None
    status = read_json(place.status) or {}
    if status.get("holder") == state.get("holder") and status.get("state") in ("tripped", "expired"):
        return settle(place, state, str(status["state"]), status.get("reason"))
    armed = read_json(place.revert)
    document, reason = state.get("spec"), None
    if recorded == "applying":
        reason = "%s: the host rebooted in the middle of an apply" % REBOOTED
    elif armed and armed.get("token") == state.get("token"):
        document, recorded = state.get("previous"), "reverted"
        reason = "%s: the host rebooted before generation %s was confirmed" % (UNCONFIRMED, _generation(state))
    revert.disarm(place)
    if not document:
        return settle(place, state, "reverted" if recorded == "reverted" else "stopped", reason)
    spec = check_spec(document)
    if reason:
        state = dict(state, reason="%s; generation %d stands for it" % (reason, spec.generation))
    state = dict(state, spec=document, previous=None, state="reverted" if recorded == "reverted" else "running")
    return _POLICIES[spec.boot](place, spec, state)


def attach_waiting(place: Place) -> str:
    """Attach a program that waits for a person's word, or raise NotHere."""
    state = read_json(place.state) or {}
    if state.get("state") != "waiting" or not state.get("spec"):
        raise NotHere("%s does not wait; it is %s" % (place.program, state.get("state") or "unknown here"))
    return _reattach(place, check_spec(state["spec"]), dict(state, state="running", reason=None))


def settle(place: Place, state: Dict[str, Any], name: str, reason: Optional[str]) -> str:
    """Record that the program is *name* and that nobody holds it; return *name*."""
    fields = {"state": name, "reason": reason, "holder": None, "retiring": None, "intent": None, "at": time.time()}
    write_json(place.state, dict(state, boot_id=scopes.boot_id(), **fields))
    note(place, name, reason=reason, token=state.get("token"))
    return name


def _stay_off(place: Place, _spec: Spec, state: Dict[str, Any]) -> str:
    return settle(place, state, "stopped", "%s: the host rebooted, and its spec says stay-off" % STAYS_OFF)


def _ask(place: Place, _spec: Spec, state: Dict[str, Any]) -> str:
    text = "%s: the host rebooted, and its spec says ask: apply it anew, or `agent boot --program %s --yes`"
    return settle(place, state, "waiting", text % (WAITS, place.program))


def _reattach(place: Place, spec: Spec, state: Dict[str, Any]) -> str:
    """Check everything again, then hold *spec* under the token it had; a kernel that changed is never forced."""
    here = scopes.boot_id()
    past = guard.history(state.get("restarts"), here)
    past = past._replace(boots=past.boots + 1)
    state = dict(state, boot_id=here, holder=None, retiring=None, intent=None, restarts=past.document(here))
    if past.boots > spec.restarts["limit"] > 0:
        text = "%s: the host rebooted %d times without a healthy time in between" % (CRASH_LOOPING, past.boots - 1)
        return settle(place, state, "crash-looping", text)
    write_json(place.state, state)  # before the attempt: it may be what brings the host down
    lease(place, spec.lease_s)  # anew: time without a controller counts while it runs
    try:
        attempt = Attempt(place, spec, int(state.get("token") or 0), state)
        for step in CHECKS:
            step.do(attempt)
        put_back(place, spec, state)
    except KernelDiffers as refusal:
        text = "%s: kernel-changed: %s; it was not forced" % (KERNEL_CHANGED, refusal.message)
        return settle(place, state, "stopped", text)
    except _LASTING as refusal:
        return settle(place, state, "failed", "%s (after a reboot)" % refusal)
    except Refusal as refusal:  # the interface may not be up yet: the supervisor tries again, as often as it may
        past = past.tried(boot_seconds())._replace(last="%s (after a reboot)" % refusal)
        write_json(place.state, dict(state, restarts=past.document(here)))
        note(place, "not-reattached", reason=str(refusal), token=state.get("token"))
        return "failed"
    note(place, "reattached", token=state.get("token"), generation=spec.generation, boot_id=here)
    return str(state["state"])


def _generation(state: Dict[str, Any]) -> Any:
    return (state.get("spec") or {}).get("generation")


_POLICIES = {"stay-off": _stay_off, "ask": _ask, "reattach": _reattach}
