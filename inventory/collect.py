"""Collect facts from many hosts at once: bounded fan-out, a deadline for each host, progress as it happens.

A host that is slow, dead or hostile costs itself its facts and nobody else's theirs. Decides nothing.
"""

from __future__ import annotations

import base64
import contextlib
import queue
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from btf.fault import EXIT_FAILURE, Fault, printable
from inventory.collector.bundle import collector_command, packed_source
from inventory.collector.document import PACKED
from inventory.connect import Connection
from inventory.connect.errors import Unreachable
from inventory.facts import MAX_DOCUMENT, Facts, parse_facts
from inventory.host import Host

Connect = Callable[[Host], Connection]
OnProgress = Callable[[Host, str], None]  # the host and what happens to it: connecting, collecting, done, failed

_PACKED = PACKED.encode()
_BTF_MAGIC = (b"\x9f\xeb", b"\xeb\x9f")
# Compressed where the host can; zlib's own level 1 and gzip's are enough for a factor of three in a tenth of a second.
_SEND_BTF = "file=/sys/kernel/btf/vmlinux; if command -v gzip >/dev/null 2>&1; then gzip -c <$file; else cat $file; fi"


class CollectorFailed(Fault):
    """The collector did not answer with a document."""

    code = "COR-INV-011"
    exit = EXIT_FAILURE
    remedy = "Log in by hand and run `python3 -V` and `sh -c true`: the host's shell, or its python3, does not work."


class DeadlinePassed(Unreachable):
    """A host did not finish within its share of time."""

    code = "COR-INV-012"
    remedy = "Scan it alone with a longer --timeout; the others were not held up."


class BtfUnavailable(Fault):
    """A host did not hand over its BTF."""

    code = "COR-INV-013"
    remedy = "Import BTF of exactly this kernel build from elsewhere (`corollout kernels import`)."


@dataclass(frozen=True, slots=True)
class ScanOutcome:
    """What came of one host: facts or a fault, never both and never neither; ``took_s`` in seconds."""

    host: Host
    facts: Facts | None
    fault: Fault | None
    took_s: float


def collect_facts(connection: Connection, *, timeout_s: float = 60.0) -> Facts:
    """Run the collector over one channel of *connection* and parse its document.

    Raises CollectorFailed, FactsMalformed, and whatever the connection raises.
    """
    done = connection.run(collector_command(), stdin=packed_source(), timeout=timeout_s, limit=MAX_DOCUMENT)
    if done.truncated:
        raise CollectorFailed(f"the answer is larger than {MAX_DOCUMENT} bytes and was cut off")
    line = document_line(done.stdout)
    if line is None:
        said = printable((done.stderr or done.stdout)[-400:].decode("utf-8", "replace"))
        raise CollectorFailed(f"no document came (status {done.status}): {said or 'no answer at all'}")
    return parse_facts(line)


def document_line(said: bytes) -> bytes | None:
    """Return the document of what a collector's shell said, unpacked; None when there is none.

    A login shell may greet first: the document is the last line that begins like one. Raises CollectorFailed.
    """
    lines = [line for line in said.splitlines() if line.startswith((b"{", _PACKED))]
    if not lines or not lines[-1].startswith(_PACKED):
        return lines[-1] if lines else None
    unpacker = zlib.decompressobj()
    try:
        line = unpacker.decompress(base64.b64decode(lines[-1][len(_PACKED) :], validate=True), MAX_DOCUMENT)
    except (ValueError, zlib.error) as error:
        raise CollectorFailed(f"the answer came broken: {error}") from None
    if not unpacker.eof:
        raise CollectorFailed(f"the answer is incomplete, or larger than {MAX_DOCUMENT} bytes")
    return line


