"""Remove: undo everything a program put on this host, and keep a tombstone with the token that fences older calls."""

import time
from typing import Any, Dict, List

from probes.agent import revert, supervise
from probes.agent import scope as scopes
from probes.agent.apply import SCHEMA, fence
from probes.agent.faults import NotAttached, Refusal
from probes.agent.launch import end_holder, forget_sites, undo_all
from probes.agent.spec import check_spec
from probes.agent.state import Place, forget, note, read_json, write_json


def remove(place: Place, token: int) -> Dict[str, Any]:
    """Undo the program under the lock the caller holds; idempotent. Raises NotAttached when something is left."""
    state = read_json(place.state) or {}
    fence(state, token)
    place.make()
    tombstone: Dict[str, Any] = dict(state, schema=SCHEMA, program=place.program, token=token, at=time.time())
    tombstone.update(state="stopped", reason=None, holder=None, retiring=None, intent=None)
    tombstone.update(previous=None, restarts=None)
    tombstone.setdefault("applied", 0)
    tombstone.setdefault("boot_id", scopes.boot_id())
    specs = [check_spec(document) for document in _specs(state)]
    left = end_holder(place, state)
    if state.get("boot_id") == scopes.boot_id():
        left += undo_all(place, *specs)
    if left:
        reason = "%s: not all could be undone; left: %s" % (NotAttached.code, "; ".join(left))
        write_json(place.state, dict(tombstone, state="failed", reason=reason, spec=state.get("spec")))
        refusal: Refusal = NotAttached("not all of %s could be undone" % place.program, left=left)
        raise refusal
    write_json(place.state, tombstone)
    scopes.leave_bpffs(place.program)
    revert.disarm(place)
    forget(place.lease)
    forget_sites(place, [])
    supervise.retire(place.root)
    note(place, "removed", token=token)
    return {"program": place.program, "token": token, "already": state.get("state") in (None, "stopped")}


def _specs(state: Dict[str, Any]) -> List[Dict[str, Any]]:
    found: List[Dict[str, Any]] = []
    for key in ("intent", "spec", "failed", "previous"):
        document = state.get(key)
        if document and document not in found:
            found.append(document)
    return found
