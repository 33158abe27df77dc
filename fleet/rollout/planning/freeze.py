"""Freeze a plan: who can be planned, with which spec, and who is left out and why.

Pure: what is known of hosts in, plan out, the same for the same input.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

from btf.fault import EXIT_USAGE, Fault
from fleet.compatibility.verdict import Choice, Verdict
from fleet.rollout.planning.plan import Plan, build_id, own_part
from fleet.rollout.planning.settings import WaveSettings
from fleet.rollout.planning.waves import PlannedHost, Skipped, make_waves
from inventory.facts import Facts
from inventory.host import Host
from inventory.selector import parse_selector
from probes.catalogue import Build, Program
from probes.manifest import Budget

SPEC_SCHEMA = "corollout.spec/1"
_CANNOT = (Verdict.BLOCKED, Verdict.REFUSED)
_CAN = (Verdict.FITS, Verdict.DEGRADED)


class PlanImpossible(Fault):
    """What was asked for cannot be planned."""

    code = "COR-PLN-011"
    exit = EXIT_USAGE
    remedy = "`corollout programs show` lists a program's scopes and variants."


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A host and what was decided for it. ``verdict`` is empty when nothing was; ``away``: why it did not answer."""

    host: str
    kernel_id: str = ""
    variant: str | None = None
    verdict: str = ""
    summary: str = ""
    facts_digest: str = ""
    fresh: bool = True  # decided from the facts of the last scan
    away: str = ""


class Pinned(msgspec.Struct, frozen=True):
    """What a person holds a host to: as it is, or to one variant, which counts only where its verdict allows."""

    variant: str | None
    reason: str
    verdict: str = ""  # of that variant on the host, empty when none was decided


class Running(msgspec.Struct, frozen=True):
    """What a host runs, and the plan by which it does when it is known."""

    variant: str
    build: str
    plan: Plan | None = None

    @property
    def words(self) -> str:
        """What it runs, as plans say it."""
        return f"{self.variant} {self.build}"


def make_plan(
    program: Program,
    choices: Iterable[Choice],
    hosts: Iterable[Host],
    settings: WaveSettings,
    builds: Mapping[str, Build],
    *,
    now: float,
    id: str,  # noqa: A002  the word everything else uses for it
    facts: Mapping[str, Facts] | None = None,
    away: Mapping[str, str] | None = None,
    **more: Any,
) -> Plan:
    """Plan *program* for *hosts* from *choices* in memory; *more* are the arguments of :func:`freeze`.

    *facts* by host give the kernel release and catch choices older than the last scan; *away* says, by host, why the
    last scan got no answer: such a host is left out.
    """
    known = sorted(hosts, key=lambda h: h.name)
    by_host = {c.host: c for c in choices if c.program == program.name}
    seen, gone = facts or {}, away or {}
    candidates = []
    for host in known:
        name = host.name
        c, facts_now, why = by_host.get(name), seen.get(name), gone.get(name, "")
        if c is None:
            candidates.append(Candidate(name, away=why))
            continue
        fresh = facts_now is None or facts_now.digest == c.facts_digest
        candidates.append(
            Candidate(name, c.kernel_id, c.variant, c.verdict.value, c.summary, c.facts_digest, fresh, why)
        )
    releases = {c.kernel_id: seen[c.host].value("kernel.release") for c in candidates if c.host in seen}
    chosen = {}
    for text in settings.selectors:
        selector = parse_selector(text)
        chosen[text] = frozenset(h.name for h in known if selector.matches(h, seen.get(h.name)))
    return freeze(program, candidates, settings, builds, now=now, id=id, releases=releases, chosen=chosen, **more)


