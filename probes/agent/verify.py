"""Short children: run one to its end and read what it says. Verify-load and undo go through here; nothing stays."""

import hashlib
import json
import os
import signal
import subprocess
import time
from typing import Any, Dict, List, Optional, Tuple

from probes.agent import scope as scopes
from probes.agent.faults import CannotRun, Rejected
from probes.agent.process import limit_memory
from probes.agent.state import read_json, write_json
from probes.agent.store import check_artefact
from probes.agent.variant import VARIANTS, Site, Variant

_MAX_OUTPUT = 8 * 1024 * 1024


def run_child(
    command: List[str], timeout_s: float, memory_mib: Optional[int] = None
) -> Tuple[int, List[Dict[str, Any]], str]:
    """Run *command*; return its exit status, its events and the end of its stderr. A slow one is killed, status -9."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # open and silent: children end when it closes
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise CannotRun("%s: %s" % (os.path.basename(command[0]), error.strerror)) from None
    limit_memory(process.pid, memory_mib)
    try:
        out, err = _read_both(process, timeout_s)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except OSError:
            pass
        status = process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    return status, _events(out), err[-4096:].decode("utf-8", "replace")


def _read_both(process: "subprocess.Popen[bytes]", timeout_s: float) -> Tuple[bytes, bytes]:
    import selectors

    parts: Dict[str, bytearray] = {"out": bytearray(), "err": bytearray()}
    until = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector:
        for stream, name in ((process.stdout, "out"), (process.stderr, "err")):
            assert stream is not None
            selector.register(stream, selectors.EVENT_READ, name)
        while selector.get_map() and time.monotonic() < until:
            for key, _ in selector.select(max(0.0, until - time.monotonic())):
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fileobj)
                elif len(parts[key.data]) < _MAX_OUTPUT:
                    parts[key.data] += data
    if time.monotonic() < until:
        try:
            process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
    return bytes(parts["out"]), bytes(parts["err"])


def _events(data: bytes) -> List[Dict[str, Any]]:
    events = []
    for line in data.split(b"\n"):
        try:
            event = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


def check_artefacts(site: Site) -> None:
    """Hash every artefact of the spec again, or raise ArtefactAbsent or DigestMismatch."""
    for role, digest in sorted(site.spec.artefacts.items()):
        check_artefact(site.place.root, role, digest)


def verify_load(site: Site) -> Dict[str, Any]:
    """Load the build without attaching it; return ``{"programs", "maps", "took_us"}`` or raise Rejected."""
    row = VARIANTS[site.spec.variant]
    began = time.monotonic()
    status, events, stderr = run_child(row.check(site), row.check_s, row.memory_mib)
    took_us = int((time.monotonic() - began) * 1e6)
    said = {str(e.get("event")): e for e in events}
    if status == 0 and "verified" in said:
        good = said["verified"]
        answer = {"programs": good.get("programs", []), "maps": good.get("maps", []), "took_us": took_us}
        if row.costly:
            write_json(site.place.checked, {"key": _key(site), "answer": answer}, durable=False)
        return answer
    bad = said.get("error", {})
    message = str(bad.get("message") or _ending(status, stderr, took_us >= row.check_s * 1e6, row))
    raise Rejected(
        message,
        stage=str(bad.get("stage") or "load"),
        errno=str(bad.get("errno") or ""),
        log=str(bad.get("log") or stderr)[-8192:],
        took_us=took_us,
    )


def loaded_before(site: Site) -> Optional[Dict[str, Any]]:
    """Return what ``verify_load`` said of the same artefacts in this boot, where checking costs much; else None."""
    if not VARIANTS[site.spec.variant].costly:
        return None
    kept = read_json(site.place.checked) or {}
    answer = kept.get("answer")
    return answer if kept.get("key") == _key(site) and isinstance(answer, dict) else None


def _key(site: Site) -> str:
    parts = [site.spec.variant, scopes.boot_id(), sorted(site.spec.artefacts.items())]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _ending(status: int, stderr: str, late: bool, row: Variant) -> str:
    """Say how a check ended that gave no reason itself; compilers warn at length, so the last line counts."""
    if late:
        return "the check did not end within %g s" % row.check_s
    lines = [line for line in stderr.splitlines() if line.strip()]
    if status >= 0:
        return lines[-1] if lines else "the check ended with status %d" % status
    bound = "" if row.memory_mib is None else ", it may have %d MiB for itself" % row.memory_mib
    return "the check was killed by signal %d%s: %s" % (-status, bound, lines[-1] if lines else "without a word")


def undo(site: Site) -> List[str]:
    """Undo what the variant can have left outside our state; return what is still left, in words."""
    row = VARIANTS[site.spec.variant]
    command = row.undo(site)
    if command is None:
        return []
    status, events, stderr = run_child(command, 60)
    if status == 0:
        return []
    said = [str(e.get("message", "")) for e in events if e.get("event") == "error"]
    return ["%s of %s: %s" % (site.spec.variant, site.spec.tag, (said or [stderr.strip() or "status %d" % status])[0])]
