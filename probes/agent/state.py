"""Where the agent keeps things, and how they are written so that a crash or a full disk loses nothing.

Each file has one kind of writer: ``state.json``, ``spec.json``, ``lease.json`` and ``revert.json`` belong to the verbs
under the lock; ``status.json`` and ``records.jsonl`` to the one holder that ``state.json`` names.
"""

import contextlib
import errno
import fcntl
import json
import os
import time
from typing import Any, Dict, Iterator, List, Optional

from probes.agent.faults import Busy, StateUnwritable

DEFAULT_ROOT = "/var/lib/corollout"
MAX_DOCUMENT = 32 * 1024 * 1024
MAX_JOURNAL = 1024 * 1024
CLOCK_BOOTTIME = 7  # time.CLOCK_BOOTTIME has a name only since Python 3.7


def boot_seconds() -> float:
    """Return seconds since boot, suspend included: a clock that nobody sets."""
    return time.clock_gettime(CLOCK_BOOTTIME)


class Place:
    """The files of one program under a state directory."""

    def __init__(self, root: str, program: str) -> None:
        self.root = root
        self.program = program
        self.folder = os.path.join(root, "programs", program)
        self.spec = os.path.join(self.folder, "spec.json")
        self.state = os.path.join(self.folder, "state.json")
        self.lease = os.path.join(self.folder, "lease.json")
        self.revert = os.path.join(self.folder, "revert.json")
        self.status = os.path.join(self.folder, "status.json")
        self.records = os.path.join(self.folder, "records.jsonl")
        self.journal = os.path.join(self.folder, "journal.jsonl")
        self.log = os.path.join(self.folder, "holder.log")
        self.checked = os.path.join(self.folder, "checked.json")
        self.work = os.path.join(self.folder, "work")

    def make(self) -> None:
        """Create the folders; idempotent."""
        make_folder(self.work)


def programs(root: str) -> List[str]:
    """Return the names of all programs that left a state here, sorted."""
    folder = os.path.join(root, "programs")
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return sorted(n for n in names if os.path.exists(os.path.join(folder, n, "state.json")))


def make_folder(path: str) -> None:
    """Create *path* and its parents for root's eyes only, or raise StateUnwritable."""
    try:
        os.makedirs(path, 0o700, exist_ok=True)
    except OSError as error:
        raise StateUnwritable("%s: %s" % (path, error.strerror)) from None


def write_bytes(path: str, data: bytes, mode: int = 0o600, durable: bool = True) -> None:
    """Replace *path* by *data*: all of it or none, also when the disk is full; *durable* survives a power cut."""
    beside = "%s.%d.new" % (path, os.getpid())
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(beside, path)
        if durable:
            _sync_folder(os.path.dirname(path))
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StateUnwritable("%s: %s" % (path, "the disk is full" if full else error.strerror)) from None


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: str, document: Any, durable: bool = True) -> None:
    """Replace *path* by *document* as JSON, atomically."""
    write_bytes(path, json.dumps(document, sort_keys=True).encode() + b"\n", durable=durable)


def read_json(path: str) -> Optional[Dict[str, Any]]:
    """Return the JSON object in *path*; None when it is not there or is no object."""
    try:
        with open(path, "rb") as file:
            document = json.loads(file.read(MAX_DOCUMENT).decode("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


class Watched:
    """A JSON file that is looked at often and changes seldom: it is read again only when it was replaced."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen: Any = ()
        self._document: Optional[Dict[str, Any]] = None

    def read(self) -> Optional[Dict[str, Any]]:
        """Return what ``read_json`` would."""
        try:
            found = os.stat(self._path)
            seen: Any = (found.st_ino, found.st_mtime, found.st_size)
        except OSError:
            seen = None
        if seen != self._seen:
            self._seen, self._document = seen, read_json(self._path)
        return self._document


_glanced: Dict[str, Watched] = {}


def glance(path: str) -> Optional[Dict[str, Any]]:
    """Return what ``read_json`` would, read once for each time it is replaced; what is returned must not be changed."""
    return _glanced.setdefault(path, Watched(path)).read()


def forget(path: str) -> None:
    """Remove a file; idempotent."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StateUnwritable("%s: %s" % (path, error.strerror)) from None


@contextlib.contextmanager
def locked(root: str, wait_s: float) -> Iterator[None]:
    """Hold the state directory's lock, waiting at most *wait_s* seconds, or raise Busy."""
    make_folder(root)
    path = os.path.join(root, "lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateUnwritable("%s: %s" % (path, error.strerror)) from None
    try:
        until = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= until:
                    raise Busy("another agent call has held %s for %g s" % (path, wait_s)) from None
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def note(place: Place, event: str, **fields: Any) -> None:
    """Append one line to the program's journal; a journal that cannot be written never stops the work."""
    line: Dict[str, Any] = {"at": time.time(), "event": event}
    line.update(fields)
    try:
        with contextlib.suppress(FileNotFoundError):
            if os.path.getsize(place.journal) > MAX_JOURNAL:
                os.replace(place.journal, place.journal + ".1")
        with open(place.journal, "ab") as file:
            file.write(json.dumps(line, sort_keys=True).encode() + b"\n")
    except OSError:
        pass
