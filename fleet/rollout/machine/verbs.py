"""What a person may ask of a rollout: in which states, with which arguments, where it leads. Values and checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from btf.fault import EXIT_USAGE, Fault, printable
from fleet.rollout.states import (
    ABORTED,
    BAKING,
    COMPLETED,
    FROZEN,
    HALTED,
    PAUSED,
    PLANNED,
    ROLLBACK_INCOMPLETE,
    ROLLED_BACK,
    ROLLING_BACK,
    RUNNING,
    STATES,
    WAITING_APPROVAL,
)

MAX_NAMES = 10_000  # hosts or kernels named in one request
MAX_TEXT = 300  # characters of a name or remark


class RequestWrong(Fault):
    """A verb that does not exist, or arguments that it does not take."""

    code = "COR-ROL-030"
    exit = EXIT_USAGE
    remedy = "`corollout rollout VERB --help` lists what each verb takes."


def _names(value: Any) -> list[str]:
    if not isinstance(value, list | tuple) or not 0 < len(value) <= MAX_NAMES:
        raise ValueError("is not a list of names")
    return sorted({_text(name) for name in value})


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT or printable(value, MAX_TEXT) != value:
        raise ValueError(f"is not a printable text of at most {MAX_TEXT} characters")
    return value


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10_000:
        raise ValueError("is not the number of a wave")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("is neither true nor false")
    return value


@dataclass(frozen=True, slots=True)
class Argument:
    """One thing a verb may be told. ``many``: several may be named."""

    name: str
    check: Callable[[Any], Any]
    help: str
    many: bool = False


ARGUMENTS: dict[str, Argument] = {
    row.name: row
    for row in (
        Argument("remark", _text, "Why; kept with the audit."),
        Argument("host", _names, "Only this host; may be repeated.", many=True),
        Argument("kernel", _names, "Only hosts of this kernel build; may be repeated.", many=True),
        Argument("wave", _number, "Only this wave and later ones."),
        Argument("all", _flag, "Straight through every wave: no bakes; failed applies halt it all the same."),
        Argument("skip_bake", _flag, "Go on as soon as the wave under way is applied."),
    )
}


@dataclass(frozen=True, slots=True)
class Verb:
    """What a person may ask, and in which states; asked in another, it is answered and changes nothing.

    ``to``: the states it may lead to, beside the one it was asked in; ``one_of``: arguments that exclude each other;
    ``stops``: it is taken before a gate's answer that it crossed.
    """

    name: str
    states: tuple[str, ...]
    to: tuple[str, ...] = ()
    takes: tuple[str, ...] = ("remark",)
    one_of: tuple[str, ...] = ()
    stops: bool = False


_SETTLED = (PAUSED, HALTED, COMPLETED, ABORTED, ROLLED_BACK, ROLLBACK_INCOMPLETE)
_PICK = ("wave", "host", "kernel")

VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb("start", (PLANNED,), (RUNNING, WAITING_APPROVAL)),
        Verb("approve", (WAITING_APPROVAL,), (RUNNING, COMPLETED)),
        Verb("deny", (WAITING_APPROVAL,), (ABORTED,)),
        Verb("pause", (RUNNING, BAKING, PAUSED), (PAUSED,), stops=True),  # one that waits for its window goes on
        Verb("resume", (PAUSED, HALTED, FROZEN), (RUNNING, BAKING, HALTED, WAITING_APPROVAL)),
        Verb("promote", (RUNNING, BAKING, PAUSED, HALTED), (RUNNING, COMPLETED, WAITING_APPROVAL),
             ("remark", "all", "skip_bake"), ("all", "skip_bake")),
        Verb("freeze", (RUNNING, BAKING, PAUSED, HALTED), (FROZEN,), stops=True),
        Verb("halt", (PLANNED, RUNNING, BAKING, PAUSED), (HALTED,), ("remark", "kernel"), stops=True),
        Verb("retry", (RUNNING, BAKING, PAUSED, HALTED, COMPLETED), (RUNNING,), ("remark", "host", "kernel"),
             ("host", "kernel")),
        Verb("rollback", (WAITING_APPROVAL, RUNNING, BAKING, PAUSED, HALTED, FROZEN, COMPLETED, ABORTED,
                          ROLLBACK_INCOMPLETE), (ROLLING_BACK, HALTED), ("remark", *_PICK), _PICK, stops=True),
        Verb("abort", (PLANNED, WAITING_APPROVAL, PAUSED, HALTED, FROZEN), (ABORTED,), stops=True),
        Verb("reconcile", (RUNNING, BAKING, *_SETTLED), (ROLLED_BACK,)),
    )
}  # fmt: skip


def check_request(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return *arguments* as the verb *name* takes them, without those not given, or raise RequestWrong."""
    verb = VERBS.get(name)
    if verb is None:
        raise RequestWrong("no such verb")
    given = {k: v for k, v in arguments.items() if v not in (None, False, (), [])}
    for key in given:
        if key not in verb.takes:
            raise RequestWrong(f"{name} takes no {printable(str(key), 40)!r}")
    if len(both := [a for a in verb.one_of if a in given]) > 1:
        raise RequestWrong(f"{name} takes one of {', '.join(both)} at a time")
    try:
        return {key: ARGUMENTS[key].check(value) for key, value in given.items()}
    except ValueError as error:
        raise RequestWrong(f"{name}: an argument {error}") from None


def exits(state: str, alone: Iterable[str] = ()) -> frozenset[str]:
    """Return the states that *state* may be left for: by a controller (*alone*), or by a person's verb."""
    asked = {to for verb in VERBS.values() if state in verb.states for to in verb.to}
    return frozenset({*alone, *asked} - {state}) & frozenset(STATES)