def fetch_btf(connection: Connection, limit: int = 64 * 1024 * 1024, *, timeout_s: float = 120.0) -> bytes:
    """Return the host's vmlinux BTF, compressed on the wire; *limit* in bytes bounds it before and after.

    Raises BtfUnavailable, and whatever the connection raises.
    """
    done = connection.run(_SEND_BTF, timeout=timeout_s, limit=limit)
    if done.truncated:
        raise BtfUnavailable(f"the host's BTF is larger than {limit} bytes")
    data = done.stdout
    if data[:2] == b"\x1f\x8b":
        unpacker = zlib.decompressobj(wbits=31)
        try:
            data = unpacker.decompress(data, limit)
        except zlib.error as error:
            raise BtfUnavailable(f"the host's BTF came broken: {error}") from None
        if unpacker.unconsumed_tail:
            raise BtfUnavailable(f"the host's BTF is larger than {limit} bytes")
        if not unpacker.eof:
            raise BtfUnavailable("the host's BTF came incomplete")
    if data[:2] not in _BTF_MAGIC:
        said = printable(done.stderr.decode("utf-8", "replace")) or "what came is not BTF"
        raise BtfUnavailable(f"the host gave no BTF: {said}")
    return data


@dataclass(slots=True)
class _Job:
    """One host being worked on. ``abandoned`` tells its worker that nobody waits any more."""

    host: Host
    started: float = 0.0
    connection: Connection | None = None
    abandoned: threading.Event = field(default_factory=threading.Event)


_Event = tuple[_Job, str, Facts | None, Fault | None]


def scan(
    hosts: Iterable[Host],
    *,
    connect: Connect,
    on_progress: OnProgress | None = None,
    parallel: int = 32,
    deadline_s: float = 90.0,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[ScanOutcome]:
    """Yield one outcome for each host, as they come in; *deadline_s* counts from a host's own start.

    *on_progress* is called on the caller's thread. A host over its deadline is given up: its connection is closed, and
    another worker takes the place of the one that may still hang on it.
    """
    waiting: list[_Job] = [_Job(host) for host in reversed(list(hosts))]
    running: list[_Job] = []
    events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
    try:
        while waiting or running:
            while waiting and len(running) < max(1, parallel):
                job = waiting.pop()
                job.started = clock()
                running.append(job)
                threading.Thread(
                    target=_work, args=(job, connect, deadline_s, events), name=f"scan {job.host.name}", daemon=True
                ).start()
            next_deadline = min(job.started for job in running) + deadline_s
            with contextlib.suppress(queue.Empty):
                job, stage, facts, fault = events.get(timeout=max(0.0, min(next_deadline - clock(), 0.5)))
                if job in running:
                    if on_progress:
                        on_progress(job.host, stage)
                    if stage in ("done", "failed"):
                        running.remove(job)
                        yield ScanOutcome(job.host, facts, fault, clock() - job.started)
            for job in [job for job in running if clock() - job.started > deadline_s]:
                running.remove(job)
                _abandon(job)
                if on_progress:
                    on_progress(job.host, "failed")
                late = DeadlinePassed(f"{job.host.name}: not finished within {deadline_s:g} s")
                yield ScanOutcome(job.host, None, late, clock() - job.started)
    finally:
        for job in running:
            _abandon(job)


def _work(job: _Job, connect: Connect, deadline_s: float, events: queue.SimpleQueue[_Event]) -> None:
    """Collect one host's facts on a thread of its own; everything it has to say goes through *events*."""
    events.put((job, "connecting", None, None))
    try:
        with connect(job.host) as connection:
            job.connection = connection
            if job.abandoned.is_set():
                return
            events.put((job, "collecting", None, None))
            facts = collect_facts(connection, timeout_s=deadline_s)
    except Fault as fault:
        events.put((job, "failed", None, fault))
    except Exception as error:  # one host's surprise must not end the scan of the others
        surprise = CollectorFailed(f"{job.host.name}: unexpected {type(error).__name__}: {error}", remedy=Fault.remedy)
        events.put((job, "failed", None, surprise))
    else:
        events.put((job, "done", facts, None))


def _abandon(job: _Job) -> None:
    """Close a host's connection from outside, on a thread of its own, because closing may hang as well."""
    job.abandoned.set()
    if job.connection is not None:
        threading.Thread(target=job.connection.close, daemon=True).start()
