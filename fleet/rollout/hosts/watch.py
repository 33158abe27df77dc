"""Reading a host's status: is it running what it was told, and what does it cost. Changes nothing, judges nothing.

A status comes from a host: every number is checked, text is bounded, a missing thing is missing and never zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from btf.fault import printable
from fleet.record.rollout_views import SampleView

_ENDED = ("tripped", "expired", "reverted", "stopped", "failed", "waiting", "crash-looping")
_CUT_OFF = ("COR-AGT-024", "COR-AGT-026")  # the agent's reasons: a reboot, or a death, before the order got to its end


@dataclass(frozen=True, slots=True)
class Observed:
    """What a status says of one program. ``state`` is the agent's word, or ``absent``."""

    state: str
    token: int | None
    alive: bool
    reason: str | None
    applied: int | None
    entry: Mapping[str, Any]

    @property
    def cut_off(self) -> bool:
        """Whether the order itself broke off on the host; what is seen is what was before it."""
        return (self.reason or "").startswith(_CUT_OFF)

    @property
    def ended(self) -> bool:
        """Whether it ran and no longer does."""
        return self.state in _ENDED and not self.cut_off

    def runs(self, build: str, token: int) -> bool:
        """Whether exactly this order stands: its token, its build, alive in the kernel."""
        same = self.token == token and self.entry.get("build") == build
        return same and self.state == "running" and self.alive and not self.cut_off


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return None
    return float(value)


def _whole(value: Any) -> int | None:
    number = _number(value)
    return None if number is None or number > 2**63 - 1 else int(number)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def observe(status: Mapping[str, Any], program: str) -> Observed:
    """Find *program* in a status document."""
    entries = status.get("programs")
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, Mapping) and entry.get("program") == program:
            reason = entry.get("reason")
            return Observed(
                state=printable(str(entry.get("state", "unknown")), 32),
                token=_whole(entry.get("token")),
                alive=_mapping(entry.get("observed")).get("alive") is True,
                reason=printable(str(reason), 300) if reason else None,
                applied=_whole(entry.get("applied")),
                entry=entry,
            )
    return Observed("absent", None, alive=False, reason=None, applied=None, entry={})


def boot_of(status: Mapping[str, Any]) -> str | None:
    """Return the host's boot id."""
    value = status.get("boot_id")
    return printable(value, 64) if isinstance(value, str) and value else None


def kernel_of(status: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return build-id and release of the kernel the host runs now."""
    kernel = _mapping(status.get("kernel"))
    found = [kernel.get("build_id"), kernel.get("release")]
    build_id, release = (printable(v, 128) if isinstance(v, str) and v else None for v in found)
    return build_id, release


def sample_of(
    status: Mapping[str, Any], *, host: str, program: str, rollout_id: str, wave: int, at: float,
    token: int | None, boot_id: str | None, last: float | None = None,
) -> SampleView:  # fmt: skip
    """Turn a status into a sample. ``tripped`` says that the host stopped the program; a reboot is never a pass.

    A host measures at its own pace: a window that ended at *last* (the host's clock) was taken before, and is not
    counted again, so that one bad second is one sample however often it is looked at.
    """
    seen = observe(status, program)
    base = SampleView(host, program, rollout_id, wave, at)
    kept = {k: seen.entry[k] for k in ("state", "reason", "sample", "watchdog", "applied") if k in seen.entry}
    outcome = "ok"
    if boot_id is not None and boot_of(status) not in (None, boot_id):
        outcome = "rebooted"
    elif seen.state == "absent" or (token is not None and seen.token != token) or seen.ended or not seen.alive:
        outcome = "absent"
    cost = _mapping(seen.entry.get("sample"))
    if outcome == "ok" and (not cost or (last is not None and measured_at(status, program) == last)):
        outcome, cost = "idle", {}  # runs, and no new window is over yet
    return SampleView(
        base.host, base.program, base.rollout_id, base.wave, base.at,
        outcome=outcome,
        window_s=_number(cost.get("window_s")) or 0.0,
        cpu_percent=_number(cost.get("cpu_percent")),
        ns_per_event=_number(cost.get("ns_per_event")),
        events=_whole(cost.get("events")),
        memory_bytes=_whole(cost.get("memory_bytes")),
        lost=_whole(cost.get("lost")),
        loss_percent=_number(cost.get("loss_percent")),
        tripped=seen.state == "tripped",
        document=kept,
    )  # fmt: skip


def measured_at(status: Mapping[str, Any], program: str) -> float | None:
    """Return when the last window of *program* ended, by the host's clock; None before the first."""
    return _number(_mapping(observe(status, program).entry.get("sample")).get("at"))


def lease_due(status: Mapping[str, Any], program: str, lease_s: float) -> bool:
    """Whether a lease of *lease_s* seconds is past its half, by the host's clock."""
    expires = _number(_mapping(observe(status, program).entry.get("lease")).get("expires"))
    now = _number(status.get("now"))
    return lease_s > 0 and expires is not None and now is not None and expires - now < lease_s / 2


def missing_sample(
    host: str, program: str, rollout_id: str, wave: int, at: float, *, outcome: str, detail: str
) -> SampleView:
    """Return the sample of a host that gave none: ``unreachable`` or ``error``."""
    return SampleView(host, program, rollout_id, wave, at, outcome=outcome, document={"detail": printable(detail)})
