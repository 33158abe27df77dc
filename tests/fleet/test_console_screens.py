"""Every screen as text, and every key: through Pilot, on a real record."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from console_fleet import NOW, Clock, Scan, make_drift, make_halted, make_lab, make_paused, make_rollout, make_running
from console_pilot import check_golden, press, screen_lines, screen_text, settle
from rich.cells import cell_len

from fleet.actions import ACTIONS, MODALS, SCREENS, Danger, on_screen
from fleet.console.app import PAGES, ConsoleApp
from fleet.console.dialogs import Confirm, FilterLine, Reading
from fleet.console.look import LIGHT
from fleet.console.page import method
from fleet.console.table import Table
from fleet.record import Record, open_record
from fleet.record.filler import fill
from fleet.rollout.driving.controller import new_id
from inventory.connect.errors import Unreachable
from inventory.host import Host

Steps = Callable[[ConsoleApp, Any], Awaitable[None]]
TABS = {"fleet": "1", "matrix": "4", "rollout": "5", "drift": "7"}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Record]:
    with make_lab(tmp_path / "fleet.db") as record:
        yield record


def drive(
    record: Record, steps: Steps, *, size: tuple[int, int] = (120, 32), read_only: bool = False, live: bool = False
) -> None:
    async def go() -> None:
        app = ConsoleApp(record, read_only=read_only, actor="ann", now=Clock(), live=live)
        async with app.run_test(size=size) as pilot:
            await settle(pilot)
            await steps(app, pilot)

    asyncio.run(go())


async def asked(pilot: Any) -> None:
    """Wait for the threads that explain and ask."""
    await pilot.app.workers.wait_for_complete([w for w in pilot.app.workers if w.group in ("ask", "explain")])
    await settle(pilot)


def told(app: ConsoleApp) -> list[str]:
    return [n.message for n in app._notifications]


# ── pictures ───────────────────────────────────────────────────────────────────────────────────────────────────────

PICTURES: dict[str, tuple[Callable[[Record], object], tuple[str, ...], tuple[int, int]]] = {
    "fleet": (lambda _: None, (), (140, 20)),
    "fleet_80": (lambda _: None, (), (80, 24)),
    "fleet_waits_80": (make_halted, (), (80, 24)),
    "fleet_40": (lambda _: None, (), (40, 12)),
    "fleet_wide": (lambda _: None, ("w",), (180, 16)),
    "fleet_problems": (lambda _: None, ("z",), (100, 16)),
    "fleet_marks": (lambda _: None, ("space", "space", "down", "ctrl+space"), (100, 16)),
    "matrix": (lambda _: None, ("4",), (120, 14)),
    "matrix_80": (lambda _: None, ("4",), (80, 24)),
    "drift_none": (lambda _: None, ("7",), (100, 12)),
    "drift": (make_drift, ("7",), (140, 16)),
    "drift_80": (make_drift, ("7", "down"), (80, 16)),
    "drift_problems": (make_drift, ("7", "z", "s"), (100, 16)),
    "rollout_none": (lambda _: None, ("5",), (100, 24)),
    "rollout_planned": (make_rollout, ("5",), (100, 24)),
    "rollout_running": (make_running, ("5",), (120, 32)),
    "rollout_running_80": (make_running, ("5",), (80, 24)),
    "rollout_halted": (make_halted, ("5",), (120, 32)),
    "rollout_halted_80": (make_halted, ("5",), (80, 24)),
    "rollout_waiting": (make_paused, ("5",), (120, 32)),
    "help_fleet": (lambda _: None, ("?",), (120, 44)),
    "help_rollout_80": (lambda _: None, ("5", "?"), (80, 24)),
    "confirm_halt": (make_running, ("5", "x"), (100, 30)),
    "confirm_promote_80": (make_running, ("5", "p"), (80, 24)),
}  # fmt: skip


@pytest.mark.parametrize("name", PICTURES)
def test_picture(name: str, lab: Record) -> None:
    prepare, keys, size = PICTURES[name]
    prepare(lab)

    async def steps(app: ConsoleApp, pilot: Any) -> None:
        from fleet.console.feed import look

        news = look(lab, None)
        app.waiting = news.waiting if news else ()
        assert app.page is not None
        app.page.tell()
        for key in keys:
            await press(pilot, key)
        text = screen_text(app)
        assert all(cell_len(line) <= size[0] for line in text.splitlines())
        check_golden(name, text)

    drive(lab, steps, size=size)


EXPLAINED = {
    "explain_core": ("plain-1", ()),
    "explain_fallback": ("no-btf", ()),
    "explain_denied": ("seccomp-eperm", ()),
    "explain_unreachable": ("key-changed", ()),
    "explain_one_program": ("no-btf", ("right", "right", "right", "right")),
}


@pytest.mark.parametrize("name", EXPLAINED)
def test_explain_picture(name: str, lab: Record) -> None:
    host, keys = EXPLAINED[name]

    async def steps(app: ConsoleApp, pilot: Any) -> None:
        assert app.page is not None
        assert app.page.table.go_to(host)
        await press(pilot, *keys, "enter")
        await asked(pilot)
        assert isinstance(app.screen, Reading)
        check_golden(name, screen_text(app))
        await press(pilot, "G")
        await press(pilot, "escape")
        assert app.screen is app.page

    drive(lab, steps, size=(120, 60))


def test_explain_on_drift_says_what_mends_it(lab: Record) -> None:
    make_drift(lab)

    async def steps(app: ConsoleApp, pilot: Any) -> None:
        await press(pilot, "7", "enter")
        await asked(pilot)
        assert isinstance(app.screen, Reading)
        check_golden("explain_drift", screen_text(app))

    drive(lab, steps, size=(100, 24))


def test_explain_on_the_matrix_and_the_rollout(lab: Record) -> None:
    make_running(lab)

    async def steps(app: ConsoleApp, pilot: Any) -> None:
        await press(pilot, "4", "right", "right", "right", "e")
        await asked(pilot)
        text = screen_text(app)
        assert isinstance(app.screen, Reading)
        assert "tcp-flow" in text
        assert "net-policy" not in text
        check_golden("explain_kernel", text)
        await press(pilot, "escape", "5", "tab", "e")
        await asked(pilot)
        assert isinstance(app.screen, Reading)

    drive(lab, steps, size=(120, 60))


# ── keys ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_registry_and_the_screens_are_one() -> None:
    assert set(PAGES) == set(SCREENS)
    for action in ACTIONS:
        assert set(action.screens) <= {*SCREENS, *MODALS}
        assert action.keys
        assert action.help
        assert action.changes or action.danger is Danger.NONE, "only what changes something can be dangerous"
    names = [a.name for a in ACTIONS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("screen", [*SCREENS, *MODALS])
def test_no_two_actions_share_a_key(screen: str) -> None:
    keys = [k for a in on_screen(screen) for k in a.keys]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("screen", SCREENS)
def test_every_action_is_bound_and_has_a_handler_and_nothing_else_is(screen: str, lab: Record) -> None:
    async def steps(app: ConsoleApp, pilot: Any) -> None:
        await press(pilot, TABS[screen])
        page = app.page
        assert page is not None
        assert page.NAME == screen  # noqa: SIM300 — the right way round
        bound = {b.binding.action for b in page.active_bindings.values() if b.node is page}
        assert bound == {method(a) for a in on_screen(screen)}
        for action in on_screen(screen):
            handler = "action_ask" if action.changes else f"action_{method(action)}"
            assert callable(getattr(page, handler, None)), handler
        others = {k for k, b in page.active_bindings.items() if b.node is not page}
        assert others <= {"ctrl+q", "ctrl+c", "ctrl+p"}, "a widget or Textual holds a key of ours"

    drive(lab, steps)


@pytest.mark.parametrize("screen", SCREENS)
def test_every_action_runs_from_its_key_and_none_ends_the_console(screen: str, lab: Record) -> None:
    make_running(lab)

    async def steps(app: ConsoleApp, pilot: Any) -> None:
        for action in on_screen(screen):
            if action.name == "quit":
                continue
            if app.page is None or screen != app.page.NAME:
                await press(pilot, TABS[screen])
            await pilot.press(action.keys[0])
            await asked(pilot)
            while app.screen is not app.page:
                app.pop_screen()
                await settle(pilot)
            await pilot.press("escape")
        await pilot.press("q")
        await pilot.pause()
        assert app._exit

    drive(lab, steps)


def test_the_palette_offers_the_screens_actions(lab: Record) -> None:
    async def steps(app: ConsoleApp, pilot: Any) -> None:
        await press(pilot, "5")
        offered = [c.title for c in app.get_system_commands(app.screen)]
        assert offered == [f"{a.name} ({a.keys[0]})" for a in on_screen("rollout")]

    drive(lab, steps)


def test_moving_about(lab: Record) -> None:
    async def steps(app: ConsoleApp, pilot: Any) -> None:
        assert app.page is not None
        table = app.page.table
        await press(pilot, "j", "j", "k")
        assert table.cursor_key == "no-btf"
        await press(pilot, "G")
        assert table.cursor_key == "silent"
        await press(pilot, "s")
        assert table.view.order[0].by == "name"
        await press(pilot, "right", "S", "g")
        assert [o.by for o in table.view.order] == ["name", "reach"]
        await press(pilot, "4", "-")
        assert app.page.NAME == "fleet"
        await press(pilot, "t")
        assert app.theme == LIGHT.name
        await press(pilot, "space", "escape")
        assert not table.marks

    drive(lab, steps)


def test_copying(lab: Record) -> None:
    async def steps(app: ConsoleApp, pilot: Any) -> None:
        await press(pilot, "space", "space", "c")
        assert app.clipboard == "key-changed\nno-btf"
        await press(pilot, "g", "y")
        assert '"reach": "refused"' in app.clipboard

    drive(lab, steps)


@pytest.mark.parametrize("by", ["name", "reach", "release", "btf", "program:tcp-flow", "zone", "seen", "arch", "os"])
def test_every_column_of_the_fleet_sorts_both_ways(by: str, lab: Record) -> None:
    async def steps(app: ConsoleApp, pilot: Any) -> None:
        assert app.page is not None
        table = app.page.table
        columns = [c for c in table._columns if c.sort]
        assert by in {c.sort for c in columns}
        await press(pilot, "w")
        table.look(table.view.sorted_by(by))
        await settle(pilot)
        table.look(table.view.sorted_by(by))
        await settle(pilot)
        assert table.count == 8

    drive(lab, steps)


FILTERS = {
    'kernel~"6.1.*" and btf=no': ["no-btf"],
    "bpf=blocked": ["no-python", "seccomp-enosys", "seccomp-eperm"],
    "name~plain-? or label:env=prod": ["plain-1", "plain-2"],
    "kernel=unknown": ["key-changed", "silent"],
    "not arch=x86_64": ["key-changed", "silent"],
    "kernel>=6.0 and not seccomp.mode=no and value:seccomp.mode=2": ["seccomp-enosys", "seccomp-eperm"],
    "lab": (["key-changed", "no-btf", "no-python", "plain-1", "plain-2", "seccomp-enosys", "seccomp-eperm", "silent"]),
    "plain": ["plain-1", "plain-2"],
    "nothing-like-it": [],
}  # fmt: skip


@pytest.mark.parametrize("text", FILTERS)
def test_the_filter_is_the_command_lines_selector(text: str, lab: Record) -> None:
    async def steps(app: ConsoleApp, pilot: Any) -> None:
        assert app.page is not None
        await press(pilot, "/")
        app.page.query_one(FilterLine).value = text
        await press(pilot, "enter")
        assert list(app.page.table._paged.keys) == FILTERS[text]
        assert f"/{text[:20]}" in screen_lines(app)[-1]
        await press(pilot, "escape")
        assert app.page.table.count == 8

    drive(lab, steps)


def test_a_filter_that_means_nothing_says_so_and_can_be_mended(lab: Record) -> None:
    async def steps(app: ConsoleApp, pilot: Any) -> None:
        await press(pilot, "/", *"btf=no and", "enter")
        assert len(told(app)) == 1
        assert told(app)[0].startswith("COR-INV-020")
        assert app.page is not None
        line = app.page.query_one(FilterLine)
        assert (line.display, line.value) == (True, "btf=no and")
        assert app.page.table.count == 8
        await press(pilot, "escape")
        assert not line.display
        assert app.page.table.has_focus

    drive(lab, steps)


# ── requests ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("verb", ["promote", "rollback"])
def test_a_dangerous_key_asks_first(verb: str, lab: Record) -> None:
    rollout = make_running(lab)
    action = next(a for a in ACTIONS if a.name == verb)
    named = action.danger is Danger.NAME

    async def steps(app: ConsoleApp, pilot: Any) -> None:
        await press(pilot, "5", action.keys[0])
        assert isinstance(app.screen, Confirm)
        await press(pilot, "escape")
        assert lab.requests(rollout) == []
        await press(pilot, action.keys[0])
        if named:
            await press(pilot, *"tcp-flow", "enter")
            assert isinstance(app.screen, Confirm), "half a name is not its name"
            assert "that is not its name" in screen_text(app)
            await press(pilot, *"-1")
        await press(pilot, "enter")
        await asked(pilot)
        (request,) = lab.requests(rollout)
        assert (request.verb, request.actor, request.taken_at) == (verb, "ann", None)
        assert f"asked 0s ago: {verb}, not taken yet" in screen_text(app)

    drive(lab, steps)


def test_pause_is_one_key(lab: Record) -> None:
    rollout = make_running(lab)

    async def steps(app: ConsoleApp, pilot: Any) -> None:
        await press(pilot, "5", "H")
        await asked(pilot)
        assert [r.verb for r in lab.requests(rollout)] == ["pause"]

    drive(lab, steps)


def test_a_request_that_nobody_will_take_says_how_to_go_on(lab: Record) -> None:
    make_halted(lab)

    async def steps(app: ConsoleApp, pilot: Any) -> None:
        await press(pilot, "5")
        assert "nobody drives it" not in screen_text(app)
        await press(pilot, "r", "enter")
        await asked(pilot)
        assert "nobody drives it: corollout rollout go tcp-flow-1" in screen_text(app)

    drive(lab, steps, size=(160, 30))


def test_a_controller_that_died_does_not_drive(lab: Record) -> None:
    rollout = make_running(lab)
    lab.release_rollout(rollout, "ctl-1")
    dead = "/".join((*new_id().split("/")[:3], str(2**22 + 1), "1", "abc"))
    lab.claim_rollout(rollout, dead, alive=lambda _c, _s: False)

    async def steps(app: ConsoleApp, pilot: Any) -> None:
        await press(pilot, "5")
        assert f"nobody drives it: corollout rollout go {rollout}" in screen_text(app)

    drive(lab, steps, size=(160, 30))


def test_what_makes_no_sense_is_not_asked(lab: Record) -> None:
    rollout = make_halted(lab)

    async def steps(app: ConsoleApp, pilot: Any) -> None:
        await press(pilot, "5", "H")
        assert app.screen is app.page
        assert told(app) == ["tcp-flow-1 is halted: nothing to pause"]
        assert lab.requests(rollout) == []

    drive(lab, steps)


def test_read_only_has_no_changing_action(lab: Record, tmp_path: Path) -> None:
    rollout = make_paused(lab)

    async def steps(app: ConsoleApp, pilot: Any) -> None:
        await press(pilot, "5")
        for action in (a for a in ACTIONS if a.changes):
            await press(pilot, *action.keys)
            assert app.screen is app.page, f"{action.name} opened something"
        await asked(pilot)
        assert lab.requests(rollout) == []
        assert "read-only" in screen_lines(app)[0]
        offered = " ".join(c.title for c in app.get_system_commands(app.screen))
        assert not any(f"{a.name} (" in offered for a in ACTIONS if a.changes)
        assert "rollback" not in screen_lines(app)[-1]
        await press(pilot, "?")
        assert "rollback" not in screen_text(app)

    with open_record(tmp_path / "fleet.db", read_only=True) as record:
        drive(record, steps, read_only=True)


# ── live ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def until(pilot: Any, holds: Callable[[], bool]) -> None:
    for _ in range(400):
        await settle(pilot)
        if holds():
            return
        await pilot.pause(0.02)
    raise AssertionError("never came")


def test_a_running_console_sees_what_others_write(lab: Record, tmp_path: Path) -> None:
    async def steps(app: ConsoleApp, pilot: Any) -> None:
        with open_record(tmp_path / "fleet.db", now=Clock()) as other:
            assert "nothing waits for you" in screen_lines(app)[1]
            make_paused(other)
            await until(pilot, lambda: "tcp-flow-1 paused" in screen_lines(app)[1])
            other.record_scan(Scan(Host("plain-1"), fault=Unreachable("plain-1 is gone")))
            await until(pilot, lambda: any("plain-1" in x and "unreachable" in x for x in screen_lines(app)))

    drive(lab, steps, live=True)


def test_a_record_that_goes_away_is_said_and_the_console_lives(lab: Record, tmp_path: Path) -> None:
    async def steps(app: ConsoleApp, pilot: Any) -> None:
        path = tmp_path / "fleet.db"
        path.rename(tmp_path / "away.db")
        lab.engine.dispose()
        await until(pilot, lambda: "the record cannot be read" in screen_lines(app)[1])
        assert "plain-1" in screen_text(app)
        (tmp_path / "away.db").rename(path)
        lab.engine.dispose()
        await until(pilot, lambda: "nothing waits for you" in screen_lines(app)[1])

    drive(lab, steps, live=True)


# ── hostile and huge ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_hostile_host_draws_nothing(lab: Record) -> None:
    """Straight into the tables, as if every guard before the screen had failed."""
    from sqlalchemy import text

    evil = "[bold red]a[/]\x1b[31m\x1b]0;owned\x07\u202e\u0000\r\nb" + "w" * 300
    rollout = make_halted(lab)
    with lab.engine.begin() as connection:
        values = {"evil": evil, "r": rollout}
        connection.execute(
            text("UPDATE host SET zone=:evil, reach_code=:evil, reach_detail=:evil WHERE name='silent'"), values
        )
        connection.execute(text("UPDATE kernel SET release=:evil, os_name=:evil, arch=:evil"), values)
        connection.execute(text("UPDATE step SET detail=:evil, variant=:evil"), values)
        connection.execute(text("UPDATE rollout SET reason=:evil, actor=:evil"), values)
        gate = (
            '{"answer": "[red]", "checks": [{"name": "\\u001b[2J", "detail": "[blink]x[/]", "answer": "\\u202e"}, 7]}'
        )
        connection.execute(text("UPDATE wave SET gate=:gate"), {"gate": gate})

    async def steps(app: ConsoleApp, pilot: Any) -> None:
        for keys in (("w", "G", "e"), ("4", "w"), ("5",), ("tab", "e"), ("x",), ("?",)):
            await press(pilot, *keys)
            await asked(pilot)
            for line in screen_lines(app):
                assert all(ch.isprintable() for ch in line), line
                assert cell_len(line) <= 100
            if app.screen is not app.page:
                await press(pilot, "escape")
        await press(pilot, "5")
        assert "[bold red]a[/]" in screen_text(app), "markup is text"
        check_golden("rollout_hostile", screen_text(app))

    drive(lab, steps, size=(100, 30))


def test_100_000_hosts_open_and_scroll(tmp_path: Path) -> None:
    with open_record(tmp_path / "fleet.db", create=True, now=lambda: NOW) as record:
        fill(record, 100_000)

        async def steps(app: ConsoleApp, pilot: Any) -> None:
            assert "100,000 hosts" in screen_lines(app)[0]
            assert app.page is not None
            table: Table[Any] = app.page.table
            await press(pilot, "pagedown", "pagedown")
            await press(pilot, "G")
            assert "host-099999.example" in screen_text(app)
            assert screen_lines(app)[-3].startswith("›")
            table.go(50_000)
            await settle(pilot)
            assert "host-050000.example" in screen_text(app)
            await press(pilot, "/", *"host-07777", "enter")
            assert "10 of 100,000 hosts" in screen_lines(app)[0]
            await press(pilot, "escape")
            assert "100,000 hosts" in screen_lines(app)[0]
            await press(pilot, "4")
            assert "60 kernel builds" in screen_lines(app)[0]

        drive(record, steps, size=(120, 30))
