"""The Rollout screen: waves, gates, cost against budget, hosts by state, and the keys that ask something of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from textual.containers import Horizontal
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from fleet.actions import ACTIONS, Action, Danger
from fleet.console.dialogs import Confirm
from fleet.console.explain import explain_host
from fleet.console.look import Cell, ago, shown, sign
from fleet.console.page import Line, Page, bindings
from fleet.console.rollout_rows import (
    Snapshot,
    StepsWindow,
    WavesWindow,
    cost_lines,
    gate_lines,
    step_columns,
    wave_columns,
)
from fleet.console.table import Table
from fleet.record.rollout_views import RolloutView, StepView, WaveView
from fleet.rollout.driving.controller import driver
from fleet.rollout.machine.verbs import VERBS
from fleet.rollout.states import BAKING, ROLLING_BACK, RUNNING

_DRIVEN = (RUNNING, BAKING, ROLLING_BACK)  # states in which a controller should be at work
_ASKED = {a.name: a for a in ACTIONS if a.changes}


class Rollout(Page):
    """One rollout."""

    NAME = "rollout"
    BINDINGS = bindings("rollout")
    DEFAULT_CSS = """
    Rollout #waves { height: 6; }
    Rollout #panels { height: 6; }
    Rollout #panels Static { height: 6; padding: 0 1; color: $foreground; background: $bar; text-wrap: nowrap;
        text-overflow: ellipsis; }
    Rollout #gate { width: 2fr; }
    Rollout #cost { width: 3fr; }
    Rollout #hosts { height: 1fr; }
    """

    def body(self) -> Iterable[Widget]:
        """State and counts, waves, gate and cost of the wave under the cursor, hosts."""
        record = self.console.record
        self._waves = WavesWindow(record)
        self._shown, self._stood = "", False
        yield Line(id="state")
        yield Line(id="counts")
        none = "no rollout yet: `corollout plan PROGRAM` makes a plan, `corollout rollout start PLAN` carries it out"
        yield Table(self._waves, wave_columns(self.console.now), empty=none, id="waves")
        with Horizontal(id="panels"):
            yield Static(id="gate", markup=False)
            yield Static(id="cost", markup=False)
        yield Table(StepsWindow(record, ""), step_columns(lambda: self._waves.snapshot), empty="no host", id="hosts")

    @property
    def snapshot(self) -> Snapshot:
        """What was read last."""
        return self._waves.snapshot

    @property
    def _wave_table(self) -> Table[WaveView]:
        return self.query_one("#waves", Table)

    @property
    def _host_table(self) -> Table[StepView]:
        return self.query_one("#hosts", Table)

    def summary(self) -> Sequence[Cell]:
        """Which rollout of how many."""
        ids, rollout = self.snapshot.ids, self.snapshot.rollout
        if rollout is None:
            return [Cell("no rollout", "quiet")]
        place = f"{ids.index(rollout.id) + 1} of {len(ids)}" if rollout.id in ids else ""
        return [Cell(rollout.id, "strong"), Cell(place, "quiet")]

    def offered(self) -> Iterable[Action]:
        """Of what can be asked, only what makes sense in this state."""
        rollout = self.snapshot.rollout
        return (a for a in super().offered() if not a.changes or (rollout and rollout.state in VERBS[a.name].states))

    def on_table_read(self) -> None:
        """Follow the rollout that was read."""
        rollout = self.snapshot.rollout
        if rollout is not None and rollout.id != self._shown:
            self._shown, self._stood = rollout.id, False
            self._host_table.show(
                step_columns(lambda: self._waves.snapshot), StepsWindow(self.console.record, rollout.id)
            )
        if rollout is not None and not self._stood:
            self._stood = self._wave_table.go_to(str(max(rollout.wave, 0)))
        super().on_table_read()

    def on_table_moved(self) -> None:
        """The panels are about the wave under the cursor."""
        self._panels()

    def tell(self) -> None:
        """Draw the lines and panels anew."""
        super().tell()
        rollout = self.snapshot.rollout
        if not self.is_mounted or rollout is None:
            return
        now = self.console.now()
        state = [
            sign(rollout.state),
            Cell(f"wave {rollout.wave} of {len(rollout.waves) - 1}" if rollout.wave >= 0 else "not started"),
            Cell(rollout.reason or "", "strong"),
            *self._asked(now),
            *_driver(rollout, self.console.record.now(), asked=bool(self.snapshot.requests)),
            Cell(f"by {rollout.actor}, {ago(now - rollout.created_at)} ago", "quiet"),
        ]
        self.query_one("#state", Line).tell(state)
        counts = sorted(self.snapshot.counts.items(), key=lambda item: (-item[1], item[0]))
        skipped = (
            [Cell(f"{self.snapshot.plan.skipped:,} left out by the plan", "quiet")]
            if self.snapshot.plan.skipped
            else []
        )
        self.query_one("#counts", Line).tell([*(sign(s, f"{n:,} {s}") for s, n in counts), *skipped])
        self._panels()

    def _asked(self, now: float) -> list[Cell]:
        return [
            Cell(f"asked {ago(now - r.at)} ago: {r.verb}, not taken yet", "degraded") for r in self.snapshot.requests
        ]

    def _panels(self) -> None:
        wave = self._wave_table.cursor_row
        for name, lines in (("gate", gate_lines(wave)), ("cost", cost_lines(self.snapshot, wave))):
            head = [Cell(f"{name} of wave {wave.number}" if wave else name, "quiet")]
            self.query_one(f"#{name}", Static).update(Content("\n").join([shown(line) for line in (head, *lines)]))

    # ── actions of the registry ────────────────────────────────────────────────────────────────────────────────────

    def action_next_pane(self) -> None:
        """From waves to hosts and back."""
        (self._host_table if self._wave_table.has_focus else self._wave_table).focus()
        self.tell()

    def action_older(self) -> None:
        """The rollout before this one."""
        self._turn(1)

    def action_newer(self) -> None:
        """The rollout after this one."""
        self._turn(-1)

    def _turn(self, by: int) -> None:
        ids, rollout = self.snapshot.ids, self.snapshot.rollout
        if rollout is not None and rollout.id in ids:
            self.open(ids[max(0, min(ids.index(rollout.id) + by, len(ids) - 1))])

    def open(self, rollout_id: str) -> None:
        """Show this rollout."""
        self._waves.wanted = rollout_id
        self._wave_table.look(self._wave_table.view)

    def action_problems(self) -> None:
        """Problems only, among the hosts."""
        view = self._host_table.view
        self._host_table.focus()
        self.look(type(view)(view.filter, not view.problems, view.order))

    def action_explain(self) -> None:
        """Say why the host under the cursor gets what it gets; on a wave, its first host in trouble."""
        rollout, host = self.snapshot.rollout, self._host_table.cursor_key
        if rollout is not None and host is not None:
            self.console.explain(host, explain_host, host, rollout.program)

    def action_ask(self, verb: str) -> None:
        """Ask *verb* of the rollout on the screen, after what its danger demands."""
        action, rollout = _ASKED[verb], self.snapshot.rollout
        if rollout is None:
            return
        if rollout.state not in VERBS[verb].states:
            self.console.say(f"{rollout.id} is {_words(rollout.state)}: nothing to {verb}", wrong=True)
        elif action.danger is Danger.NONE:
            self.console.ask(action, rollout.id)
        else:
            self.app.push_screen(
                Confirm(action, rollout.id, self._consequences(action, rollout)),
                partial(self._answered, action, rollout.id),
            )

    def _answered(self, action: Action, rollout_id: str, said: bool | None) -> None:  # noqa: FBT001 — Textual's callback
        if said:
            self.console.ask(action, rollout_id)

    def _consequences(self, action: Action, rollout: RolloutView) -> list[list[Cell]]:
        counts = self.snapshot.counts
        live = sum(n for state, n in counts.items() if state in ("attached", "verified", "healthy"))
        return [
            [Cell(action.help, "strong")],
            [sign(rollout.state), Cell(f"{live:,} of {sum(counts.values()):,} hosts run {rollout.program} by it now")],
        ]


def _words(state: str) -> str:
    return state.replace("_", " ").lower()


def _driver(rollout: RolloutView, now: float, *, asked: bool) -> list[Cell]:
    """Who drives it; when somebody should and nobody does (or it died), the command that takes it up."""
    if driver(rollout, now):
        return [Cell(f"driven by {rollout.controller}", "quiet")]
    needed = asked or rollout.state in _DRIVEN
    return [Cell(f"■ nobody drives it: corollout rollout go {rollout.id}", "blocked")] if needed else []