def freeze(
    program: Program,
    candidates: Iterable[Candidate],
    settings: WaveSettings,
    builds: Mapping[str, Build],
    *,
    config: Mapping[str, Mapping[str, Any]],
    now: float,
    id: str,  # noqa: A002  as above
    releases: Mapping[str, str | None] | None = None,
    btf: Mapping[str, str] | None = None,
    scopes: Mapping[str, Mapping[str, Any]] | None = None,
    chosen: Mapping[str, Collection[str]] | None = None,
    pins: Mapping[str, Pinned] | None = None,
    running: Mapping[str, Running] | None = None,
    wishes: Mapping[str, Any] | None = None,
    generation: int = 1,
    budget: Budget | None = None,
) -> Plan:
    """Plan *program* for *candidates*, sorted by name; whoever has no choice or cannot run it is skipped with a code.

    *builds* by variant; *config*, *scopes*, *pins* and *running* by host; *releases* by kernel id; *btf* by kernel id
    is the digest of the BTF file sent along for ``core-btf``; *chosen*: for every selector of the settings, the hosts
    it matches; *budget* takes the place of the manifest's.
    """
    btf, pins, running, releases, chosen = btf or {}, pins or {}, running or {}, releases or {}, chosen or {}
    excluded = chosen[settings.exclude] if settings.exclude else ()
    usual = _scope(program, None)
    shared = {v: _shared(program, v, build, usual, generation, budget) for v, build in builds.items()}
    ready: list[tuple[PlannedHost, bool]] = []
    skipped: list[Skipped] = []
    kernels: dict[str, dict[str, Any]] = {}
    own: dict[str, dict[str, Any]] = {}
    compare = _Comparison(shared, kernels)
    for c in candidates:
        before = running.get(c.host)
        if c.host in excluded:
            reason: tuple[str, str] | None = ("excluded", f"matches {settings.exclude}")
        elif pins and (pin := pins.get(c.host)):
            reason, c = _held(c, pin)  # noqa: PLW2901  the same host, held to what a person said
        else:
            reason = None
        reason = reason or _unfit(c, settings, builds, btf)
        if reason is not None or c.variant is None:
            code, detail = reason or ("no-decision", "nothing was decided for this host")
            skipped.append(Skipped(c.host, code, detail, before.words if before else ""))
            continue
        if c.kernel_id not in kernels:
            kernels[c.kernel_id] = {"build_id": build_id(c.kernel_id), "release": releases.get(c.kernel_id)}
            if c.kernel_id in btf:
                kernels[c.kernel_id]["btf"] = btf[c.kernel_id]
        part = _own(program, config.get(c.host), (scopes or {}).get(c.host), usual)
        change, runs, build = "new", "", builds[c.variant].digest
        if before is not None:
            runs, change = before.words, compare(c, build, before, part)
            if change == "unchanged" and not settings.include_unchanged:
                skipped.append(Skipped(c.host, "unchanged", "it runs exactly this already", runs))
                continue
        if part:
            own[c.host] = part
        planned = PlannedHost(c.host, c.kernel_id, c.variant, build, c.facts_digest, change, runs)
        ready.append((planned, c.verdict == Verdict.UNKNOWN))
    waves, waiting, controls = make_waves(ready, settings, chosen)
    skipped += waiting
    if waiting:
        for s in waiting:
            own.pop(s.host, None)
    pairs = {(h.kernel_id, h.variant) for w in waves for h in w.hosts}
    return Plan(
        id=id,
        program=program.name,
        created_at=now,
        settings=settings,
        waves=waves,
        skipped=tuple(sorted(skipped, key=lambda s: s.host)),
        shared={v: shared[v] for v in sorted({variant for _, variant in pairs})},
        own=own,
        controls=controls,
        kernels={k: kernels[k] for k in sorted({kernel_id for kernel_id, _ in pairs})},
        wishes=wishes or {},
    )


def _held(c: Candidate, pin: Pinned) -> tuple[tuple[str, str] | None, Candidate]:
    """Return why a pinned host is left out, or the candidate with the variant it is pinned to."""
    if pin.variant is None:
        return ("pinned", f"stays as it is: {pin.reason}"), c
    if pin.verdict not in _CAN:
        return ("pinned", f"to {pin.variant}, which is {pin.verdict or 'not decided'} here: {pin.reason}"), c
    held = Candidate(c.host, c.kernel_id, pin.variant, pin.verdict, c.summary, c.facts_digest, c.fresh, c.away)
    return None, held


