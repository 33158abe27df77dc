"""The Drift screen: what hosts should run against what they say they run; enter says what mends a difference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from textual.widget import Widget

from fleet.console.explain import Lines, Said
from fleet.console.look import Cell, ago, sign
from fleet.console.page import Line, Page, bindings
from fleet.console.table import Table
from fleet.console.window import Column, ListWindow
from fleet.record import Record
from fleet.record.views import DriftView
from fleet.rollout.drift.compare import KINDS

_MENDS = {
    "apply": "`corollout reconcile` applies it again, as a rollout with a canary and gates",
    "decide": "`corollout reconcile` scans, decides anew and swaps the build where its policy wants that",
    "remove": "`corollout reconcile --remove` removes it; residue goes with `agent clean` on the host",
    "": "nothing of ours to mend: whoever attached it knows why",
}


def key_of(row: DriftView) -> str:
    """Return what a difference is known by: host, program and kind."""
    found = row.difference
    return " ".join(filter(None, (found.host, found.program, found.kind)))


def columns(now: Callable[[], float]) -> list[Column[DriftView]]:
    """Return the columns."""
    return [
        Column("HOST", 24, lambda r: Cell(r.difference.host), least=14, sort="host"),
        Column("KIND", 18, lambda r: sign(r.difference.kind), sort="kind"),
        Column("PROGRAM", 16, lambda r: Cell(r.difference.program or "–"), 10, sort="program", rank=1),
        Column("WANTED", 18, lambda r: Cell(r.difference.wanted), 10, rank=2),
        Column("SEEN", 18, lambda r: Cell(r.difference.seen), 10, rank=2),
        Column("SINCE", 6, lambda r: Cell(ago(now() - r.first_seen), "quiet"), sort="since", rank=3),
        Column("LOOKED", 6, lambda r: Cell(ago(now() - r.last_seen), "quiet"), sort="looked", rank=5),
        Column("DETAIL", 30, lambda r: Cell(r.difference.detail, "quiet"), rank=4, grow=True),
    ]


class DriftWindow(ListWindow[DriftView]):
    """The differences that the last looks found. Many hosts may differ at once; a row is short."""

    def __init__(self, record: Record) -> None:
        self.kinds: Counter[str] = Counter()
        super().__init__(
            lambda: self._differences(record),
            key_of,
            values={
                "host": lambda r: r.difference.host,
                "kind": lambda r: list(KINDS).index(r.difference.kind) if r.difference.kind in KINDS else len(KINDS),
                "program": lambda r: r.difference.program,
                "since": lambda r: -r.first_seen,
                "looked": lambda r: -r.last_seen,
            },
            problem=lambda r: r.difference.kind != "foreign",
        )

    def _differences(self, record: Record) -> list[DriftView]:
        rows = record.drift()
        self.kinds = Counter(r.difference.kind for r in rows)
        return rows


def explain_drift(record: Record, row: DriftView, now: float) -> Lines:
    """Return what a difference means, what the host said, and what mends it."""
    found, kind = row.difference, KINDS.get(row.difference.kind)
    host = record.host(found.host)
    lines = [
        Said([Cell(found.host, "strong"), sign(host.reach), Cell(host.release), Cell(host.arch, "quiet")]),
        Said(),
        Said([Cell(found.program or "the host", "strong"), sign(found.kind), Cell(kind.meaning if kind else "")]),
        Said([Cell("wanted:", "quiet"), Cell(found.wanted or "–")], 2),
        Said([Cell("seen:", "quiet"), Cell(found.seen or "–")], 2),
        Said([Cell(found.detail)], 2),
        Said([Cell(f"first seen {ago(now - row.first_seen)} ago, last {ago(now - row.last_seen)} ago", "quiet")], 2),
    ]
    assigned = [a for a in record.assignments(host=found.host) if a.program == found.program]
    lines += [Said([Cell("should run:", "quiet"), Cell(a.variant), Cell(f"of {a.rollout_id}")], 2) for a in assigned]
    return [*lines, Said(), Said([Cell("mend:", "strong"), Cell(_MENDS[kind.mend if kind else ""])])]


class Drift(Page):
    """Recorded against observed."""

    NAME = "drift"
    BINDINGS = bindings("drift")
    DEFAULT_CSS = "Drift Table { height: 1fr; }"

    def body(self) -> Iterable[Widget]:
        """One table."""
        self._window = DriftWindow(self.console.record)
        empty = "no difference is recorded: `corollout drift` looks, `corollout drift --every 300` goes on looking"
        yield Table(self._window, columns(self.console.now), empty=empty, id="differences")
        yield Line(id="about")

    def summary(self) -> Sequence[Cell]:
        """How many differences there are, by kind."""
        kinds = self._window.kinds
        ours = sum(kinds.values()) - kinds["foreign"]
        head = Cell(f"{ours:,} difference{'s' if ours != 1 else ''}", "strong")
        return [head, *(sign(kind, f"{kinds[kind]:,} {kind}") for kind in KINDS if kinds[kind])]

    def on_table_moved(self) -> None:
        """What the kind under the cursor means."""
        row = self.table.cursor_row
        if isinstance(row, DriftView) and row.difference.kind in KINDS:
            what = [Cell(row.difference.host, "strong"), Cell(KINDS[row.difference.kind].meaning)]
            self.query_one("#about", Line).tell(what)

    def action_explain(self) -> None:
        """Say what it means and what mends it."""
        row = self.table.cursor_row
        if isinstance(row, DriftView):
            self.console.explain(row.difference.host, explain_drift, row, self.console.now())
