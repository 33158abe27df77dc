"""The Fleet screen: every host, how it is reached, what its kernel is, and what each program gets there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from textual.widget import Widget

from btf.fault import Fault
from fleet.console.dialogs import FilterLine
from fleet.console.explain import explain_host
from fleet.console.look import Cell, ago, sign
from fleet.console.page import Line, Page, bindings
from fleet.console.table import Table
from fleet.console.window import Column, View
from fleet.record import Record
from fleet.record.views import HostFilter, HostView
from fleet.selection import check_selector, select_hosts

TROUBLE = ("blocked", "refused", "unknown")


class FleetWindow:
    """Hosts of the record."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self.reach: Mapping[str, int] = {}
        self.programs: Sequence[str] = ()

    def keys(self, view: View) -> Sequence[str]:
        """Return the names of the hosts that *view* lets through, and take the counts along."""
        self.reach, self.programs = self._record.reach_counts(), self._record.programs()
        sort = [("-" if o.descending else "") + o.by for o in view.order] or ["name"]
        names = select_hosts(self._record, view.filter, sort)
        if view.problems:
            bad = set(self._record.host_names(HostFilter(trouble=True)))
            for verdict in TROUBLE:
                bad |= set(self._record.host_names(HostFilter(verdict=verdict)))
            names = [n for n in names if n in bad]
        return names

    def rows(self, keys: Sequence[str]) -> Mapping[str, HostView]:
        """Return these hosts."""
        return {h.name: h for h in self._record.hosts_named(keys)}


def _verdict(program: str) -> Callable[[HostView], Cell]:
    def cell(host: HostView) -> Cell:
        verdict = host.verdicts.get(program)
        return sign(verdict, f"{verdict} {host.variants.get(program, '')}") if verdict else Cell("–", "quiet")

    return cell


def columns(programs: Sequence[str], now: Callable[[], float]) -> list[Column[HostView]]:
    """Return the columns; one per program after what is known of the host."""
    return [
        Column("HOST", 24, lambda h: Cell(h.name), least=14, sort="name"),
        Column("REACH", 13, lambda h: sign(h.reach), sort="reach"),
        Column(
            "KERNEL", 22, lambda h: Cell(h.release or "–", "" if h.release else "quiet"), 12, sort="release", rank=2
        ),
        Column("BTF", 9, lambda h: sign(h.btf) if h.btf else Cell("–", "quiet"), 5, sort="btf", rank=3),
        *(Column(p.upper(), 19, _verdict(p), 11, rank=1, program=p, sort=f"program:{p}") for p in programs),
        Column("ZONE", 10, lambda h: Cell(h.zone, "quiet"), sort="zone", rank=4),
        Column("SEEN", 5, lambda h: Cell(ago(now() - h.seen_at if h.seen_at else None), "quiet"), sort="seen", rank=5),
        Column("ARCH", 8, lambda h: Cell(h.arch, "quiet"), sort="arch", rank=7),
        Column("OS", 20, lambda h: Cell(h.os_name, "quiet"), sort="os", rank=8),
        Column("WHY NOT", 24, lambda h: Cell(_why(h), "quiet"), rank=6, grow=True),
    ]


def _why(host: HostView) -> str:
    return f"{host.reach_code}: {host.reach_detail}" if host.reach_code else ""


class Fleet(Page):
    """Hosts."""

    NAME = "fleet"
    BINDINGS = bindings("fleet")
    DEFAULT_CSS = "Fleet Table { height: 1fr; }"

    def body(self) -> Iterable[Widget]:
        """One table, and the filter under it."""
        self._window = FleetWindow(self.console.record)
        self._programs: Sequence[str] = ()
        empty = "no host: `corollout hosts import FILE` brings them in, `corollout hosts scan` asks them"
        yield Table(self._window, columns((), self.console.now), empty=empty, id="hosts")
        yield Line(id="about")
        yield FilterLine()

    def summary(self) -> Sequence[Cell]:
        """How many hosts there are, by reach."""
        counts = self._window.reach
        shown, total = self.table.count, sum(counts.values())
        head = f"{total:,} hosts" if shown == total else f"{shown:,} of {total:,} hosts"
        return [Cell(head, "strong"), *(sign(reach, f"{n:,} {reach}") for reach, n in counts.items())]

    def on_table_read(self) -> None:
        """A program that is decided for the first time gets its column."""
        if list(self._window.programs) != list(self._programs):
            self._programs = self._window.programs
            self.table.show(columns(self._programs, self.console.now))
        super().on_table_read()

    def on_table_moved(self) -> None:
        """One line about the host under the cursor: why it is not reached, else what it is."""
        host = self.table.cursor_row
        if isinstance(host, HostView):
            scanned = ago(self.console.now() - host.scanned_at) + " ago" if host.scanned_at else "never"
            cells = [Cell(_why(host))] if host.reach_code else [Cell(host.os_name), Cell(host.release), Cell(host.arch)]
            what = [Cell(host.name, "strong"), sign(host.reach), Cell(f"scanned {scanned}", "quiet"), *cells]
            self.query_one("#about", Line).tell(what)

    def action_filter(self) -> None:
        """Ask for a selector."""
        self.query_one(FilterLine).open(self.table.view.filter)

    def on_filter_line_done(self, message: FilterLine.Done) -> None:
        """Show what the selector lets through."""
        if message.text is not None:
            try:
                check_selector(message.text)
            except Fault as fault:
                self.console.say(str(fault), wrong=True)
                self.query_one(FilterLine).open(message.text)
                return
            view = self.table.view
            self.look(View(message.text, view.problems, view.order))
        self.table.focus()
        self.tell()

    def action_explain(self) -> None:
        """Say why this host gets what it gets; on a program's column, for that program."""
        name, picked = self.table.cursor_key, self.table.picked
        if name is not None:
            self.console.explain(name, explain_host, name, picked.program if picked else "")
