"""Who drives a rollout: an id that tells whether its process still lives, and a heartbeat while it does."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from fleet.record import Record
from fleet.record.errors import RecordFault
from fleet.record.rollout_views import RolloutView

BEAT_S = 5.0
SILENT_S = 60.0  # a controller that was not heard of for this long may be taken over, whatever it is


def _started(pid: int) -> str | None:
    """The start time of a process in clock ticks since boot, which tells a reused pid; None when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _here() -> tuple[str, str]:
    """This boot and process namespace: in them, a pid means the same as to us."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")  # noqa: PTH115 - not a path, Path would try
    return boot, namespace


def new_id() -> str:
    """Return an id for this process and run: machine/boot/namespace/pid/start/random."""
    pid = os.getpid()
    return "/".join((socket.gethostname()[:40], *_here(), str(pid), _started(pid) or "0", secrets.token_hex(3)))


def alive(controller: str, silent_s: float, limit_s: float = SILENT_S) -> bool:
    """Whether *controller* still drives: its process is there, or cannot be seen from here and beat lately."""
    if silent_s > limit_s:
        return False
    parts = controller.split("/")
    if len(parts) != 6 or (parts[1], parts[2]) != _here() or not parts[3].isdigit():
        return True
    return _started(int(parts[3])) == parts[4]


def driver(view: RolloutView, now: float) -> str | None:
    """Return the controller that drives a rollout now, or None when nobody does; *now* in seconds since the epoch."""
    if view.controller is None or view.beat_at is None:
        return None
    return view.controller if alive(view.controller, now - view.beat_at) else None


@contextlib.contextmanager
def claimed(
    record: Record, rollout_id: str, controller: str, lost: threading.Event, *, silent_s: float = SILENT_S
) -> Iterator[None]:
    """Be the one controller of a rollout; sets *lost* when another one took it over. Raises ClaimRefused.

    One that was silent for *silent_s* may be taken over.
    """
    record.claim_rollout(rollout_id, controller, alive=lambda held, silent: alive(held, silent, silent_s))
    over = threading.Event()

    def beat() -> None:
        while not over.wait(min(BEAT_S, silent_s / 4)):
            # A record that is busy or full for one beat is for the workflow to report.
            with contextlib.suppress(RecordFault):
                if not record.beat(rollout_id, controller):
                    lost.set()
                    return

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with contextlib.suppress(RecordFault):  # an unreleased claim of an ended process is taken over by itself
            record.release_rollout(rollout_id, controller)
