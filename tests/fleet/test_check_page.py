"""The page of ``check``: what is alike is said once, what differs by kernel, and the matrix shows all of it."""

from __future__ import annotations

from fleet.cli.check_page import Row, render
from fleet.cli.diagnostics import Diagnostic
from fleet.compatibility.verdict import Verdict


def error(*seen: str) -> Diagnostic:
    source = ("    7 | x = y;", "      |     ^")
    return Diagnostic("error", "a.c:7:5", "s.f: no such field", "relocation-poisoned", source, ("in p",), seen)


def row(kernel: str, verdict: Verdict, *diagnostics: Diagnostic, name: str = "a.bpf.o") -> Row:
    return Row(name, kernel, verdict, "1 program", diagnostics)


def test_one_kernel_needs_no_matrix() -> None:
    assert list(render([row("6.1", Verdict.REFUSED, error("s has: g"))])) == [
        "a.c:7:5: error: s.f: no such field [relocation-poisoned]",
        "    7 | x = y;",
        "      |     ^",
        "      = in p",
        "      = s has: g",
        "a.bpf.o: refused on 6.1 — 1 program",
    ]


def test_what_differs_between_kernels_is_told_apart() -> None:
    rows = [
        row("6.1", Verdict.REFUSED, error("s has: g")),
        row("6.9", Verdict.REFUSED, error("s has: h")),
        row("6.12", Verdict.FITS),
        row("6.12", Verdict.DEGRADED, name="b.bpf.o"),
    ]
    assert list(render(rows)) == [
        "a.c:7:5: error: s.f: no such field [relocation-poisoned]",
        "    7 | x = y;",
        "      |     ^",
        "      = in p",
        "      = s has: g  (6.1)",
        "      = s has: h  (6.9)",
        "      = on 2 of 3 kernels: 6.1, 6.9",
        "a.bpf.o: refused on 2 of 3 kernels: 6.1, 6.9 — 1 program",
        "a.bpf.o: fits on 6.12 — 1 program",
        "b.bpf.o: degraded on 6.12 — 1 program",
        "",
        "┌ 6.1",
        "│ ┌ 6.9",
        "│ │ ┌ 6.12",
        "✕ ✕ ●  a.bpf.o",
        "    ▲  b.bpf.o",
        "● fits  ▲ degraded  ✕ refused",
    ]


def test_silent_wrongness_is_seen_in_the_matrix() -> None:
    odd = Diagnostic("warning", "a.c:7:5", "relocates, but …", "field-size", silent=True)
    lines = list(render([row("6.1", Verdict.FITS, odd), row("6.9", Verdict.FITS)]))
    assert lines[-2:] == ["●!●  a.bpf.o", "● fits  ! with a warning of silent wrongness"]


def test_many_kernels_are_counted() -> None:
    rows = [row(f"6.{n}", Verdict.UNKNOWN, error()) for n in range(30)]
    lines = list(render(rows))
    assert "      = on all 30 kernels" in lines and "a.bpf.o: unknown on all 30 kernels — 1 program" in lines
    half = list(render([*rows[:20], *(row(f"6.{n}", Verdict.FITS) for n in range(20, 30))]))
    assert "      = on 20 of 30 kernels: 6.0, 6.1, 6.2 and 17 more" in half


def test_errors_come_before_warnings_and_colours_mark_them() -> None:
    warning = Diagnostic("warning", "a.bpf.o", "odd", "unknown")
    lines = list(render([row("6.1", Verdict.REFUSED, warning, error())], lambda kind, text: f"<{kind}>{text}"))
    assert lines[0].startswith("<bold>a.c:7:5: <error>error: ") and lines[2] == "<caret>      |     ^"
    assert lines[4] == "<bold>a.bpf.o: <warning>warning: odd [unknown]"
