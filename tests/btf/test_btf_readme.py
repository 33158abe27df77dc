"""What the room's README shows is what it does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HOUSE = Path(__file__).parents[2]


def test_its_example_runs_on_its_own() -> None:
    text = (HOUSE / "btf" / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    rows = [line for line in code.splitlines() if line]
    assert len(rows) <= 10
    done = subprocess.run([sys.executable, "-c", code], cwd=HOUSE, capture_output=True, text=True, check=True)
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    shown = [line.strip() for line in text.split("```")[2].split("\n\n")[1].splitlines()]
    told = [line for line in shown if line != "…"]
    assert len(told) > 4 and {line.partition(" value")[0] for line in told[:-1]} <= {
        line.partition(" value")[0] for line in lines
    }
    assert lines[-1].endswith("bytes of BTF are all it needs of this kernel")


def test_the_modules_it_names_exist() -> None:
    text = (HOUSE / "btf" / "README.md").read_text()
    table = re.findall(r"^\|.*\| (.*) \|$", text, re.MULTILINE)
    named = {match for row in table for match in re.findall(r"`(\w+)[./](\w+)[.`(]", row)}
    assert len(named) > 8
    assert [name for name in named if not (HOUSE / "btf" / name[0] / f"{name[1]}.py").exists()] == []
