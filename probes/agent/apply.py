"""Apply: the steps from a spec to a running program, as data, each with its undo; one interpreter runs them.

Nothing is attached that the state does not name first. A failure undoes the done steps in reverse and says what is
left. What ran before goes on until the new one is ready, and comes back when the new one fails.
"""

import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional

from probes.agent import calibrate, revert
from probes.agent import scope as scopes
from probes.agent.faults import KernelDiffers, NotAttached, Refusal, StaleToken, StateUnwritable
from probes.agent.launch import Candidate, end_holder, forget_sites, launch, site_of, undo_all
from probes.agent.observe import observe
from probes.agent.spec import Spec, check_spec
from probes.agent.state import Place, boot_seconds, forget, note, read_json, write_json
from probes.agent.status import standing
from probes.agent.variant import Site, same_family
from probes.agent.verify import check_artefacts, loaded_before, verify_load

SCHEMA = "corollout.state/1"

# An apply that is repeated with its own token finds its work done when the host itself ended the program since.
SETTLED = ("running", "tripped", "expired", "reverted", "crash-looping")


class Attempt:
    """One apply under way; the steps hand their results on through it."""

    def __init__(self, place: Place, spec: Spec, token: int, before: Dict[str, Any]) -> None:
        self.place = place
        self.spec = spec
        self.token = token
        self.before = before
        self.site: Site = site_of(place, spec)
        self.candidate: Optional[Candidate] = None
        self.applied = int(before.get("applied") or 0)
        self.left: List[str] = []
        here = before.get("boot_id") == scopes.boot_id() and before.get("state") != "stopped"
        # What may still be in place: it runs, or its holder died and what it pinned stays, or its apply was cut off.
        self.leftovers = [check_spec(before[k]) for k in ("spec", "intent", "failed") if here and before.get(k)]
        self.predecessor = self.leftovers[0] if here and before.get("spec") else None

    @property
    def previous(self) -> Optional[Spec]:
        """The spec that ran when this apply began, if one did."""
        return self.predecessor if self.before.get("state") == "running" else None

    def write(self, state: str, **fields: Any) -> None:
        """Replace the state: what was before, with *fields* over it."""
        document = dict(self.before, schema=SCHEMA, program=self.spec.program, token=self.token, at=time.time())
        document.update(state=state, applied=self.applied, boot_id=scopes.boot_id(), **fields)
        write_json(self.place.state, document)


def _digests(attempt: Attempt) -> None:
    check_artefacts(attempt.site)


def _kernel(attempt: Attempt) -> None:
    check_kernel(attempt.spec)


def _verify(attempt: Attempt) -> None:
    scopes.resolve(attempt.spec.scope)
    if attempt.spec.static and attempt.spec.variant.startswith("core"):
        scopes.pin_folder(attempt.spec.program)
    if loaded_before(attempt.site) is None:
        verify_load(attempt.site)
    calibrate.ensure(attempt.place.root, attempt.spec.files.get("runner"))


def _arm(attempt: Attempt) -> None:
    if attempt.spec.revert_s > 0:
        revert.arm(attempt.place, attempt.token, attempt.spec.revert_s)


def _disarm(attempt: Attempt) -> None:
    revert.disarm(attempt.place)


def _intent(attempt: Attempt) -> None:
    write_json(attempt.place.spec, attempt.spec.document())
    attempt.write("applying", reason=None, intent=attempt.spec.document())
    note(attempt.place, "intent", token=attempt.token, generation=attempt.spec.generation)


def _start(attempt: Attempt) -> None:
    attempt.candidate = launch(attempt.site)
    attempt.applied += 1
    attempt.write("applying", reason=None, intent=attempt.spec.document())
    note(attempt.place, "attached", token=attempt.token, generation=attempt.spec.generation)


def _stop(attempt: Attempt) -> None:
    """Undo a start. A networking predecessor whose hooks were replaced is put back; else what is left is removed."""
    if attempt.candidate:
        attempt.candidate.stop()
    if not attempt.spec.static:
        return
    old = attempt.predecessor
    if old and same_family(old, attempt.spec):
        if attempt.candidate:
            attempt.before.update(put_back(attempt.place, old, attempt.before), state="running")
    else:
        attempt.left += undo_all(attempt.place, attempt.spec)


def _read_back(attempt: Attempt) -> None:
    assert attempt.candidate
    status = {"ready": attempt.candidate.ready, "child": attempt.candidate.child}
    observed = observe(attempt.place.root, attempt.spec, status)
    if not observed["alive"]:
        raise NotAttached("the child says ready, and the kernel does not show what it says", observed=observed)


def _commit(attempt: Attempt) -> None:
    assert attempt.candidate
    lease(attempt.place, attempt.spec.lease_s)
    previous = attempt.previous
    attempt.write(
        "running",
        reason=None,
        intent=None,
        failed=None,
        restarts=None,
        spec=attempt.spec.document(),
        previous=previous.document() if previous else None,
        holder=attempt.candidate.known,
        retiring=attempt.before.get("holder") if previous else None,
    )


