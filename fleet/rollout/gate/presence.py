"""The checks on whether hosts are done, answer and still run it: failures, silence, trips and reboots counted apart."""

from __future__ import annotations

from fleet.rollout.gate.check import FAILED_STEPS, GOOD_STEPS, Check, Wave

_OVER = GOOD_STEPS | FAILED_STEPS | {"unreachable", "skipped", "drifted"}  # no longer under way


def finished(wave: Wave) -> Check:
    """Is every host of the wave done, and does any run it?"""
    if not wave.steps:
        return Check("finished", "inconclusive", "the wave has no hosts")
    left = tuple(s.host for s in wave.steps if s.state not in _OVER)
    if left:
        return Check("finished", "inconclusive", f"still under way: {wave.share(left)}", hosts=left)
    if not wave.running and not any(s.state in FAILED_STEPS for s in wave.steps):
        return Check("finished", "inconclusive", "no host of the wave runs it", hosts=tuple(s.host for s in wave.steps))
    return Check("finished", "pass", f"all {len(wave.steps)} hosts are done")


def failures(wave: Wave) -> Check:
    """Did more hosts fail than may?"""
    failed = tuple(s.host for s in wave.steps if s.state in FAILED_STEPS)
    if len(failed) > wave.may_fail:
        return Check("failures", "fail", f"failed: {wave.share(failed)}, allowed {wave.may_fail}", hosts=failed)
    return Check("failures", "pass", f"{len(failed)} failed, allowed {wave.may_fail}")


def unreachable(wave: Wave) -> Check:
    """Did more hosts fall silent than are tolerated? Silence is neither good nor bad; that of controls is told too."""
    lost = tuple(
        h.host
        for h in wave.steps
        if h.state == "unreachable"
        or (h.state in GOOD_STEPS and (last := wave.samples.get(h.host)) and last[-1].outcome == "unreachable")
    )
    silent = [c for c in wave.controls if (seen := wave.samples.get(c)) and seen[-1].outcome == "unreachable"]
    beside = f"; of {len(wave.controls)} controls {len(silent)} silent too" if silent else ""
    allowed = 0 if wave.canary else int(len(wave.steps) * wave.settings.unreachable_percent / 100)
    if len(lost) > allowed:
        detail = f"no signal from {wave.share(lost)}, tolerated {allowed}{beside}"
        return Check("unreachable", "inconclusive", detail, wave.last_ids((*lost, *silent)), lost)
    return Check("unreachable", "pass", f"{len(lost)} unreachable, tolerated {allowed}{beside}")


def presence(wave: Wave) -> Check:
    """Installed is not running: the last look must have found it. A reboot in between proves nothing either way."""
    last = {h: wave.samples[h][-1] for h in wave.running if wave.samples.get(h)}
    gone = tuple(h for h, s in last.items() if s.outcome == "absent")
    if len(gone) > wave.may_fail:
        return Check("presence", "fail", f"no longer runs on {wave.share(gone)}", wave.last_ids(gone), gone)
    rebooted = tuple(h for h, s in last.items() if s.outcome == "rebooted")
    if rebooted:
        detail = f"rebooted meanwhile: {wave.share(rebooted)}"
        return Check("presence", "inconclusive", detail, wave.last_ids(rebooted), rebooted)
    seen = tuple(s.id for s in last.values())
    return Check("presence", "pass", f"seen running on {len(last) - len(gone)} hosts", seen)


def trips(wave: Wave) -> Check:
    """Did the hosts' own watchdogs stop it on more hosts than may fail?"""
    tripped = {s.host: s.id for samples in wave.samples.values() for s in samples if s.tripped}
    hosts = tuple(s.host for s in wave.steps if s.host in tripped)
    if len(hosts) > wave.may_fail:
        detail = f"the watchdog stopped it on {wave.share(hosts)}"
        return Check("watchdog", "fail", detail, tuple(tripped[h] for h in hosts), hosts)
    return Check("watchdog", "pass", f"{len(hosts)} watchdog trips, allowed {wave.may_fail}")


PRESENCE = (finished, failures, unreachable, presence, trips)
