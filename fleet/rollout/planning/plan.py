"""A frozen rollout: which host gets which build in which wave, and the exact spec of each. Values and their document.

A plan never changes; a host whose kernel or facts changed since is *stale* and is planned anew, not forced.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import msgspec

from btf.fault import EXIT_USAGE, Fault, printable
from fleet.rollout.planning.settings import WaveSettings
from fleet.rollout.planning.waves import PlannedHost, Skipped, Wave

__all__ = ["Plan", "PlanMalformed", "PlannedHost", "Skipped", "Wave", "build_id", "load_plan", "read_plan"]

SCHEMA = "corollout.plan/1"


class PlanMalformed(Fault):
    """A document that is not a plan, or was changed after it was made."""

    code = "COR-PLN-010"
    exit = EXIT_USAGE
    remedy = "Make the plan again with `corollout plan`."


@dataclass(frozen=True)
class Plan:
    """A frozen rollout. A spec is kept as what all hosts of a variant share, what its kernel adds, and what is its own.

    ``wishes``: what was asked for, so that the same can be planned anew.
    """

    id: str
    program: str
    created_at: float
    settings: WaveSettings
    waves: tuple[Wave, ...]
    skipped: tuple[Skipped, ...] = ()
    shared: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # variant → spec without the host's own part
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # host → what differs from all others
    controls: tuple[str, ...] = ()  # hosts of the last wave: without the program until then, to compare others with
    kernels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # id → build_id, release, btf (for core-btf)
    wishes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def hosts(self) -> tuple[PlannedHost, ...]:
        """All planned hosts, wave by wave."""
        return tuple(h for wave in self.waves for h in wave.hosts)

    @cached_property
    def by_name(self) -> Mapping[str, PlannedHost]:
        """All planned hosts by name, wave by wave."""
        return {h.host: h for wave in self.waves for h in wave.hosts}

    def spec(self, host: str) -> dict[str, Any]:
        """Return the spec for *host* (``docs/contracts.md``) or raise PlanMalformed when it is not planned."""
        planned = self.by_name.get(host)
        if planned is None:
            raise PlanMalformed(f"plan {self.id} has no host {host!r}")
        return self.spec_of(planned)

    @property
    def specs(self) -> Mapping[str, dict[str, Any]]:
        """The spec of every planned host, by host; each is put together when it is looked at."""
        return _Specs(self)

    def spec_of(self, planned: PlannedHost) -> dict[str, Any]:
        """Put together the spec of a host that is planned, or would be."""
        return {**self.shared[planned.variant], **own_part(planned, self.kernels, self.own.get(planned.host, {}))}

    def text(self) -> bytes:
        """Return the document as it is kept: JSON with the digest."""
        body = _encode(self)
        return body[:-1] + f',"digest":"{_sha256(body)}","schema":"{SCHEMA}"}}'.encode()

    @property
    def digest(self) -> str:
        """SHA-256 over the whole plan."""
        return _sha256(_encode(self))

    def document(self) -> dict[str, Any]:
        """Return the JSON document, with its digest."""
        document: dict[str, Any] = json.loads(self.text())
        return document


class _Specs(Mapping[str, dict[str, Any]]):
    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __getitem__(self, host: str) -> dict[str, Any]:
        return self._plan.spec_of(self._plan.by_name[host])

    def __iter__(self) -> Iterator[str]:
        return iter(self._plan.by_name)

    def __len__(self) -> int:
        return len(self._plan.by_name)


def own_part(planned: PlannedHost, kernels: Mapping[str, Mapping[str, Any]], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a host's spec has that others of its variant may not have: its name, its kernel, its own."""
    kernel = kernels.get(planned.kernel_id, {})
    return {
        "host": planned.host,
        "btf": kernel.get("btf") if planned.variant == "core-btf" else None,
        "kernel": {"build_id": kernel.get("build_id"), "release": kernel.get("release")},
        **own,
    }


def _encode(plan: Plan) -> bytes:
    return msgspec.json.encode({f.name: getattr(plan, f.name) for f in fields(plan)}, order="sorted")


def load_plan(document: Mapping[str, Any]) -> Plan:
    """Return the plan in *document*, or raise PlanMalformed; a plan changed by hand is refused by its digest."""
    return read_plan(json.dumps(document).encode())


def read_plan(text: bytes) -> Plan:
    """Return the plan in *text*, or raise PlanMalformed; a plan changed by hand is refused by its digest.

    One saved by an older version, which knew fewer settings, is as good as ever; one that says what is not known here
    is refused, because a wish that is not understood would not be kept.
    """
    try:
        head = msgspec.json.decode(text, type=_Head)
        if head.schema != SCHEMA:
            raise PlanMalformed(f"not a {SCHEMA} document")
        plan = msgspec.json.decode(text, type=Plan)
    except PlanMalformed:
        raise
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, Fault) as error:
        raise PlanMalformed(f"not a usable plan: {error}") from None
    body = _encode(plan)
    if _sha256(body) != head.digest:  # not as we would write it: what counts is how it was written
        written = msgspec.json.decode(text)
        kept = {name: value for name, value in written.items() if name not in ("digest", "schema")}
        if _sha256(msgspec.json.encode(kept, order="sorted")) != head.digest:
            raise PlanMalformed(f"plan {plan.id} was changed after it was made: its digest does not match")
        if lost := _lost(kept, msgspec.json.decode(body)):
            remedy = "Use the version of corollout that made it, or make the plan again with this one."
            raise PlanMalformed(f"plan {plan.id} says {printable(lost)!r}, which is not known here", remedy=remedy)
    return plan


def _lost(written: Any, read: Any, name: str = "") -> str:
    """Return the first name in *written* that reading it left out; empty when there is none."""
    if isinstance(written, dict) and isinstance(read, dict):
        parts = [(f"{name}.{key}".lstrip("."), value, read.get(key, _lost)) for key, value in written.items()]
    elif isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        parts = [(f"{name}[{n}]", *pair) for n, pair in enumerate(zip(written, read, strict=True))]
    else:
        return "" if written == read else name
    return next((found for part, value, ours in parts if (found := _lost(value, ours, part))), "")


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


class _Head(msgspec.Struct):
    schema: str = ""
    digest: str = ""


def build_id(kernel_id: str) -> str | None:
    """Return the GNU build-id in a kernel id, or None when the kernel is known by something weaker."""
    head = kernel_id.partition("/")[0]
    return None if head.startswith(("btf-", "uname-")) else head
