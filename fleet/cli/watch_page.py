"""The page ``rollout watch`` shows: one block for a terminal of any width and height.

Pure: what was read goes in, lines come out. A block's lines are spans of text with a tone; none is wider than asked.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from btf.fault import printable
from fleet.cli.lines import Line, Span, cells, clock, cut, fit, flow, wrap

if TYPE_CHECKING:  # the record loads SQLAlchemy, which a page of help needs not wait for
    from fleet.record.rollout_views import RolloutView, StepView, WaveView
    from fleet.record.views import EventView

# Step states as a bar shows them, in this order; every other state is still to come.
DONE = ("healthy", "verified", "attached", "skipped", "reverted")
BAD = ("failed", "unreachable", "revert-failed", "revert-pending")
BUSY = ("probed", "staged", "checked", "applying", "reverting")
_TONES = {**dict.fromkeys(DONE, "good"), **dict.fromkeys(BAD, "bad"), **dict.fromkeys(BUSY, "plain")}
_STATES = {"COMPLETED": "good", "ROLLED_BACK": "good", "HALTED": "bad", "ROLLBACK_INCOMPLETE": "bad", "ABORTED": "bad",
           "PAUSED": "wait", "FROZEN": "wait", "WAITING_APPROVAL": "wait"}  # fmt: skip
_GATES = {"pass": "good", "fail": "bad", "inconclusive": "wait", "error": "wait"}
_LEAST_BAR, _WIDEST_BAR = 6, 40
_ROOMY = 60  # from this width on, times have seconds and numbers their whole unit


@dataclass(frozen=True, slots=True)
class Cost:
    """The worst value of one measure in the wave that bakes, with its limit and the host it is of."""

    name: str
    worst: float
    limit: float
    unit: str
    host: str


@dataclass(frozen=True, slots=True)
class Watched:
    """One rollout as it was read at once. ``trouble``: failed, then slowest hosts; ``events``: the newest, last."""

    view: RolloutView
    now: float
    driven: bool
    waits: str = ""  # what gets it out of where it stands
    trouble: tuple[StepView, ...] = ()
    costs: tuple[Cost, ...] = ()
    events: tuple[EventView, ...] = ()


# A block


def page(seen: Watched, width: int, height: int, *, ascii_only: bool = False) -> list[Line]:
    """Return the block for a terminal of *width* × *height*: at most *height* lines of at most *width* cells."""
    head, waves, body = _head(seen, width), _waves(seen, width, ascii_only=ascii_only), _body(seen, width)
    tail = [_trouble(seen, width), _events(seen, width)]
    for part in (head, body):
        del part[max(height - 1, 1) :]
    room = max(0, height - len(head) - len(body))
    waves = _around(waves, seen.view.wave, min(len(waves), max(1, room - 6 if room > 12 else room * 2 // 3)))
    room -= len(waves)
    lines = [*head, *waves, *body]
    for share, part in zip((2 if room > 7 else 1, 1), tail, strict=True):
        if len(taken := part[: room // share]) > 1:  # a heading alone says nothing
            lines += taken
            room -= len(taken)
    return [fit(line, width) for line in lines[:height]]


def _head(seen: Watched, width: int) -> list[Line]:
    view = seen.view
    tone = _STATES.get(view.state, "bold")
    name = f"{view.id}  {view.program}" if len(view.id) + len(view.program) + len(view.state) + 4 <= width else view.id
    gap = width - cells(name) - len(view.state)
    lines: list[Line] = [((name, "bold"), (" " * max(gap, 1), ""), (view.state, tone))]
    said = [(view.reason or "", tone), (seen.waits, ""), (_phase(seen), "quiet")]
    for text, how in said:
        lines += [((part, how),) for part in wrap(text, width)[:4]]
    return lines


def _phase(seen: Watched) -> str:
    """What is under way, and how long it still takes where that is known."""
    view = seen.view
    if not seen.driven:
        return "" if seen.waits or view.ended_at else "nobody drives it: `corollout rollout go` goes on"
    if not 0 <= view.wave < len(view.waves):
        return "about to begin"
    wave = view.waves[view.wave]
    where = f"wave {wave.number}"
    if wave.state == "baking" and wave.baking_since is not None:
        left = wave.baking_since + wave.bake_s - seen.now
        return f"{where}: bakes, " + (
            f"{clock(left)} left of {clock(wave.bake_s)}" if left > 0 else "waiting for samples"
        )
    return f"{where}: {wave.phase or wave.state}"


def _waves(seen: Watched, width: int, *, ascii_only: bool) -> list[Line]:
    view = seen.view
    marks = "#=!." if ascii_only else "█▓▒░"
    names = [printable(f"{w.number} {w.name}", 40) for w in view.waves]
    widest = min(max((cells(n) for n in names), default=0), max(width // 4, 10))
    totals = [sum(w.steps.values()) for w in view.waves]
    digits = len(str(max(totals, default=0)))
    words = [str((w.gate or {}).get("answer") or w.state) for w in view.waves]
    room = width - widest - 2 * digits - max(map(len, words), default=0) - 4
    length = min(room, _WIDEST_BAR)
    lines = []
    for wave, name, total, word in zip(view.waves, names, totals, words, strict=True):
        done = sum(wave.steps.get(s, 0) for s in DONE)
        cell = cut(name, widest)
        here = "bold" if wave.number == view.wave else ""
        spans: list[Span] = [(cell + " " * (widest - cells(cell)) + " ", here)]
        if length >= _LEAST_BAR:
            spans += [*_bar(wave, total, length, marks), (" ", "")]
        spans += [(f"{done:>{digits}}/{total:<{digits}} ", ""), (word, _GATES.get(word, ""))]
        lines.append(tuple(spans))
    return lines


def _bar(wave: WaveView, total: int, length: int, marks: str) -> Iterator[Span]:
    """Yield done, busy, bad and what is left; whatever is not nothing is seen, and only all is full."""
    parts = [sum(wave.steps.get(s, 0) for s in group) for group in (DONE, BUSY, BAD)]
    sizes = [max(1, length * n // total) if n and total else 0 for n in parts]
    while sum(sizes) > length or (sum(sizes) == length and sum(parts) < total):
        sizes[sizes.index(max(sizes))] -= 1
    if sum(parts) == total and total:
        sizes[parts.index(max(parts))] += length - sum(sizes)
    for size, mark, tone in zip(sizes, marks, ("good", "plain", "bad"), strict=False):
        if size:
            yield mark * size, tone
    if left := length - sum(sizes):
        yield marks[3] * left, "quiet"


def _around(lines: Sequence[Line], current: int, room: int) -> list[Line]:
    """Return *room* of the waves' lines, the current one among them."""
    start = max(0, min(current - room // 2, len(lines) - room))
    return list(lines[start : start + room])


def _body(seen: Watched, width: int) -> list[Line]:
    lines: list[Line] = []
    counts = total_counts(seen.view)
    words = [(f"{n} {state}", _TONES.get(state, "quiet")) for state, n in counts.items()]
    lines += flow("hosts ", words, width)
    if seen.costs:
        words = [(_cost(c, width), "bad" if c.worst > c.limit else "plain") for c in seen.costs]
        lines += flow("cost ", words, width)
    judged = next((w for w in reversed(seen.view.waves) if w.gate), None)
    if judged and (checks := _checks(judged)):
        lines += flow(f"gate {judged.number} ", checks, width)
    return lines


def _cost(cost: Cost, width: int) -> str:
    """Value and limit, the unit where there is room for it, and the host where it is over."""
    over = f" ({printable(cost.host, 40)})" if cost.worst > cost.limit else ""
    unit = cost.unit if width >= _ROOMY else cost.unit.partition(" ")[0]
    return f"{cost.name} {cost.worst:.3g} of {cost.limit:g} {unit}{over}"


def _checks(wave: WaveView) -> list[Span]:
    """The checks of a wave's gate that did not pass, else that all did."""
    checks = wave.gate.get("checks") if wave.gate else None
    if not isinstance(checks, list) or not checks:
        return []
    bad = [c for c in checks if isinstance(c, Mapping) and c.get("answer") != "pass"]
    if not bad:
        return [(f"all {len(checks)} checks passed", "good")]
    return [
        (printable(f"{c.get('name')} {c.get('answer')}", 60), _GATES.get(str(c.get("answer")), "wait")) for c in bad
    ]


def _trouble(seen: Watched, width: int) -> list[Line]:
    """A heading and a line per host that failed, is silent or takes long."""
    if not seen.trouble:
        return []
    widest = min(max(cells(s.host) for s in seen.trouble), max(8, width // 3))
    words = max(len(s.state) for s in seen.trouble)
    lines: list[Line] = [(("slow or failed", "quiet"),)]
    for step in seen.trouble:
        since = f"{clock(seen.now - step.started_at)} " if step.state in BUSY and step.started_at else ""
        name = cut(printable(step.host), widest)
        lines.append((
            (f"  {name}{' ' * (widest - cells(name))} ", "bold"),
            (f"{step.state:{words}} ", _TONES.get(step.state, "plain")),
            (since + printable(step.detail or ""), "plain"),
        ))  # fmt: skip
    return lines


def _events(seen: Watched, width: int) -> list[Line]:
    """A heading and the newest events, newest first, so that what is cut off is old; of each host the last one."""
    lines: list[Line] = [(("last events", "quiet"),)]
    told = set[str]()
    for event in reversed(seen.events):
        if event.host in told:
            continue
        told |= {event.host} if event.host else set()
        when = time.strftime("%H:%M:%S" if width >= _ROOMY else "%H:%M", time.gmtime(event.at))
        change = f"{event.before or '·'}→{event.after}" if event.after else ""
        words = [event.host or event.verb, change, event.detail]
        lines.append(((f"  {when} ", "quiet"), (" ".join(printable(w, 200) for w in words if w), "plain")))
    return lines


def total_counts(view: RolloutView) -> dict[str, int]:
    """Return hosts by step state over all waves: what is done first, then trouble, then what is under way."""
    found: dict[str, int] = {}
    for wave in view.waves:
        for state, n in wave.steps.items():
            found[state] = found.get(state, 0) + n
    order = {s: i for i, s in enumerate((*DONE, *BAD, *BUSY))}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[0], len(order)), item[0])))
