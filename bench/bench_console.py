"""How quick the console is on big fleets: first paint, page down, jump to the end, filter, sort; at 10k and 100k hosts.

Headless, 160×50, on a real record of made-up hosts. Every time includes the event loop settling. Numbers depend on the
machine: compare rows, and runs on one machine.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fleet.console.app import ConsoleApp
from fleet.console.table import Table
from fleet.console.window import View
from fleet.record import Record, open_record
from fleet.record.filler import fill

SIZES = (10_000, 100_000)
REPEATS = 5
SELECTOR = 'kernel~"5.4.*" and btf=no'


async def rest(pilot: Any) -> None:
    await pilot.pause()
    while any(t.busy for t in pilot.app.screen.query(Table)):
        await asyncio.sleep(0.001)
    await pilot.pause()


async def timed(pilot: Any, act: Callable[[], object]) -> float:
    began = time.perf_counter()
    found = act()
    if isinstance(found, Awaitable):
        await found
    await rest(pilot)
    return (time.perf_counter() - began) * 1000


async def measure(record: Record) -> dict[str, float]:
    found: dict[str, float] = {}
    began = time.perf_counter()
    app = ConsoleApp(record, read_only=True, live=False)
    async with app.run_test(size=(160, 50)) as pilot:
        await rest(pilot)
        found["first paint"] = (time.perf_counter() - began) * 1000
        assert app.page is not None
        table: Table[Any] = app.page.table

        async def best(name: str, act: Callable[[], object], undo: Callable[[], object] = lambda: None) -> None:
            times = []
            for _ in range(REPEATS):
                times.append(await timed(pilot, act))
                undo()
                await rest(pilot)
            found[name] = min(times)

        await best("page down", lambda: table.move_page(1))
        await best("to the end", lambda: table.go(-1), lambda: table.go(0))
        await best("filter: word", lambda: table.look(View("host-0077")), lambda: table.look(View()))
        await best("filter: selector", lambda: table.look(View(SELECTOR)), lambda: table.look(View()))
        await best("sort by kernel", lambda: table.look(View().sorted_by("release")), lambda: table.look(View()))
        await best(
            "sort by verdict", lambda: table.look(View().sorted_by("program:tcp-flow")), lambda: table.look(View())
        )
        await best("problems only", lambda: table.look(View(problems=True)), lambda: table.look(View()))
        await best("a change arrives", table.changed)
        await best("matrix", lambda: app.go("matrix"), lambda: app.go("fleet"))
    return found


def main() -> None:
    columns = []
    for hosts in SIZES:
        with tempfile.TemporaryDirectory() as folder, open_record(Path(folder) / "fleet.db", create=True) as record:
            began = time.perf_counter()
            fill(record, hosts)
            filled = (time.perf_counter() - began) * 1000
            columns.append({"fill the record": filled, **asyncio.run(measure(record))})
            columns[-1]["peak memory, MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{'milliseconds, best of ' + str(REPEATS):<28}" + "".join(f"{n:>12,}" for n in SIZES))
    for name in columns[0]:
        print(f"{name:<28}" + "".join(f"{c[name]:>12.0f}" for c in columns))


if __name__ == "__main__":
    main()
