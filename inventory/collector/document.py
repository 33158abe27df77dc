"""The collector's answer while it grows: facts by name, each with its source, raw value and errno.

Nothing here decides; it only keeps "not there", "denied" and "could not tell" apart. Python 3.6, standard library.
"""

import base64
import errno
import json
import os
import zlib
from typing import Any, Callable, Dict, Optional

SCHEMA = "corollout.facts/1"
PACKED = "packed:"
YES, NO, BLOCKED, UNKNOWN = "yes", "no", "blocked", "unknown"
MAX_RAW = 400
MAX_READ = 16 * 1024 * 1024

_DENIED = (errno.EPERM, errno.EACCES)
_ABSENT = (errno.ENOENT, errno.ENOTDIR)


def errno_name(number: int) -> str:
    """Return ``EPERM`` for 1; the kernel's own 524, which no C library names, is ``ENOTSUPP``."""
    if number == 524:
        return "ENOTSUPP"
    return errno.errorcode.get(number, str(number))


def answer_for(number: int) -> str:
    """Return the answer that an errno of opening or reading a file means."""
    if number in _DENIED:
        return BLOCKED
    return NO if number in _ABSENT else UNKNOWN


def read_bytes(path: str, limit: int = MAX_READ) -> bytes:
    """Return at most *limit* bytes of a file; raises OSError. In small steps: a sysctl refuses a large buffer."""
    parts, left = [], limit
    with open(path, "rb", buffering=0) as stream:
        while left > 0:
            part = stream.read(min(left, 65536))
            if not part:
                break
            parts.append(part)
            left -= len(part)
    return b"".join(parts)


def read_text(path: str, limit: int = MAX_READ) -> str:
    """Return the text of a file without its last newline; raises OSError."""
    return read_bytes(path, limit).decode("utf-8", "replace").rstrip("\n")


class Report:
    """Facts by name; a fact added twice keeps the last."""

    def __init__(self) -> None:
        self.facts: Dict[str, Dict[str, Any]] = {}

    def add(
        self,
        name: str,
        answer: str,
        value: Any = None,
        source: Optional[str] = None,
        raw: Any = None,
        error: Optional[int] = None,
    ) -> None:
        """Add one fact; *error* is an errno number."""
        fact = {"answer": answer}
        if value is not None:
            fact["value"] = value
        if source:
            fact["source"] = source
        if raw:
            fact["raw"] = str(raw)[:MAX_RAW]
        if error:
            fact["errno"] = errno_name(error)
        self.facts[name] = fact

    def yes(self, name: str, value: Any = None, source: Optional[str] = None, raw: Any = None) -> None:
        """Add a fact that was seen."""
        self.add(name, YES, value, source, raw)

    def no(self, name: str, source: Optional[str] = None, raw: Any = None) -> None:
        """Add a fact that was seen not to be there."""
        self.add(name, NO, None, source, raw)

    def unknown(self, name: str, source: Optional[str] = None, raw: Any = None) -> None:
        """Add a fact that could not be told."""
        self.add(name, UNKNOWN, None, source, raw)

    def failed(self, name: str, source: str, error: OSError) -> None:
        """Add the fact that an OSError of opening or reading *source* means."""
        number = error.errno or 0
        self.add(name, answer_for(number), None, source, os.strerror(number) if number else str(error), number)

    def read(self, name: str, path: str, parse: Callable[[str], Any] = str) -> Any:
        """Add the fact a file holds; *parse* turns its text into the value, and ValueError means ``unknown``."""
        try:
            text = read_text(path)
        except OSError as error:
            self.failed(name, path, error)
            return None
        try:
            value = parse(text)
        except ValueError:
            self.unknown(name, path, text)
            return None
        self.yes(name, value, path, text if not isinstance(value, str) else None)
        return value

    def present(self, name: str, path: str) -> bool:
        """Add whether *path* is there, and readable when it is a file."""
        try:
            if os.path.isdir(path):
                os.listdir(path)
            else:
                with open(path, "rb"):
                    pass
        except OSError as error:
            self.failed(name, path, error)
            return False
        self.yes(name, path, path)
        return True

    def fact(self, name: str) -> Dict[str, Any]:
        """Return a fact that was added, empty when there is none."""
        return self.facts.get(name, {})

    def value(self, name: str, default: Any = None) -> Any:
        """Return the value of a fact that was added."""
        return self.fact(name).get("value", default)

    def document(self, collected_at: float, took_ms: int, form: str = "python") -> Dict[str, Any]:
        """Return the whole as a ``corollout.facts/1`` document."""
        return {
            "schema": SCHEMA,
            "collector": {"form": form},
            "collected_at": collected_at,
            "took_ms": took_ms,
            "facts": self.facts,
        }


def encode(document: Dict[str, Any]) -> str:
    """Return the document as one line of ASCII."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def pack(line: str) -> str:
    """Return a line of ASCII as a shorter one for the journey, which :data:`PACKED` begins."""
    return PACKED + base64.b64encode(zlib.compress(line.encode("ascii"))).decode("ascii")
