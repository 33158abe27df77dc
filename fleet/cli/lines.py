"""Lines of a terminal: how wide text is in cells, and text that fits. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from btf.fault import printable

Span = tuple[str, str]  # text, tone: plain quiet good bad wait bold
Line = tuple[Span, ...]


def cells(text: str) -> int:
    """Return the cells that printable *text* takes: two for wide characters, none for combining ones."""
    return sum(0 if unicodedata.combining(ch) else 2 if unicodedata.east_asian_width(ch) in "WF" else 1 for ch in text)


def cut(text: str, width: int) -> str:
    """Return *text* in at most *width* cells, with an ellipsis where something is missing."""
    if cells(text) <= width:
        return text
    kept, used = [], 0
    for ch in text:
        used += cells(ch)
        if used > width - 1:
            break
        kept.append(ch)
    return "".join(kept) + "…" if width > 0 else ""


def fit(line: Line, width: int) -> Line:
    """Return *line* cut to *width* cells; a control character that came this far is one no more."""
    spans: list[Span] = []
    left = width
    for raw, tone in line:
        text = "".join(ch if ch.isprintable() else "\N{REPLACEMENT CHARACTER}" for ch in raw)
        part = cut(text, left)
        spans.append((part, tone))
        left -= cells(part)
        if part != text:
            break
    return tuple(spans)


def wrap(text: str, width: int) -> list[str]:
    """Return *text*, made printable, in lines of at most *width* cells, broken at spaces where there are any."""
    lines: list[str] = []
    line = ""
    for word in printable(text, 1000).split(" "):
        if line and cells(line) + 1 + cells(word) > width:
            lines.append(line)
            line = ""
        line = f"{line} {word}" if line else word
        while cells(line) > width:
            piece = cut(line, width + 1)[:-1] or line[:1]
            lines.append(piece)
            line = line[len(piece) :]
    return [*lines, line] if line else lines


def flow(label: str, words: Iterable[Span], width: int) -> list[Line]:
    """Return *words* after a *label*, as many on each line as fit, further lines under the first word."""
    lines: list[list[Span]] = [[(label, "quiet")]]
    used = cells(label)
    for text, tone in words:
        gap = " · " if len(lines[-1]) > 1 else ""
        if gap and used + len(gap) + cells(text) > width:
            lines.append([(" " * cells(label), "")])
            used, gap = cells(label), ""
        lines[-1] += [(gap, "quiet"), (text, tone)]
        used += len(gap) + cells(text)
    return [tuple(line) for line in lines]


def clock(seconds: float) -> str:
    """Return a time in words of a clock: 0:05, 12:40, 1:02:03."""
    whole = max(0, int(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
