"""What the console's tests share: the screen as plain text, goldens of it, and waiting until nothing is being read.

Set COROLLOUT_UPDATE_SCREENS=1 to write the goldens anew; then read the difference before committing it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from textual.app import App
from textual.pilot import Pilot

from fleet.console.table import Table

GOLDENS = Path(__file__).parent / "screens"


def screen_lines(app: App[Any]) -> list[str]:
    """The one place that reads Textual's private compositor: the visible screen, a line of text per row."""
    return [strip.text.rstrip() for strip in app.screen._compositor.render_strips()]


def screen_text(app: App[Any]) -> str:
    return "\n".join(screen_lines(app)).rstrip() + "\n"


async def settle(pilot: Pilot[Any]) -> None:
    """Wait until every table has read what it wants and every message is handled."""
    for _ in range(2000):
        await pilot.pause()
        app = pilot.app
        if not app._exit and any(t.busy for s in app.screen_stack for t in s.query(Table)):
            await pilot.pause(0.005)
            continue
        await pilot.pause()
        if not any(t.busy for s in app.screen_stack for t in s.query(Table)):
            return
    raise AssertionError("a table never came to rest")


async def press(pilot: Pilot[Any], *keys: str) -> None:
    await pilot.press(*keys)
    await settle(pilot)


def check_golden(name: str, text: str) -> None:
    path = GOLDENS / f"{name}.txt"
    if os.environ.get("COROLLOUT_UPDATE_SCREENS"):
        path.write_text(text)
    assert path.exists(), f"no golden {path.name}: run once with COROLLOUT_UPDATE_SCREENS=1 and read it"
    assert text == path.read_text()
