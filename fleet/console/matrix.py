"""The Matrix screen: program × kernel build, how many hosts get which verdict; enter says why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from textual.widget import Widget

from fleet.compatibility.verdict import Verdict
from fleet.console.explain import explain_kernel
from fleet.console.look import Cell, sign
from fleet.console.page import Line, Page, bindings
from fleet.console.table import Table
from fleet.console.window import Column, ListWindow
from fleet.record import Record
from fleet.record.views import KernelView

# Worst first: a mixed cell takes its colour from the worst it holds.
WORST = (Verdict.REFUSED, Verdict.BLOCKED, Verdict.UNKNOWN, Verdict.DEGRADED, Verdict.FITS)


@dataclass(frozen=True, slots=True)
class KernelRow:
    """One kernel build and, by program, how many of its hosts got which verdict."""

    kernel: KernelView
    verdicts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def read_rows(record: Record) -> list[KernelRow]:
    """Return every kernel build, most hosts first."""
    cells: dict[str, dict[str, Mapping[str, int]]] = {}
    for cell in record.matrix():
        cells.setdefault(cell.kernel_id, {})[cell.program] = cell.verdicts
    return [KernelRow(k, cells.get(k.id, {})) for k in record.kernels()]


def verdict_cell(counts: Mapping[str, int]) -> Cell:
    """Return the most frequent verdict in words, then glyph and count of the others."""
    if not counts:
        return Cell("–", "quiet")
    order = [v for v in WORST if counts.get(v)]
    most = max(order, key=lambda v: counts[v], default=Verdict.UNKNOWN)
    others = [sign(v).text.split()[0] + f" {counts[v]:,}" for v in order if v is not most]
    head = sign(most, f"{counts.get(most, 0):,} {most}").text
    return Cell("  ".join([head, *others]), sign(order[0] if order else None).tone)


def _verdict(program: str) -> Callable[[KernelRow], Cell]:
    return lambda row: verdict_cell(row.verdicts.get(program, {}))


def _archived(row: KernelRow) -> Cell:
    return sign("yes") if row.kernel.btf_sha256 else Cell("– none", "quiet")


def _severity(program: str) -> Callable[[KernelRow], tuple[int, int]]:
    def rank(row: KernelRow) -> tuple[int, int]:
        counts = row.verdicts.get(program, {})
        worst = next((n for n, v in enumerate(WORST) if counts.get(v)), len(WORST))
        return worst, -counts.get(WORST[worst], 0) if worst < len(WORST) else 0

    return rank


def columns(programs: Sequence[str]) -> list[Column[KernelRow]]:
    """Return the columns: the kernel, then one per program."""
    return [
        Column("KERNEL", 20, lambda r: Cell(r.kernel.release), least=18, sort="release", grow=True),
        Column("HOSTS", 7, lambda r: Cell(f"{r.kernel.hosts:,}"), sort="hosts", right=True),
        *(Column(p.upper(), 22, _verdict(p), 17, program=p, sort=f"program:{p}", rank=1) for p in programs),
        Column("ARCH", 8, lambda r: Cell(r.kernel.arch, "quiet"), sort="arch", rank=4),
        Column("BTF FILE", 8, _archived, sort="btf", rank=5),
        Column("OS", 22, lambda r: Cell(r.kernel.os_name, "quiet"), sort="os", rank=6),
        Column("BUILD", 18, lambda r: Cell(r.kernel.id, "quiet"), rank=7),
    ]


class MatrixWindow(ListWindow[KernelRow]):
    """Kernel builds of the record, with the programs decided for them."""

    def __init__(self, record: Record) -> None:
        self.programs: Sequence[str] = ()
        super().__init__(lambda: self._kernels(record), lambda r: r.kernel.id, problem=_is_problem)

    def _kernels(self, record: Record) -> list[KernelRow]:
        rows = read_rows(record)
        self.programs = sorted({p for r in rows for p in r.verdicts})
        self.values = {
            "release": lambda r: r.kernel.release,
            "hosts": lambda r: -r.kernel.hosts,
            "arch": lambda r: r.kernel.arch,
            "btf": lambda r: r.kernel.btf_sha256 is None,
            "os": lambda r: r.kernel.os_name,
            **{f"program:{p}": _severity(p) for p in self.programs},
        }
        return rows


def _is_problem(row: KernelRow) -> bool:
    good = (Verdict.FITS, Verdict.DEGRADED)
    return any(v not in good for counts in row.verdicts.values() for v in counts)


class Matrix(Page):
    """Program × kernel."""

    NAME = "matrix"
    BINDINGS = bindings("matrix")
    DEFAULT_CSS = "Matrix Table { height: 1fr; }"

    def body(self) -> Iterable[Widget]:
        """One table, and what the glyphs mean."""
        self._window = MatrixWindow(self.console.record)
        self._programs: Sequence[str] = ()
        empty = "no kernel is known yet: `corollout hosts scan` asks the hosts"
        yield Table(self._window, columns(()), empty=empty, id="kernels")
        yield Line(id="legend")

    def on_mount(self) -> None:
        """Write the legend once."""
        super().on_mount()
        self.query_one("#legend", Line).tell([Cell("hosts by verdict:", "quiet"), *(sign(v) for v in Verdict)])

    def summary(self) -> Sequence[Cell]:
        """How many builds there are."""
        count = self.table.count
        return [Cell(f"{count:,} kernel build{'s' if count != 1 else ''}", "strong")]

    def on_table_read(self) -> None:
        """A program that is decided for the first time gets its column."""
        if self._window.programs != self._programs:
            self._programs = self._window.programs
            self.table.show(columns(self._programs))
        super().on_table_read()

    def action_explain(self) -> None:
        """Say why this kernel gets what it gets: one host per verdict."""
        row, picked = self.table.cursor_row, self.table.picked
        if isinstance(row, KernelRow):
            programs = (picked.program,) if picked and picked.program else tuple(self._programs)
            self.console.explain(row.kernel.release, explain_kernel, row.kernel, programs)
