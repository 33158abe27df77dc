"""The dead man's revert: a detached process, armed before a networking program attaches, that undoes it unless
``confirm`` comes over a new connection. It needs neither the holder nor the controller to be alive.
"""

import time
from typing import Any, Dict, Optional

from probes.agent.faults import UNCONFIRMED, NothingToConfirm, Refusal
from probes.agent.launch import end_holder, undo_all
from probes.agent.process import alive, detach, own_command
from probes.agent.scope import boot_id
from probes.agent.spec import check_spec
from probes.agent.state import Place, boot_seconds, forget, locked, note, read_json, write_json
from probes.agent.variant import same_family

LOOK_S = 1.0


def arm(place: Place, token: int, after_s: float) -> None:
    """Write when the revert is due, then start its timer."""
    document = {"token": token, "at": time.time() + after_s, "at_boot": boot_seconds() + after_s, "boot_id": boot_id()}
    write_json(place.revert, document)
    detach(own_command("revert", "--state", place.root, "--program", place.program, "--token", str(token)), place.log)


def disarm(place: Place) -> None:
    """Cancel the revert; idempotent. The timer finds its file gone and ends."""
    forget(place.revert)


def pending(place: Place) -> Optional[Dict[str, Any]]:
    """Return the armed revert of this boot, or None."""
    armed = read_json(place.revert)
    return armed if armed and armed.get("boot_id") == boot_id() else None


def confirm(place: Place, token: int) -> bool:
    """Cancel the revert that waits for *token*; False when it was confirmed before. Raises NothingToConfirm."""
    armed = pending(place)
    state = read_json(place.state) or {}
    if armed and armed.get("token") == token:
        disarm(place)
        note(place, "confirmed", token=token)
        return True
    if not armed and state.get("token") == token and state.get("state") == "running":
        return False
    raise NothingToConfirm(
        "nothing of token %d waits; the state is %s" % (token, state.get("state") or "never applied")
    )


def wait_and_revert(place: Place, token: int) -> bool:
    """Wait until the revert of *token* is due and do it; False when it was cancelled. This is the timer process."""
    while True:
        armed = pending(place)
        if not armed or armed.get("token") != token:
            return False
        rest_s = float(armed["at_boot"]) - boot_seconds()
        if rest_s <= 0:
            with locked(place.root, 3600):
                armed = pending(place)
                if armed and armed.get("token") == token:
                    perform(place)
                    return True
            return False
        time.sleep(min(rest_s, LOOK_S))


def perform(place: Place) -> None:
    """Undo what was not confirmed: hold the predecessor again when there was one, else leave nothing. Lock held."""
    from probes.agent.apply import put_back

    state = read_json(place.state) or {}
    spec = check_spec(state["intent"] if state.get("intent") else state["spec"])
    before = check_spec(state["previous"]) if state.get("previous") and not state.get("intent") else None
    if state.get("intent") and state.get("spec") and alive(state.get("holder")):
        before = check_spec(state["spec"])
    text = "%s: generation %d was not confirmed in time" % (UNCONFIRMED, spec.generation)
    left = end_holder(place, state)
    fields: Dict[str, Any] = {"holder": None}
    if before:
        try:
            fields = put_back(place, before, state)
            left += [] if same_family(before, spec) else undo_all(place, spec)
            text += "; generation %d is back" % before.generation
        except Refusal as refusal:
            left += ["generation %d did not come back: %s" % (before.generation, refusal)]
            before = None
    if not before:
        left += undo_all(place, spec)
    text += "; left: " + "; ".join(left) if left else ""
    fields.update(state="reverted", reason=text, intent=None, previous=None, at=time.time())
    write_json(place.state, dict(state, **fields))
    disarm(place)
    note(place, "reverted", reason=text)