def _retire(attempt: Attempt) -> None:
    """End the predecessor, now that the new one stands, and undo what it left if the new one does not replace that."""
    attempt.left += end_holder(attempt.place, attempt.before)
    over = [old for old in attempt.leftovers if not same_family(old, attempt.spec)]
    attempt.left += undo_all(attempt.place, *over)


def _promote(attempt: Attempt) -> None:
    assert attempt.candidate
    attempt.candidate.promote()


class Step(NamedTuple):
    """One step of an apply, and what takes it back; None when it changes nothing that needs it."""

    name: str
    do: Callable[[Attempt], None]
    undo: Optional[Callable[[Attempt], None]]


CHECKS = (Step("digests", _digests, None), Step("kernel", _kernel, None), Step("verify", _verify, None))

STEPS = CHECKS + (
    Step("arm", _arm, _disarm),
    Step("intent", _intent, None),
    Step("start", _start, _stop),
    Step("read-back", _read_back, None),
    Step("commit", _commit, None),
    Step("retire", _retire, None),
    Step("promote", _promote, None),
)


def check_kernel(spec: Spec) -> None:
    """Raise KernelDiffers unless this is the kernel the plan was made for: by build-id, else by release."""
    here = scopes.kernel()
    for key in ("build_id", "release"):
        if spec.kernel[key] and here[key]:
            if spec.kernel[key] != here[key]:
                raise KernelDiffers("planned for %s %s, this is %s" % (key, spec.kernel[key], here[key]))
            return


def lease(place: Place, lease_s: float) -> Optional[float]:
    """Write the lease and return when it ends (wall clock); 0 seconds is none at all."""
    if not lease_s:
        forget(place.lease)
        return None
    expires = time.time() + lease_s
    write_json(
        place.lease,
        {"expires": expires, "lease_s": lease_s, "expires_boot": boot_seconds() + lease_s, "boot_id": scopes.boot_id()},
    )
    return expires


def fence(before: Dict[str, Any], token: int) -> None:
    """Raise StaleToken when *token* is older than the one this host has seen."""
    seen = int(before.get("token") or 0)
    if token < seen:
        raise StaleToken("token %d is older than %d" % (token, seen), token=seen)


def apply(place: Place, spec: Spec, token: int) -> Dict[str, Any]:
    """Bring the spec to run, idempotently, under the lock the caller holds; return the answer's fields."""
    before = read_json(place.state) or {}
    fence(before, token)
    stands = standing(place, before)
    same = before.get("token") == token and before.get("spec") == spec.document()
    if same and stands.state in SETTLED:
        return _answer(before, already=True, state=stands.state)
    if stands.state != "running":
        before = dict(before, state=stands.state if before else None)
    place.make()
    attempt = Attempt(place, spec, token, before)
    done: List[Step] = []
    try:
        for step in STEPS:
            done.append(step)
            step.do(attempt)
    except Refusal as refusal:
        _undo(attempt, done, refusal)
        raise
    forget_sites(place, [spec, attempt.previous])
    return _answer(read_json(place.state) or {}, already=False, state="running", left=attempt.left)


def _undo(attempt: Attempt, done: List[Step], refusal: Refusal) -> None:
    """Take back the *done* steps in reverse, the failed one included, and settle the state truthfully."""
    for step in reversed(done):
        if step.undo:
            try:
                step.undo(attempt)
            except Refusal as trouble:
                attempt.left.append("%s: %s" % (step.name, trouble))
    left = attempt.left + list(refusal.more.get("left", []))
    refusal.more.update(step=done[-1].name, left=left)
    note(attempt.place, "failed", token=attempt.token, step=done[-1].name, reason=str(refusal), left=left)
    text = "%s (generation %d, step %s)" % (refusal, attempt.spec.generation, done[-1].name)
    text += "; left: " + "; ".join(left) if left else ""
    goes_on = standing(attempt.place, attempt.before).state == "running"
    fields: Dict[str, Any] = {}
    if not goes_on and not (attempt.predecessor and attempt.predecessor.static):  # a static one may still be in force
        fields = {"failed": attempt.spec.document(), "spec": None, "holder": None, "previous": None}
    try:
        attempt.write("running" if goes_on else "failed", reason=text, intent=None, retiring=None, **fields)
    except StateUnwritable:
        refusal.more["left"] = left + ["the state file could not be written"]


def put_back(place: Place, spec: Spec, state: Dict[str, Any]) -> Dict[str, Any]:
    """Hold *spec* again after a successor failed or was not confirmed; return the state's fields that changed."""
    end_holder(place, state)
    candidate = launch(site_of(place, spec))
    fields = {"spec": spec.document(), "holder": candidate.known, "retiring": None, "boot_id": scopes.boot_id()}
    write_json(place.state, dict(state, **fields))
    candidate.promote()
    return fields


def _answer(kept: Dict[str, Any], already: bool, **fields: Any) -> Dict[str, Any]:
    spec = kept.get("spec") or {}
    answer = {"already": already, "program": kept.get("program"), "token": kept.get("token")}
    answer.update(generation=spec.get("generation"), variant=spec.get("variant"), applied=kept.get("applied"))
    answer.update(fields)
    return answer
