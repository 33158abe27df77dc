"""Drift: what hosts should run held against what they say they run. Values only; who looks and who mends is elsewhere.

A host's word is compared, never believed further than that: the token tells a newer order from ours, the tags tell
whether the kernel runs the instructions that were attached, the build id tells the kernel from the planned one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from btf.fault import printable
from fleet.record.views import Desired, Difference
from fleet.rollout.hosts.watch import Observed, kernel_of, observe

MAX_ROWS = 256  # programs of one status that are looked at; a host does not decide how long this takes


@dataclass(frozen=True, slots=True)
class Kind:
    """A class of drift: what it means, and what mends it (``apply``, ``decide``, ``remove``, or nothing of ours)."""

    name: str
    meaning: str
    mend: str


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("kernel-changed", "the host runs another kernel than the build was chosen for", "decide"),
        Kind("missing", "it should run here and does not", "apply"),
        Kind("wrong-generation", "the host obeyed an order that is not in this record", "apply"),
        Kind("wrong-build", "another build runs than the one that was rolled out", "apply"),
        Kind("wrong-tag", "the kernel runs other instructions than those that were attached", "apply"),
        Kind("extra", "it runs here and should not", "remove"),
        Kind("residue", "something of ours lies here that no program owns", "remove"),
        Kind("foreign", "BPF programs of others", ""),
    )
}


Found = tuple[str, str, str] | None  # wanted, seen, detail


def _missing(_wanted: Desired, seen: Observed) -> Found:
    if seen.state == "running" and seen.alive:
        return None
    return "running", seen.state, seen.reason or f"the host says {seen.state}"


def _wrong_generation(wanted: Desired, seen: Observed) -> Found:
    if seen.token == wanted.token:
        return None
    newer = seen.token is not None and seen.token > wanted.token
    who = "a later order, of another controller or by hand" if newer else "an earlier order"
    return f"token {wanted.token}", f"token {seen.token}", who


def _wrong_build(wanted: Desired, seen: Observed) -> Found:
    build = str(seen.entry.get("build"))
    if build == wanted.build:
        return None
    return _short(wanted.build), _short(build), f"variant {wanted.variant} was rolled out"


def _wrong_tag(wanted: Desired, seen: Observed) -> Found:
    now = tags_of(seen.entry)
    for name, tag in sorted(tags_of(wanted.answer).items()):
        if now.get(name) != tag:
            return f"{name} {tag}", f"{name} {now.get(name, 'gone')}", "another program sits where ours was attached"
    return None


# In this order, the first that is found is told: a program that does not run has no tag that could be wrong.
_TESTS: tuple[tuple[str, Callable[[Desired, Observed], Found]], ...] = (
    ("missing", _missing),
    ("wrong-generation", _wrong_generation),
    ("wrong-build", _wrong_build),
    ("wrong-tag", _wrong_tag),
)


def compare(host: str, desired: Sequence[Desired], status: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Return how *host* with this *status* (``corollout.status/1``) differs from what it should run, by program."""
    found = list(_kernels(host, desired, status))
    for wanted in desired:
        seen = observe(status, wanted.program)
        for kind, test in _TESTS:
            if (said := test(wanted, seen)) is not None:
                found.append(_difference(host, wanted.program, kind, *said))
                break
    found += _extra(host, {d.program for d in desired}, status)
    found += _residue(host, status)
    found += _foreign(host, status)
    return tuple(sorted(found, key=lambda d: (d.program, d.kind, d.seen)))


def _kernels(host: str, desired: Iterable[Desired], status: Mapping[str, Any]) -> Iterable[Difference]:
    """A build chosen for another kernel than the one that runs: known only where both have a build id."""
    now, release = kernel_of(status)
    for wanted in desired:
        planned = wanted.kernel_id.partition("/")[0]
        if now and not planned.startswith(("btf-", "uname-")) and planned and planned != now:
            detail = f"now {release or 'unknown'}: to be decided again"
            yield _difference(host, wanted.program, "kernel-changed", planned[:12], now[:12], detail)


def _extra(host: str, wanted: set[str], status: Mapping[str, Any]) -> Iterable[Difference]:
    entries = status.get("programs")
    for entry in entries[:MAX_ROWS] if isinstance(entries, list) else ():
        name = entry.get("program") if isinstance(entry, Mapping) else None
        if not isinstance(name, str) or name in wanted:
            continue
        seen = observe(status, name)
        if seen.alive or seen.state in ("running", "applying"):
            detail = f"{entry.get('variant')}, token {seen.token}"
            yield _difference(host, printable(name, 64), "extra", "nothing", seen.state, detail)


def _residue(host: str, status: Mapping[str, Any]) -> Iterable[Difference]:
    things = status.get("residue")
    if isinstance(things, list) and things:
        shown = "; ".join(_thing(t) for t in things[:4]) + (f" and {len(things) - 4} more" if len(things) > 4 else "")
        yield _difference(host, "", "residue", "nothing", f"{len(things)} things", shown)


def _thing(thing: Any) -> str:
    if isinstance(thing, Mapping):
        return " ".join(str(thing[key]) for key in ("kind", "what", "name") if key in thing)
    return str(thing)


def _foreign(host: str, status: Mapping[str, Any]) -> Iterable[Difference]:
    others = status.get("others")
    if not isinstance(others, Mapping):
        return
    rows = others.get("programs")
    if isinstance(rows, list) and rows:
        kinds = sorted({f"{r.get('type')} {r.get('name')}" for r in rows[:MAX_ROWS] if isinstance(r, Mapping)})
        shown = ", ".join(kinds[:8]) + (f" and {len(kinds) - 8} more" if len(kinds) > 8 else "")
        yield _difference(host, "", "foreign", "", f"{others.get('count')} programs", shown)


def tags_of(entry: Mapping[str, Any]) -> dict[str, str]:
    """Return program name → tag of what a status entry, or an agent's answer, shows in the kernel."""
    observed = entry.get("observed")
    rows = observed.get("programs") if isinstance(observed, Mapping) else None
    found: dict[str, str] = {}
    for row in rows[:MAX_ROWS] if isinstance(rows, list) else ():
        if isinstance(row, Mapping) and isinstance(row.get("name"), str) and isinstance(row.get("tag"), str):
            found[printable(row["name"], 64)] = printable(row["tag"], 32)
    return found


def _short(build: str) -> str:
    return printable(build.removeprefix("sha256:"), 80)[:12]


def _difference(host: str, program: str, kind: str, wanted: str, seen: str, detail: str) -> Difference:
    return Difference(host, program, kind, printable(wanted, 80), printable(seen, 80), printable(detail, 300))
