"""The one registry of what a person can ask for: names, keys, help, where it works and what it changes.

The console's bindings, its palette, its help page, the manual and a test read these rows; nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Danger(StrEnum):
    """What stands between the key and the request."""

    NONE = "none"
    ASK = "ask"  # one more key
    NAME = "name"  # type the rollout's name


@dataclass(frozen=True, slots=True)
class Action:
    """One thing a person can do.

    ``keys`` are as a person reads them (``?``, ``ctrl+p``), the first is shown; ``screens`` where it works; one that
    ``changes`` writes a request with its name as the verb; ``twin`` is the command line that does the same.
    """

    name: str
    keys: tuple[str, ...]
    help: str
    screens: tuple[str, ...]
    changes: bool = False
    danger: Danger = Danger.NONE
    twin: str = ""
    hint: bool = True  # shown at the foot of the screen; what every terminal program has is not


SCREENS = ("fleet", "matrix", "rollout", "drift")
MODALS = ("explain", "help", "confirm")
_SCROLLING = (*SCREENS, "explain", "help")
_ROLLOUT = ("rollout",)


def _request(verb: str, key: str, help_line: str, danger: Danger, *, hint: bool = True) -> Action:
    twin = f"rollout {verb} ID"
    return Action(verb, (key,), help_line, _ROLLOUT, changes=True, danger=danger, twin=twin, hint=hint)


ACTIONS: tuple[Action, ...] = (
    Action("help", ("?",), "every key on this screen", SCREENS, twin="corollout --help"),
    _request("approve", "A", "let it start, as its policy asks", Danger.ASK),
    _request("deny", "D", "do not let it start", Danger.ASK),
    _request("pause", "H", "start no new step", Danger.NONE),
    _request("resume", "R", "go on after a pause", Danger.ASK),
    _request("promote", "p", "go on to the next wave now", Danger.ASK),
    _request("freeze", "F", "leave every host as it is, watched", Danger.ASK),
    _request("halt", "x", "stop it, leave hosts as they are", Danger.NAME),
    _request("rollback", "u", "undo it on every host", Danger.NAME),
    _request("retry", "r", "try the failed hosts again", Danger.ASK),
    _request("reconcile", "C", "look at every host of it again", Danger.ASK, hint=False),
    _request("abort", "X", "give it up, undo nothing", Danger.NAME),
    Action("filter", ("/",), "show only what matches a selector", ("fleet",), twin="hosts list --where"),
    Action("sort", ("s",), "by this column; again: turned", SCREENS),
    Action("problems", ("z",), "problems only", SCREENS),
    Action("explain", ("e", "enter"), "why: requirement, evidence, verdict", SCREENS, twin="explain HOST PROGRAM"),
    Action("older", ("[",), "the rollout before this one", _ROLLOUT, twin="rollout list"),
    Action("newer", ("]",), "the rollout after this one", _ROLLOUT, twin="rollout list"),
    Action("next-pane", ("tab",), "from waves to hosts and back", _ROLLOUT),
    Action("then-by", ("S",), "second sort key", SCREENS, hint=False),
    Action("wide", ("w",), "every column, or those that fit", SCREENS, twin="-o wide"),
    Action("mark", ("space",), "mark this row", SCREENS),
    Action("mark-range", ("ctrl+space", "ctrl+@"), "mark from the last mark to here", SCREENS, hint=False),
    Action("copy", ("c",), "copy the names of the marked rows", SCREENS),
    Action("json", ("y",), "copy this row as JSON", SCREENS, twin="-o json", hint=False),
    Action("fleet", ("1",), "hosts", SCREENS, twin="hosts list", hint=False),
    Action("matrix", ("4",), "program × kernel", SCREENS, twin="kernels list", hint=False),
    Action("rollout", ("5",), "waves, gates, cost", SCREENS, twin="rollout status ID", hint=False),
    Action("drift", ("7",), "hosts that do not run what they should", SCREENS, twin="drift --recorded", hint=False),
    Action("previous", ("-",), "the screen before", SCREENS, hint=False),
    Action("back", ("escape",), "clear the filter, then the marks", SCREENS, hint=False),
    Action("close", ("escape",), "back to the screen", MODALS, hint=False),
    Action("down", ("down", "j"), "down", _SCROLLING, hint=False),
    Action("up", ("up", "k"), "up", _SCROLLING, hint=False),
    Action("left", ("left", "h"), "column to the left", SCREENS, hint=False),
    Action("right", ("right", "l"), "column to the right", SCREENS, hint=False),
    Action("page-down", ("pagedown", "ctrl+f"), "a page down", _SCROLLING, hint=False),
    Action("page-up", ("pageup", "ctrl+b"), "a page up", _SCROLLING, hint=False),
    Action("first", ("g", "home"), "to the top", _SCROLLING, hint=False),
    Action("last", ("G", "end"), "to the bottom", _SCROLLING, hint=False),
    Action("palette", ("ctrl+p", ":"), "find an action by its name", SCREENS, hint=False),
    Action("theme", ("t",), "dark or light", SCREENS, hint=False),
    Action("quit", ("q",), "leave; rollouts go on", SCREENS),
)


def on_screen(screen: str, *, read_only: bool = False) -> Iterator[Action]:
    """Yield the actions of *screen* in the registry's order, without the changing ones when *read_only*."""
    return (a for a in ACTIONS if screen in a.screens and not (read_only and a.changes))
