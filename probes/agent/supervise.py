"""The supervisor: one process per state directory that starts what died again, and keeps promises of what hangs.

It acts under the lock, and only when that is free: an apply or a remove under way comes first. It decides nothing that
the spec does not say: ``boot`` after a reboot, ``restart`` after a death. When no program needs it, it takes itself
away.
"""

import contextlib
import fcntl
import os
import time
from typing import Any, Dict, Iterator, List

from probes.agent import guard, revert, units
from probes.agent import scope as scopes
from probes.agent.apply import check_kernel, put_back
from probes.agent.boot import after_boot, settle
from probes.agent.faults import CHILD_ENDED, CRASH_LOOPING, EXPIRED, Busy, Refusal, StateUnwritable
from probes.agent.launch import end_holder, undo_all
from probes.agent.process import alive, detach, identity, own_command, stopped
from probes.agent.process import stop as end_process
from probes.agent.spec import Spec, check_spec
from probes.agent.state import (
    Place,
    boot_seconds,
    forget,
    glance,
    locked,
    make_folder,
    note,
    programs,
    read_json,
    write_json,
)
from probes.agent.status import OVER, Read, Standing, standing

LOOK_S = 1.0
STUCK_S = 5.0  # a holder that is stopped (SIGSTOP) for so long is as good as dead
LATE_S = 5.0  # a holder has this long to notice by itself that its lease is over
_HELD = ("running", "reverted", "applying")


def path(root: str) -> str:
    """Return where the supervisor says who it is."""
    return os.path.join(root, "supervisor.json")


def needed(root: str, read: Read = read_json) -> bool:
    """Tell whether any program here is to be held or asked about by a supervisor."""
    return any(_wants(read(Place(root, name).state) or {}) for name in programs(root))


def _wants(state: Dict[str, Any]) -> bool:
    if state.get("state") in OVER and state.get("state") != "waiting":
        return False
    document = state.get("spec") or state.get("intent") or {}
    restart = dict(guard.DEFAULTS, **(document.get("restart") or {}))
    return bool(document) and (document.get("boot") != "stay-off" or restart["limit"] > 0)


def ensure(root: str) -> None:
    """See to it that a supervisor of this agent runs, now and after a boot, if one is needed. Lock held."""
    if not needed(root):
        retire(root)
        return
    command = own_command("supervise", "--state", root)
    if units.install(root, command):
        return
    running = read_json(path(root)) or {}
    if alive(running.get("process")):
        if running.get("command") == command:
            return
        end_process(running["process"], 5.0)  # an older agent's
    detach(command, os.path.join(root, "supervisor.log"))


def retire(root: str) -> None:
    """End the supervisor, and what starts it, when no program needs it any more; idempotent. Lock held."""
    if needed(root):
        return
    running = read_json(path(root)) or {}
    forget(path(root))
    units.uninstall(root)
    if alive(running.get("process")) and running["process"]["pid"] != os.getpid():
        end_process(running["process"], 5.0)
    for name in ("supervisor.log", "supervisor.lock"):
        forget(os.path.join(root, name))


def description(root: str) -> Dict[str, Any]:
    """Return the status document's ``supervisor``."""
    running = read_json(path(root)) or {}
    living = alive(running.get("process"))
    return {"needed": needed(root), "alive": living, "boot": units.starts_at_boot(root)}


def run(root: str) -> bool:
    """Supervise until no program needs it; False when another one does already."""
    with _only_one(root) as mine:
        if not mine:
            return False
        me = identity(os.getpid())
        write_json(path(root), {"process": me, "command": own_command("supervise", "--state", root)}, durable=False)
        watch = Supervisor(root)
        while True:
            if not needed(root, glance):
                with locked(root, 3600):
                    if not needed(root):  # an apply may have come in between
                        retire(root)
                        return True
            watch.look()
            time.sleep(LOOK_S)


