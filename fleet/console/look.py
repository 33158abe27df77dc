"""How things look: a glyph and a tone for every word, two themes, and text made fit for a cell.

A word is never shown by colour alone. Everything that came from a host passes through :func:`fit` or :func:`shown`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from rich.cells import cell_len, set_cell_size
from textual.content import Content
from textual.theme import Theme

from btf.fault import printable

TONES = ("fits", "degraded", "blocked", "refused", "unknown", "quiet", "strong")


@dataclass(frozen=True, slots=True)
class Cell:
    """One piece of text and how it is toned; ``tone`` is one of TONES or empty. ``width`` pads or cuts it in a line."""

    text: str
    tone: str = ""
    width: int = 0


# word → glyph, tone. One table for verdicts, answers, reach, rollout, wave and step states: one word per thing.
_GOOD, _WARN, _STUCK, _BAD, _OPEN = (
    ("●", "fits"),
    ("▲", "degraded"),
    ("■", "blocked"),
    ("✕", "refused"),
    ("?", "unknown"),
)
_BUSY, _WAITS, _DONE, _IDLE = (("►", "strong"), ("‖", "degraded"), ("✓", "fits"), ("·", "quiet"))
_SIGNS = {
    _GOOD: "fits yes reachable pass passed healthy verified ok completed",
    _WARN: "degraded inconclusive warn skipped held drifted away rolling_back kernel-changed"
    " wrong-generation wrong-build wrong-tag",
    _STUCK: "blocked garbage error tripped rollback_incomplete extra residue",
    _BAD: "refused no unreachable fail failed halted aborted revert-failed trip missing",
    _OPEN: "unknown unscanned",
    _BUSY: "running baking probed staged checked attached applying reverting",
    _WAITS: "paused frozen waiting waiting_approval revert-pending",
    _DONE: "reverted rolled_back",
    _IDLE: "pending planned draft expired stopped foreign",
}
SIGNS = {word: sign for sign, words in _SIGNS.items() for word in words.split()}


def sign(word: str | None, text: str = "") -> Cell:
    """Return glyph and word (or *text* instead of the word) in the word's tone; a word nobody knows is ``unknown``."""
    glyph, tone = SIGNS.get((word or "unknown").lower(), _OPEN)
    return Cell(f"{glyph} {text or (word or 'unknown').replace('_', ' ').lower()}", tone)


@lru_cache(maxsize=16_384)
def fit(text: str, width: int, *, right: bool = False) -> str:
    """Return *text* as exactly *width* terminal cells: printable, cut with an ellipsis, padded."""
    clean = printable(text, max(4 * width, 1)) if text else ""
    used = cell_len(clean)
    if used > width:
        return set_cell_size(clean, width - 1) + "…" if width > 0 else ""
    pad = " " * (width - used)
    return pad + clean if right else clean + pad


def shown(cells: Iterable[Cell | str], between: str = "  ") -> Content:
    """Join *cells* into one line: no markup is read, no control character survives, empty cells leave no gap."""
    found = [Cell(c) if isinstance(c, str) else c for c in cells]
    parts = [(fit(c.text, c.width) if c.width else printable(c.text), f"${c.tone}" if c.tone else "") for c in found]
    line: list[tuple[str, str]] = []
    for text, style in parts:
        if text:
            line += [(between, ""), (text, style)] if line else [(text, style)]
    return Content.assemble(*line)


def bar(share: float, width: int = 10) -> str:
    """Return a bar of *width* cells for *share* of one, full when it is more."""
    filled = max(0, min(width, round(share * width)))
    return "█" * filled + "░" * (width - filled)


def ago(seconds: float | None) -> str:
    """Return an age in one short word: ``8s``, ``12m``, ``3h``, ``5d``; never seen is ``never``."""
    if seconds is None:
        return "never"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(max(seconds, 0))}s"


def size(count: float | None) -> str:
    """Return bytes as ``512 B``, ``1.2 MB``; not measured is ``–``."""
    if count is None:
        return "–"
    for limit, unit in ((1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{int(count)} B"


# The five verdicts differ in lightness as well as in hue, so they can be told apart without colour vision; a test
# measures both that and their contrast with the background.
_DARK = {"unknown": "#dfe6ee", "degraded": "#f2c94c", "fits": "#4fc97a", "blocked": "#f0824a", "refused": "#e8505b"}
_LIGHT = {"unknown": "#6b7280", "degraded": "#7a5a00", "fits": "#005a2c", "blocked": "#6e2300", "refused": "#4f000f"}
DARK = Theme(
    name="corollout-dark",
    primary="#6cb6ff",
    foreground="#c9d3de",
    background="#0d1117",
    surface="#0d1117",
    panel="#1b232d",
    variables={**_DARK, "quiet": "#8793a1", "strong": "#ffffff", "cursor": "#1f3553", "bar": "#161d26"},
)
LIGHT = Theme(
    name="corollout-light",
    primary="#0b5cad",
    foreground="#24292f",
    background="#fbfaf7",
    surface="#fbfaf7",
    panel="#ebe9e3",
    dark=False,
    variables={**_LIGHT, "quiet": "#5d6670", "strong": "#000000", "cursor": "#cfe3fa", "bar": "#ebe9e3"},
)
THEMES = (DARK, LIGHT)
