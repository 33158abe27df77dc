"""Freeze a rollout: which host gets which build in which wave, and the exact spec of each.

Pure: choices in, plan out, the same for the same input. A plan never changes; a host whose kernel or facts changed
since is *stale* and is planned anew, not forced.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import msgspec

from btf.fault import EXIT_NO, EXIT_USAGE, Fault, printable
from fleet.compatibility.verdict import Choice, Verdict
from fleet.rollout.settings import WaveSettings
from inventory.facts import Facts
from inventory.host import Host
from probes.catalogue import Build, Program
from probes.manifest import Budget

SCHEMA = "corollout.plan/1"
SPEC_SCHEMA = "corollout.spec/1"


class PlanMalformed(Fault):
    """A document that is not a plan, or was changed after it was made."""

    code = "COR-PLN-010"
    exit = EXIT_USAGE
    remedy = "Make the plan again with `corollout plan`."


class PlanImpossible(Fault):
    """What was asked for cannot be planned."""

    code = "COR-PLN-011"
    exit = EXIT_USAGE
    remedy = "`corollout programs show` lists a program's scopes and variants."


class PlanStale(Fault):
    """Hosts changed since the plan was made."""

    code = "COR-PLN-002"
    exit = EXIT_NO
    remedy = "Plan again: `corollout plan` freezes the hosts as they are now."


@dataclass(frozen=True, slots=True)
class PlannedHost:
    """One host of a wave, with what the decision rested on."""

    host: str
    kernel_id: str
    variant: str
    build: str
    facts_digest: str


@dataclass(frozen=True, slots=True)
class Wave:
    """Hosts that are done together, in a stated order, then baked for ``bake_s`` seconds.

    ``window``: when it may be begun, and a host in it; empty for the settings' own. ``approval``: a person says when.
    """

    number: int
    name: str
    bake_s: float
    hosts: tuple[PlannedHost, ...]
    window: str = ""
    approval: bool = False


@dataclass(frozen=True, slots=True)
class Skipped:
    """A host that is left out: ``code`` is stable, ``detail`` one line for a person."""

    host: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A frozen rollout. Specs are kept as what all hosts of a variant share and what each has of its own."""

    id: str
    program: str
    created_at: float
    settings: WaveSettings
    waves: tuple[Wave, ...]
    skipped: tuple[Skipped, ...] = ()
    shared: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # variant → spec without the host's own part
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # host → its part
    controls: tuple[str, ...] = ()  # hosts of the last wave: without the program until then, to compare others with

    @property
    def hosts(self) -> tuple[PlannedHost, ...]:
        """All planned hosts, wave by wave."""
        return tuple(h for wave in self.waves for h in wave.hosts)

    def spec(self, host: str) -> dict[str, Any]:
        """Return the spec for *host* (``docs/contracts.md``) or raise PlanMalformed when it is not planned."""
        planned = next((h for h in self.hosts if h.host == host), None)
        if planned is None:
            raise PlanMalformed(f"plan {self.id} has no host {host!r}")
        return self._spec(planned)

    @property
    def specs(self) -> dict[str, dict[str, Any]]:
        """The spec of every planned host, by host."""
        return {h.host: self._spec(h) for h in self.hosts}

    def _spec(self, planned: PlannedHost) -> dict[str, Any]:
        return {**self.shared[planned.variant], **self.own[planned.host]}

    def _body(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}

    @property
    def digest(self) -> str:
        """SHA-256 over the whole plan."""
        canonical = json.dumps(self._body(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def document(self) -> dict[str, Any]:
        """Return the JSON document, with its digest."""
        body: dict[str, Any] = json.loads(json.dumps(self._body()))
        return {**body, "digest": self.digest}


def load_plan(document: Mapping[str, Any]) -> Plan:
    """Return the plan in *document*, or raise PlanMalformed; a plan changed by hand is refused by its digest."""
    if document.get("schema") != SCHEMA:
        raise PlanMalformed(f"not a {SCHEMA} document")
    try:
        plan = msgspec.convert(dict(document), Plan)
    except (msgspec.ValidationError, Fault) as error:
        raise PlanMalformed(f"not a usable plan: {error}") from None
    if plan.digest != document.get("digest"):
        raise PlanMalformed(f"plan {plan.id} was changed after it was made: its digest does not match")
    return plan


def make_plan(
    program: Program,
    choices: Iterable[Choice],
    hosts: Iterable[Host],
    settings: WaveSettings,
    builds: Mapping[str, Build],
    *,
    config: Mapping[str, Mapping[str, Any]],
    now: float,
    id: str,  # noqa: A002  the word everything else uses for it
    facts: Mapping[str, Facts] | None = None,
    btf: Mapping[str, str] | None = None,
    scopes: Mapping[str, Mapping[str, Any]] | None = None,
    away: Mapping[str, str] | None = None,
    generation: int = 1,
    budget: Budget | None = None,
) -> Plan:
    """Plan *program* for *hosts*; whoever has no choice or cannot run it is skipped with a code.

    *builds* by variant; *config* and *scopes* by host; *facts* by host give the kernel release and catch choices older
    than the last scan; *btf* by kernel id is the digest of the BTF file sent along for ``core-btf``; *away* says, by
    host, why the last scan got no answer: such a host is left out; *budget* takes the place of the manifest's.
    """
    by_host = {c.host: c for c in choices if c.program == program.name}
    ready: list[tuple[PlannedHost, bool]] = []
    own: dict[str, dict[str, Any]] = {}
    skipped: list[Skipped] = []
    for host in sorted(hosts, key=lambda h: h.name):
        choice = by_host.get(host.name)
        seen = (facts or {}).get(host.name)
        gone = (away or {}).get(host.name)
        reason = ("no-answer", gone) if gone else _unfit(choice, seen, settings, builds, btf or {})
        if reason or choice is None or choice.variant is None:
            skipped.append(Skipped(host.name, *(reason or ("no-decision", "nothing was decided for this host"))))
            continue
        planned = PlannedHost(
            host.name, choice.kernel_id, choice.variant, builds[choice.variant].digest, choice.facts_digest
        )
        ready.append((planned, choice.verdict is Verdict.UNKNOWN))
        own[host.name] = {
            "host": host.name,
            "btf": (btf or {}).get(choice.kernel_id) if choice.variant == "core-btf" else None,
            "scope": _scope(program, (scopes or {}).get(host.name)),
            "config": dict(config.get(host.name, {})),
            "kernel": {
                "build_id": build_id(choice.kernel_id),
                "release": seen.value("kernel.release") if seen else None,
            },
        }
    waves, waiting, controls = make_waves(ready, settings)
    skipped += waiting
    planned_hosts = {h.host for w in waves for h in w.hosts}
    used = {h.variant for w in waves for h in w.hosts}
    return Plan(
        id=id,
        program=program.name,
        created_at=now,
        settings=settings,
        waves=waves,
        skipped=tuple(sorted(skipped, key=lambda s: s.host)),
        shared={v: _shared(program, v, builds[v], generation, budget) for v in sorted(used)},
        own={name: part for name, part in own.items() if name in planned_hosts},
        controls=controls,
    )


def build_id(kernel_id: str) -> str | None:
    """Return the GNU build-id in a kernel id, or None when the kernel is known by something weaker."""
    head = kernel_id.partition("/")[0]
    return None if head.startswith(("btf-", "uname-")) else head


def _unfit(
    choice: Choice | None,
    seen: Facts | None,
    settings: WaveSettings,
    builds: Mapping[str, Build],
    btf: Mapping[str, str],
) -> tuple[str, str] | None:
    """Return why a host cannot be planned (code, detail), or None."""
    if choice is None:
        return "no-decision", "not scanned, or nothing was decided for it yet"
    if choice.variant is None or choice.verdict in (Verdict.BLOCKED, Verdict.REFUSED):
        return choice.verdict.value, choice.summary
    if seen is not None and seen.digest != choice.facts_digest:
        return "decision-stale", "scanned again since the decision: decide anew"
    if choice.verdict is Verdict.UNKNOWN and not settings.try_unknown:
        return "unknown", f"only a canary may try, and this plan allows none: {choice.summary}"
    if choice.variant not in builds:
        return "build-missing", f"the {choice.variant} build is not there"
    if choice.variant == "core-btf" and choice.kernel_id not in btf:
        return "btf-missing", "no BTF file was made for this kernel build"
    return None


def make_waves(
    ready: Sequence[tuple[PlannedHost, bool]], settings: WaveSettings
) -> tuple[tuple[Wave, ...], list[Skipped], tuple[str, ...]]:
    """Split hosts into waves (see :class:`WaveSettings`); a host marked True may only be a canary, the rest wait.

    Within a wave, hosts of different kernel builds and variants take turns, so that an early wave sees them all. Also
    returns who waits, and the controls by name: the last wave's alone.
    """
    strata: dict[tuple[str, str, bool], list[PlannedHost]] = {}
    for host, trial in ready:
        strata.setdefault((host.kernel_id, host.variant, trial), []).append(host)
    groups = [strata[key] for key in sorted(strata)]
    canaries = tuple(group[0] for group in groups)
    waiting = [
        Skipped(h.host, "unknown-waits", f"waits for what the canary of {h.variant} on its kernel build shows")
        for key in sorted(strata)
        if key[2]
        for h in strata[key][1:]
    ]
    if not canaries:
        return (), waiting, ()
    known = [strata[key] for key in sorted(strata) if not key[2]]
    kept = [group[len(group) - max(0, min(settings.control_hosts, len(group) - 2)) :] for group in known]
    rest = _take_turns([group[1 : len(group) - len(k)] for group, k in zip(known, kept, strict=True)])
    controls = _take_turns(kept)
    waves = [Wave(0, "canary", settings.canary_bake_s, canaries)]
    total, free, done = len(canaries) + len(rest) + len(controls), len(canaries) + len(rest), len(canaries)
    rest += controls
    for percent in settings.percents:
        at = done - len(canaries)
        target = min(total if percent == 100 else free, max(math.ceil(total * percent / 100), done + 1))
        if target > done:
            hosts = tuple(rest[at : at + target - done])
            waves.append(Wave(len(waves), f"to {percent:g} %", settings.bake_s, hosts))
            done = target
    return tuple(waves), waiting, tuple(sorted(h.host for h in controls))


def _take_turns(groups: Sequence[Sequence[PlannedHost]]) -> list[PlannedHost]:
    longest = max((len(g) for g in groups), default=0)
    return [g[i] for i in range(longest) for g in groups if i < len(g)]


def _scope(program: Program, wanted: Mapping[str, Any] | None) -> dict[str, Any]:
    scope = dict(wanted) if wanted else {"kind": program.manifest.scopes[0]}
    if scope.get("kind") not in program.manifest.scopes:
        raise PlanImpossible(f"{program.name} has no scope {scope.get('kind')!r}: {', '.join(program.manifest.scopes)}")
    return scope


def _shared(program: Program, variant: str, build: Build, generation: int, budget: Budget | None) -> dict[str, Any]:
    manifest = program.manifest
    row = program.variant(variant)
    return {
        "schema": SPEC_SCHEMA,
        "program": program.name,
        "kind": manifest.kind,
        "variant": variant,
        "build": build.digest,
        "generation": generation,
        "files": dict(build.digests),
        "record": manifest.record.struct,
        "optional": list(row.optional_programs) if row else [],
        "budget": msgspec.to_builtins(budget or manifest.budget),
        "fail_mode": manifest.fail_mode,
        "boot": manifest.boot,
        "lease_s": manifest.lease_s,
        "revert_s": manifest.revert_s,
    }


@dataclass(frozen=True, slots=True)
class Stale:
    """A planned host that is no longer what it was."""

    host: str
    what: Literal["gone", "kernel-changed", "facts-changed"]
    planned: str
    now: str


def find_stale(plan: Plan, current: Mapping[str, tuple[str | None, str | None]]) -> tuple[Stale, ...]:
    """Return the planned hosts whose (kernel id, facts digest) in *current* differ from the plan's, in plan order."""
    found: list[Stale] = []
    for h in plan.hosts:
        kernel_id, digest = current.get(h.host, (None, None))
        if h.host not in current:
            found.append(Stale(h.host, "gone", h.kernel_id, ""))
        elif kernel_id != h.kernel_id:
            found.append(Stale(h.host, "kernel-changed", h.kernel_id, kernel_id or "unknown"))
        elif digest != h.facts_digest:
            found.append(Stale(h.host, "facts-changed", h.facts_digest, digest or "unknown"))
    return tuple(found)


def refuse_stale(plan: Plan, current: Mapping[str, tuple[str | None, str | None]]) -> None:
    """Raise PlanStale naming the first hosts that changed since *plan* was made; return when none did."""
    if stale := find_stale(plan, current):
        names = ", ".join(f"{s.host} ({s.what})" for s in stale[:5]) + (" …" if len(stale) > 5 else "")
        raise PlanStale(printable(f"{len(stale)} of {len(plan.hosts)} hosts changed since plan {plan.id}: {names}"))
