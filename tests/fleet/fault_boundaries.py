"""Where a fault can strike a controller: every boundary of every step, taken from the step tables themselves.

``watch(hook)`` wraps what stands in the tables now: each act of ``ACTS``, each decision and effect the engine makes
durable, each call of the executor's interface. A step that is added is wrapped too, and appears in the matrix.
"""

from __future__ import annotations

import dataclasses
import inspect
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

from fleet.rollout.driving.legs import DbosJournal
from fleet.rollout.execute import Executor
from fleet.rollout.hosts import acts
from fleet.rollout.machine.journal import Journal

CALLS = tuple(name for name, _ in inspect.getmembers(Executor, inspect.isfunction) if not name.startswith("_"))
REPEATS = 2  # a boundary that is passed more often (a look during the bake) is struck the first times only


class Boundaries:
    """Names the boundaries as they are passed, and tells each to *hook*: ``act apply:b#1 before``."""

    def __init__(self, hook: Callable[[str, Call | None], None]) -> None:
        self._hook = hook
        self._passed: Counter[str] = Counter()
        self._lock = threading.Lock()

    def around(self, what: str, do: Callable[[], Any], again: Call | None = None) -> Any:
        """Do it between its two boundaries. *again* delivers a call once more."""
        with self._lock:
            self._passed[what] += 1
            name = f"{what}#{self._passed[what]}"
        self._hook(f"{name} before", again)
        answer = do()
        self._hook(f"{name} after", again)
        return answer

    def watch(self) -> None:
        """Wrap every table of this process."""
        for name, row in acts.ACTS.items():
            acts.ACTS[name] = self._with_acts(name, row)
        for kind, _ in inspect.getmembers(Journal, inspect.isfunction):
            if not kind.startswith("_"):
                setattr(DbosJournal, kind, self._journal(kind, getattr(DbosJournal, kind)))

    def _with_acts(self, name: str, row: Any) -> Any:
        """The same row with its act wrapped, whatever shape the table has."""
        if dataclasses.is_dataclass(row) and not isinstance(row, type):
            fields = {f.name: getattr(row, f.name) for f in dataclasses.fields(row)}
            return dataclasses.replace(row, **{k: self._act(name, v) for k, v in fields.items() if callable(v)})
        changed = [self._act(name, v) if callable(v) else v for v in row]
        return (
            row._replace(**dict(zip(row._fields, changed, strict=True))) if hasattr(row, "_fields") else tuple(changed)
        )

    def _act(self, name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def acting(work: Any, step: Any) -> Any:
            return self.around(f"act {name}:{step.host}", lambda: act(work, step))

        return acting

    def _journal(self, kind: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def noting(journal: Any, *arguments: Any) -> Any:
            name = next(a for a in arguments if isinstance(a, str))
            return self.around(f"{kind} {name}", lambda: method(journal, *arguments))

        return noting

    def connect(self, factory: Callable[..., Any]) -> Callable[..., Any]:
        """The same factory of executors, each call of which has boundaries."""

        @contextmanager
        def opened(host: Any, **options: Any) -> Any:
            with factory(host, **options) as executor:
                yield Watched(self, host, factory, executor)

        return opened


class Call:
    """One call to one host, which can be delivered once more, over a connection of its own."""

    def __init__(self, host: Any, factory: Callable[..., Any], verb: str, arguments: tuple[Any, ...]) -> None:
        self.host, self.factory, self.verb, self.arguments = host, factory, verb, arguments

    def deliver(self) -> Any:
        with self.factory(self.host) as executor:
            return getattr(executor, self.verb)(*self.arguments)


class Watched:
    """An executor whose every call has a boundary before and after."""

    def __init__(self, boundaries: Boundaries, host: Any, factory: Callable[..., Any], executor: Any) -> None:
        self._boundaries, self._host, self._factory, self._executor = boundaries, host, factory, executor

    def __getattr__(self, verb: str) -> Any:
        method = getattr(self._executor, verb)
        if verb not in CALLS:
            return method

        def calling(*arguments: Any, **named: Any) -> Any:
            again = Call(self._host, self._factory, verb, arguments)
            return self._boundaries.around(f"call {verb}:{self._host.name}", lambda: method(*arguments, **named), again)

        return calling
