"""Artefacts on the host, by their SHA-256. Only bytes that hash to their name ever get one."""

import hashlib
import os
import sys
import zlib
from types import ModuleType
from typing import BinaryIO, Iterable, List

from probes.agent.faults import ArtefactAbsent, DigestMismatch, StateUnwritable, Usage
from probes.agent.spec import DIGEST
from probes.agent.state import make_folder, write_bytes

MAX_ARTEFACT = 256 * 1024 * 1024
_CHUNK = 1024 * 1024


def artefact(root: str, digest: str) -> str:
    """Return the path of an artefact, there or not."""
    if not DIGEST.match(digest):
        raise Usage("%r is not a SHA-256 in hexadecimal" % digest[:80])
    return os.path.join(root, "artefacts", digest)


def missing(root: str, digests: Iterable[str]) -> List[str]:
    """Return those of *digests* that are not stored yet, in the order asked."""
    return [d for d in digests if not os.path.exists(artefact(root, d))]


def stage(root: str, digest: str, source: BinaryIO) -> int:
    """Store the zlib-compressed artefact read from *source*; return its size. Bounded, whatever it unpacks to."""
    path = artefact(root, digest)
    unpacker = zlib.decompressobj()
    parts: List[bytes] = []
    size = 0
    try:
        for packed in iter(lambda: source.read(_CHUNK), b""):
            rest = packed
            while rest:
                part = unpacker.decompress(rest, _CHUNK)
                rest = unpacker.unconsumed_tail
                size += len(part)
                if size > MAX_ARTEFACT:
                    raise DigestMismatch("the artefact unpacks to more than %d bytes" % MAX_ARTEFACT)
                parts.append(part)
        parts.append(unpacker.flush())
    except zlib.error:
        raise DigestMismatch("the artefact is not zlib data") from None
    data = b"".join(parts)
    if not unpacker.eof or hashlib.sha256(data).hexdigest() != digest:
        raise DigestMismatch("%d bytes arrived that do not hash to %s" % (len(data), digest))
    make_folder(os.path.dirname(path))
    write_bytes(path, data, mode=0o700)
    return len(data)


def check_artefact(root: str, role: str, digest: str) -> str:
    """Return the path of an artefact whose bytes still hash to *digest*, or raise."""
    path = artefact(root, digest)
    whole = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            for chunk in iter(lambda: file.read(_CHUNK), b""):
                whole.update(chunk)
    except FileNotFoundError:
        raise ArtefactAbsent("the %s %s is not on this host" % (role, digest)) from None
    except OSError as error:
        raise StateUnwritable("%s: %s" % (path, error.strerror)) from None
    if whole.hexdigest() != digest:
        raise DigestMismatch("the stored %s no longer hashes to %s" % (role, digest))
    return path


def load_module(root: str, role: str, digest: str) -> ModuleType:
    """Import a Python artefact from exactly the bytes that hash to *digest*; raises what the module raises."""
    path = artefact(root, digest)
    try:
        with open(path, "rb") as file:
            source = file.read(MAX_ARTEFACT)
    except OSError:
        raise ArtefactAbsent("the %s %s is not on this host" % (role, digest)) from None
    if hashlib.sha256(source).hexdigest() != digest:
        raise DigestMismatch("the stored %s no longer hashes to %s" % (role, digest))
    module = ModuleType("corollout_" + role)
    module.__file__ = path
    sys.modules[module.__name__] = module  # modules look themselves up, e.g. for NamedTuple
    exec(compile(source, path, "exec"), module.__dict__)
    return module