def _unfit(
    c: Candidate, settings: WaveSettings, builds: Mapping[str, Build], btf: Mapping[str, str]
) -> tuple[str, str] | None:
    """Return why a host cannot be planned (code, detail), or None."""
    if c.away:
        return "no-answer", c.away
    if not c.verdict:
        return "no-decision", "not scanned, or nothing was decided for it yet"
    if c.variant is None or c.verdict in _CANNOT:
        return c.verdict, c.summary
    if not c.fresh:
        return "decision-stale", "scanned again since the decision: decide anew"
    if c.verdict == Verdict.UNKNOWN and not settings.try_unknown:
        return "unknown", f"only a canary may try, and this plan allows none: {c.summary}"
    if c.variant not in builds:
        return "build-missing", f"the {c.variant} build is not there"
    if c.variant == "core-btf" and c.kernel_id not in btf:
        return "btf-missing", "no BTF file was made for this kernel build"
    return None


class _Comparison:
    """Says what a plan changes on a host. What hosts share is compared once for all of them."""

    def __init__(self, shared: Mapping[str, Mapping[str, Any]], kernels: Mapping[str, Mapping[str, Any]]) -> None:
        self._shared, self._kernels = shared, kernels
        self._alike: dict[tuple[str, str, str, str], bool] = {}

    def __call__(self, c: Candidate, build: str, before: Running, own: Mapping[str, Any]) -> str:
        """Return how *c* with *build* changes from what it ran *before*; *own* is its own part of the spec."""
        if before.variant != c.variant or before.build != build:
            return "replace"
        by = before.plan
        then = None if by is None else by.by_name.get(c.host)
        if by is None or then is None or then.variant != c.variant:
            return "configure"
        key = (by.id, c.variant, then.kernel_id, c.kernel_id)
        if key not in self._alike:
            self._alike[key] = self._same(by, then, c)
        return "unchanged" if self._alike[key] and by.own.get(c.host, {}) == own else "configure"

    def _same(self, by: Plan, then: PlannedHost, c: Candidate) -> bool:
        """Whether all but the own part of two hosts' specs is the same."""
        variant = then.variant
        now = PlannedHost(c.host, c.kernel_id, variant, then.build, c.facts_digest)
        parts = (own_part(then, by.kernels, {}), own_part(now, self._kernels, {}))
        old, new = by.shared[variant], self._shared[variant]
        return parts[0] == parts[1] and {**old, "generation": 0} == {**new, "generation": 0}


def _own(
    program: Program, config: Mapping[str, Any] | None, scope: Mapping[str, Any] | None, usual: Mapping[str, Any]
) -> dict[str, Any]:
    part: dict[str, Any] = {"config": dict(config)} if config else {}
    if scope and (wanted := _scope(program, scope)) != usual:
        part["scope"] = wanted
    return part


def _scope(program: Program, wanted: Mapping[str, Any] | None) -> dict[str, Any]:
    scope = dict(wanted) if wanted else {"kind": program.manifest.scopes[0]}
    if scope.get("kind") not in program.manifest.scopes:
        raise PlanImpossible(f"{program.name} has no scope {scope.get('kind')!r}: {', '.join(program.manifest.scopes)}")
    return scope


def _shared(
    program: Program, variant: str, build: Build, scope: Mapping[str, Any], generation: int, budget: Budget | None
) -> dict[str, Any]:
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
        "scope": dict(scope),
        "config": {},
        "budget": msgspec.to_builtins(budget or manifest.budget),
        "fail_mode": manifest.fail_mode,
        "boot": manifest.boot,
        "lease_s": manifest.lease_s,
        "revert_s": manifest.revert_s,
    }
