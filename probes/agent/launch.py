"""Starting and stopping holders: the one place where an apply, a revert and a remove meet the holder."""

import json
import os
import socket
from typing import Any, Dict, List, Mapping, Optional

from probes.agent.faults import NotAttached, Refusal
from probes.agent.process import alive, detach, own_command, stop
from probes.agent.scope import boot_id
from probes.agent.spec import Spec
from probes.agent.state import Place, read_json, write_bytes
from probes.agent.variant import VARIANTS, Site
from probes.agent.verify import undo
from probes.agent.wire import Wire

STOP_S = 20.0
MAX_LOG = 1024 * 1024
_PROMOTE_S = 20.0


def site_of(place: Place, spec: Spec) -> Site:
    """Return the spec at its place, written to a file named by its digest so that two generations never share one."""
    path = os.path.join(place.work, "spec.%s.json" % spec.digest[:16])
    if not os.path.exists(path):
        place.make()
        write_bytes(path, json.dumps(spec.document(), sort_keys=True).encode())
    return Site(spec, place, path)


def forget_sites(place: Place, keep: List[Optional[Spec]]) -> None:
    """Remove the spec and fill files of generations that are over."""
    names = {"spec.%s.json" % spec.digest[:16] for spec in keep if spec}
    generations = {str(spec.generation) for spec in keep if spec}
    for name in os.listdir(place.work):
        stale_spec = name.startswith("spec.") and name not in names
        stale_fill = name.startswith("fill.") and name.rpartition(".")[2] not in generations
        if stale_spec or stale_fill:
            try:
                os.unlink(os.path.join(place.work, name))
            except OSError:
                pass


class Candidate:
    """A holder that is ready and waits to be promoted. ``ready`` is its child's event; ``known`` its identity."""

    def __init__(self, wire: Wire, ready: Dict[str, Any]) -> None:
        self.wire = wire
        self.ready = ready
        self.known: Dict[str, Any] = ready["holder"]
        self.child: Dict[str, Any] = ready["child"]

    def promote(self) -> None:
        """Make it the program's holder, or raise NotAttached."""
        self.wire.send({"order": "promote"})
        answer = self.wire.receive(_PROMOTE_S)
        self.wire.close()
        if not answer or answer.get("event") != "promoted":
            text = (answer or {}).get("message") or "it died"
            raise NotAttached("the holder was ready and did not stay: %s" % text)

    def stop(self) -> None:
        """End it; it undoes what a tracing variant did."""
        self.wire.close()
        stop(self.known, STOP_S)
        stop(self.child, STOP_S)


def launch(site: Site) -> Candidate:
    """Start a holder for the spec and wait until its child is ready, or raise NotAttached with what it said."""
    if os.path.exists(site.place.log) and os.path.getsize(site.place.log) > MAX_LOG:
        os.replace(site.place.log, site.place.log + ".1")
    ours, its = socket.socketpair()
    command = own_command(
        "hold", "--state", site.place.root, "--program", site.spec.program, "--spec", site.spec_file,
        "--control", str(its.fileno()),
    )  # fmt: skip
    detach(command, site.place.log, keep=[its.fileno()])
    its.close()
    wire = Wire(ours)
    answer = wire.receive(VARIANTS[site.spec.variant].ready_s + STOP_S + 10)
    if answer and answer.get("event") == "ready" and answer.get("holder") and answer.get("child"):
        return Candidate(wire, answer)
    wire.close()
    if answer is None:
        raise NotAttached("the holder ended before it was ready; see %s" % site.place.log)
    error = answer.get("error") or {}
    raise NotAttached(
        str(error.get("message") or answer.get("message") or "no reason given"),
        stage=str(error.get("stage") or "attach"),
        errno=str(error.get("errno") or ""),
        log=str(error.get("log") or "")[-8192:],
        left=answer.get("left") or [],
    )


def end_holder(place: Place, state: Mapping[str, Any], grace_s: float = STOP_S) -> List[str]:
    """End every process of the program that *state* or the last status names; return what would not end."""
    if state.get("boot_id") != boot_id():
        return []  # another boot's pids mean nothing now
    status = read_json(place.status) or {}
    known = [state.get("holder"), state.get("retiring")]
    if status.get("holder") in known:
        known.append(status.get("child"))
    return ["process %s" % k["pid"] for k in known if k and alive(k) and not stop(k, grace_s)]


def undo_all(place: Place, *specs: Optional[Spec]) -> List[str]:
    """Undo what each spec's variant can have left; return what is still there, in words."""
    left: List[str] = []
    for spec in specs:
        if spec is not None:
            try:
                left += undo(site_of(place, spec))
            except Refusal as refusal:
                left.append(str(refusal))
    return left
