"""What came of the rows of the fault matrix, whenever and on whichever machine they were run: ``docs/faults.jsonl``.

One line a row: its level and name, what came of it, the commit, and the digest of the code that it speaks of.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fault_matrix import Outcome, Row

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "docs" / "faults.jsonl"
# What an outcome speaks of; a change elsewhere leaves it true.
_CODE = ("fleet", "probes", "inventory", "btf", "tests/fleet/fault_*.py")
_SHOWS = ("ledger", "page", "run")  # of the harness, what does nothing to a row


def _git(*words: str) -> bytes:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, check=True).stdout


def code_state() -> str:
    """A digest of the code that outcomes come from, as it lies there."""
    without = [f":!tests/fleet/fault_{name}.py" for name in _SHOWS]
    listed = _git("ls-files", "-co", "--exclude-standard", "-z", "--", *_CODE, *without).split(b"\0")
    digest = hashlib.sha256()
    for name in sorted(filter(None, listed)):
        path = ROOT / name.decode()
        if path.is_file():
            digest.update(name + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def commit() -> str:
    """The commit below what lies there."""
    return _git("log", "-1", "--format=%h", "--abbrev=7").decode().strip()


class Ledger:
    """Outcomes by level and row; of the same row the later line counts."""

    def __init__(self, state: str, commit: str, path: Path = KEPT) -> None:
        self.path, self.state, self.commit = path, state, commit
        self._known: dict[tuple[str, str], dict[str, Any]] = {}
        self._read()

    def _read(self) -> None:
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            entry = json.loads(line)
            self._known[entry["level"], entry["row"]] = entry

    def keep(self, outcome: Outcome) -> None:
        """Add one; what is empty is left out."""
        said = {f.name: value for f in dataclasses.fields(outcome) if (value := getattr(outcome, f.name))}
        del said["row"]
        said["seconds"] = round(outcome.seconds)
        level, row = outcome.row.level, outcome.row.id
        entry = {"level": level, "row": row, "state": self.state, "commit": self.commit, "outcome": said}
        self._known[level, row] = entry
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def tidy(self, rows: Iterable[Row]) -> None:
        """Write one line for each of *rows*, in their order; what another run added meanwhile stays."""
        self._read()
        lines = [json.dumps(known) + "\n" for row in rows if (known := self._known.get((row.level, row.id)))]
        beside = self.path.with_suffix(".part")
        beside.write_text("".join(lines))
        beside.replace(self.path)

    def outcome(self, row: Row) -> Outcome | None:
        """What came of *row* the last time, whenever that was."""
        known = self._known.get((row.level, row.id))
        return Outcome(row, **known["outcome"]) if known else None

    def fresh(self, row: Row) -> bool:
        """Whether *row* was run on this state of the code."""
        return self._known.get((row.level, row.id), {}).get("state") == self.state

    def words(self, rows: Sequence[Row]) -> str:
        """How many of *rows* were run, and on what."""
        known = [entry for row in rows if (entry := self._known.get((row.level, row.id)))]
        now = sum(entry["state"] == self.state for entry in known)
        before = Counter(entry["commit"] for entry in known if entry["state"] != self.state)
        older = "".join(f", {count} on that of {name}" for name, count in sorted(before.items()))
        return f"{len(known)} of {len(rows)} rows were run, {now} of them on this state of the code{older}"