@contextlib.contextmanager
def _only_one(root: str) -> Iterator[bool]:
    make_folder(root)
    descriptor = os.open(os.path.join(root, "supervisor.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        until = time.monotonic() + 2 * LOOK_S  # the one before may be about to end
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= until:
                    yield False
                    return
                time.sleep(0.05)
        yield True
    finally:
        os.close(descriptor)


class Supervisor:
    """Looks at every program again and again; what it remembers between looks is only how long a holder hangs."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._stuck: Dict[str, float] = {}

    def look(self) -> None:
        """Look at every program once, and act where something is to be done and nobody else is at it."""
        for name in programs(self.root):
            place = Place(self.root, name)
            try:
                if self._act(place, pretend=True):
                    with locked(self.root, 0):
                        self._act(place, pretend=False)
            except Busy:
                continue
            except Refusal as refusal:
                note(place, "supervisor", reason=str(refusal))

    def _act(self, place: Place, pretend: bool) -> bool:
        """Do what is to be done for one program; *pretend*: only tell whether there is anything."""
        read: Read = glance if pretend else read_json  # specs and counters can be large, and change seldom
        state = read(place.state) or {}
        if state.get("state") not in _HELD:
            return False
        if state.get("boot_id") != scopes.boot_id():
            return pretend or after_boot(place) is not None
        if self._overdue_revert(place):
            if not pretend:
                revert.perform(place)
            return True
        stands = standing(place, state, read)
        if stands.state == "applying" or not state.get("spec"):
            return False
        spec = check_spec(state["spec"])
        if stands.state in ("failed", "stopped"):
            return self._dead(place, spec, state, stands, pretend)
        if alive(state.get("holder")):
            return self._living(place, spec, state, pretend)
        return False

    def _overdue_revert(self, place: Place) -> bool:
        """Tell whether the revert timer missed its time: killed, or stopped."""
        armed = revert.pending(place)
        return armed is not None and boot_seconds() > float(armed["at_boot"]) + LATE_S

    def _dead(self, place: Place, spec: Spec, state: Dict[str, Any], stands: Standing, pretend: bool) -> bool:
        past = guard.history(state.get("restarts"), scopes.boot_id())
        if not spec.restarts["limit"] or revert.pending(place):
            return False  # it is not to be restarted; or nobody has confirmed it yet, and the revert decides
        pause_s = guard.wait_s(past, spec.restarts, boot_seconds())
        if pause_s is None or pause_s <= 0:
            if not pretend:
                reason = stands.reason or "%s: it ended" % CHILD_ENDED
                if pause_s is None:
                    _give_up(place, spec, state, past.last if past.last and not state.get("holder") else reason)
                else:
                    _restart(place, spec, state, past, reason)
            return True
        return False

    def _living(self, place: Place, spec: Spec, state: Dict[str, Any], pretend: bool) -> bool:
        now = boot_seconds()
        lease = read_json(place.lease)
        if lease and lease.get("boot_id") == scopes.boot_id() and now > float(lease["expires_boot"]) + LATE_S:
            if not pretend:
                _expire(place, spec, state)
            return True
        if stopped(state["holder"]["pid"]):
            since = self._stuck.setdefault(place.program, now)
            if now - since >= STUCK_S:
                if not pretend:
                    note(place, "stuck", holder=state["holder"], seconds=now - since)
                    end_holder(place, state, grace_s=0.0)
                    del self._stuck[place.program]
                return True
            return False
        self._stuck.pop(place.program, None)
        past = guard.history(state.get("restarts"), scopes.boot_id())
        up_since = past.recent[-1] if past.recent else _started(state["holder"])
        if guard.healthy(past, spec.restarts, up_since, now):
            if not pretend:
                write_json(place.state, dict(state, restarts=past.forgiven().document(scopes.boot_id())))
            return True
        return False


def _started(holder: Dict[str, Any]) -> float:
    return float(holder["start"]) / os.sysconf("SC_CLK_TCK")


def _restart(place: Place, spec: Spec, state: Dict[str, Any], past: guard.History, reason: str) -> None:
    """Hold *spec* again; the attempt is on disk before it is made, so a full disk makes none."""
    here = scopes.boot_id()
    past = past.tried(boot_seconds())._replace(last=reason)
    recorded = "running" if state.get("state") == "applying" else state.get("state")
    state = dict(state, state=recorded, intent=None, restarts=past.document(here))
    write_json(place.state, state)
    note(place, "restart", attempt=len(past.recent), reason=reason, token=state.get("token"))
    try:
        check_kernel(spec)
        put_back(place, spec, state)
    except StateUnwritable:
        raise
    except Refusal as refusal:
        write_json(place.state, dict(state, holder=None, restarts=past._replace(last=str(refusal)).document(here)))
        note(place, "not-restarted", reason=str(refusal))
        return
    note(place, "restarted", token=state.get("token"), generation=spec.generation)


def _give_up(place: Place, spec: Spec, state: Dict[str, Any], reason: str) -> None:
    limit = int(spec.restarts["limit"])
    text = "%s: died again after %d restarts; the last error: %s" % (CRASH_LOOPING, limit, reason)
    left = end_holder(place, state)
    settle(place, state, "crash-looping", text + _leave(place, spec, left))


def _expire(place: Place, spec: Spec, state: Dict[str, Any]) -> None:
    """End a lease for a holder that does not: it hangs, or somebody stopped it."""
    text = "%s: nobody renewed the lease, and the holder did not notice" % EXPIRED
    left = end_holder(place, state, grace_s=0.0)
    settle(place, state, "expired", text + _leave(place, spec, left))


def _leave(place: Place, spec: Spec, left: List[str]) -> str:
    """Undo what a program left that is not to stay in force; return how the reason goes on."""
    if spec.static and spec.budget["action"] == "static":
        return "; the last policy stays in force"
    left = left + undo_all(place, spec)
    return "; left: " + "; ".join(left) if left else ""
