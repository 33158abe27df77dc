"""The spec: what one host is asked to run. Strict: an unknown key, a wrong type or a number out of range is refused.

Checks form only; whether artefacts are there and the kernel fits is for ``apply``.
"""

import hashlib
import json
import re
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional, Tuple

from probes.agent import guard
from probes.agent.faults import SpecMalformed, Usage

SCHEMA = "corollout.spec/1"
MAX_SPEC = 16 * 1024 * 1024
PROGRAM = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}\Z")
DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_BUILD = re.compile(r"sha256:[0-9a-f]{64}\Z")
_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,252}\Z")
_PATH = re.compile(r"/[^\0]{0,1023}\Z")

# Which artefacts a variant cannot do without, by role.
ROLES: Mapping[str, Tuple[str, ...]] = {
    "core": ("object", "runner"),
    "core-btf": ("object", "runner"),
    "bcc": ("source",),
    "fallback": ("module",),
}
_KNOWN_ROLES = ("object", "runner", "source", "module", "adapter")

Check = Callable[[Any], bool]


def _text(pattern: "re.Pattern[str]") -> Check:
    return lambda v: isinstance(v, str) and pattern.match(v) is not None


def _number(low: float, high: float) -> Check:
    return lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and low <= v <= high


def _integer(low: int, high: int) -> Check:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high


def _one_of(*values: str) -> Check:
    return lambda v: isinstance(v, str) and v in values


def _or_null(check: Check) -> Check:
    return lambda v: v is None or check(v)


def _object_of(rows: Mapping[str, Check], required: Tuple[str, ...] = ()) -> Check:
    return lambda v: (
        isinstance(v, dict)
        and all(k in rows and rows[k](item) for k, item in v.items())
        and all(k in v for k in required)
    )


def _files(value: Any) -> bool:
    digest = _text(DIGEST)
    return isinstance(value, dict) and all(k in _KNOWN_ROLES and digest(v) for k, v in value.items())


def _symbols(value: Any) -> bool:
    symbol = _text(_SYMBOL)
    return isinstance(value, list) and len(value) <= 64 and all(symbol(v) for v in value)


BUDGET: Mapping[str, Check] = {
    "cpu_percent": _number(0, 6400),
    "ns_per_event": _number(0, 1e9),
    "memory_mib": _number(0, 65536),
    "loss_percent": _number(0, 100),
    "interval_s": _number(0.05, 3600),
    "strikes": _integer(1, 100),
    "action": _one_of("detach", "static"),
}

# How a program that died is started again; left out, the rows of guard.DEFAULTS count. A limit of 0 is never.
RESTART: Mapping[str, Check] = {
    "limit": _integer(0, 100),
    "window_s": _number(1, 86400),
    "backoff_s": _number(0, 3600),
    "healthy_s": _number(0.1, 86400),
}

_short = _text(re.compile(r"[^\0]{0,256}\Z"))

FIELDS: Mapping[str, Check] = {
    "schema": _one_of(SCHEMA),
    "program": _text(PROGRAM),
    "kind": _one_of("tracing", "networking"),
    "variant": _one_of(*ROLES),
    "build": _text(_BUILD),
    "generation": _integer(0, 2**53),
    "host": _text(_HOST),
    "files": _files,
    "btf": _or_null(_text(DIGEST)),
    "record": _or_null(_text(_SYMBOL)),
    "optional": _symbols,
    "scope": _object_of({"kind": _one_of("host", "netns", "cgroup"), "path": _or_null(_text(_PATH))}, ("kind",)),
    "config": lambda v: isinstance(v, dict),
    "budget": _object_of(BUDGET, tuple(BUDGET)),
    "fail_mode": _one_of("detach", "static"),
    "boot": _one_of("reattach", "stay-off", "ask"),
    "lease_s": _number(0, 366 * 86400),
    "revert_s": _number(0, 86400),
    "kernel": _object_of({"build_id": _or_null(_short), "release": _or_null(_short)}, ("build_id", "release")),
    "restart": _or_null(_object_of(RESTART)),
}
_MAY_LACK = ("restart",)  # younger than the first specs


class Spec(NamedTuple):
    """A spec that has been checked; ``budget``, ``scope``, ``kernel`` and ``config`` keep their JSON form."""

    schema: str
    program: str
    kind: str
    variant: str
    build: str
    generation: int
    host: str
    files: Dict[str, str]
    btf: Optional[str]
    record: Optional[str]
    optional: Tuple[str, ...]
    scope: Dict[str, Any]
    config: Dict[str, Any]
    budget: Dict[str, Any]
    fail_mode: str
    boot: str
    lease_s: float
    revert_s: float
    kernel: Dict[str, Any]
    restart: Optional[Dict[str, Any]] = None

    def document(self) -> Dict[str, Any]:
        """Return the JSON document this was parsed from."""
        document = dict(self._asdict(), optional=list(self.optional))
        if self.restart is None:
            del document["restart"]
        return document

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical document: equal digests ask for the same."""
        return hashlib.sha256(json.dumps(self.document(), sort_keys=True).encode()).hexdigest()

    @property
    def tag(self) -> str:
        """What everything outside our state directory is marked with."""
        return "corollout:%s:%d" % (self.program, self.generation)

    @property
    def artefacts(self) -> Dict[str, str]:
        """Every digest the spec needs, by role."""
        needed = dict(self.files)
        if self.btf:
            needed["btf"] = self.btf
        return needed

    @property
    def static(self) -> bool:
        """Whether what is attached outlives the agent: it fails static."""
        return self.fail_mode == "static"

    @property
    def restarts(self) -> Dict[str, float]:
        """How it is started again when it died: every row of ``guard.DEFAULTS``."""
        return dict(guard.DEFAULTS, **(self.restart or {}))


def check_spec(document: Any) -> Spec:
    """Return the checked spec or raise SpecMalformed naming the first bad key."""
    if not isinstance(document, dict):
        raise SpecMalformed("the spec is not a JSON object")
    for key in document:
        if key not in FIELDS:
            raise SpecMalformed("the spec has an unknown key %r" % str(key)[:64])
    for key, check in FIELDS.items():
        if key not in document:
            if key in _MAY_LACK:
                continue
            raise SpecMalformed("the spec has no %r" % key)
        if not check(document[key]):
            raise SpecMalformed("the spec's %r is not valid" % key)
    for role in ROLES[document["variant"]]:
        if role not in document["files"]:
            raise SpecMalformed("variant %s needs a file in the role %r" % (document["variant"], role))
    if document["variant"] == "core-btf" and not document["btf"]:
        raise SpecMalformed("variant core-btf needs the digest of a BTF file")
    return Spec(**dict(document, optional=tuple(document["optional"])))


def parse_spec(data: bytes) -> Spec:
    """Parse a spec's bytes; hostile until it returns."""
    if len(data) > MAX_SPEC:
        raise SpecMalformed("the spec is larger than %d bytes" % MAX_SPEC)
    try:
        document = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise SpecMalformed("the spec is not JSON") from None
    return check_spec(document)


def check_program(name: str) -> str:
    """Return *name* when it can be a program's, or raise Usage."""
    if not PROGRAM.match(name):
        raise Usage("%r cannot be the name of a program" % name[:64])
    return name
