"""One input through one target: parsed, refused in words, or a finding; and inputs by chance alone."""

from __future__ import annotations

import hashlib
import json
import os
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from fuzz_limits import CPU_S, TooLong, cpu_bound
from fuzz_targets import PLACE, Target

from btf.fault import Fault

_KEPT = 3  # inputs per kind of finding


class NoPlace(Exception):
    """An input was refused without saying where."""


@dataclass
class Judge:
    """Counts what became of the inputs of one target; keeps what was wrong as files in *folder*, when it has one."""

    target: Target
    folder: Path | None = None
    cpu_s: float = CPU_S
    counts: Counter[str] = field(default_factory=Counter)
    findings: dict[str, list[bytes]] = field(default_factory=dict)

    def judge(self, data: bytes) -> None:
        """Run the target on *data*; never raises for what it does."""
        self.counts["inputs"] += 1
        try:
            with cpu_bound(self.cpu_s):
                self.target.run(data)
            self.counts["parsed"] += 1
        except Fault as fault:
            self.counts["refused"] += 1
            if not PLACE.search(fault.message):
                self._found(NoPlace(f"{type(fault).__name__}: {fault.message}"), fault, data)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._found(error, error, data)

    def _found(self, error: BaseException, raised: BaseException, data: bytes) -> None:
        self.counts["findings"] += 1
        kind = f"{type(error).__name__} {_where(raised, by_function=isinstance(error, TooLong | MemoryError))}"
        kept = self.findings.setdefault(kind, [])
        if len(kept) >= _KEPT or data in kept:
            return
        kept.append(data)
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / hashlib.sha256(data).hexdigest()[:16]
            path.write_bytes(data)
            lines = traceback.format_exception(error if error is raised else raised, limit=-8)
            path.with_suffix(".txt").write_text(f"{kind}\n{error}\n\n{''.join(lines)}", errors="replace")


def _where(error: BaseException, *, by_function: bool) -> str:
    """Return the innermost place of ours, so that one mistake is one kind of finding."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/btf/" in f.filename or "/fleet/" in f.filename]
    if not frames:
        return "outside"
    frame = frames[-1]
    return f"{Path(frame.filename).name}:{frame.name if by_function else frame.lineno}"


def by_chance(target: Target, seed: int) -> Iterator[bytes]:
    """Yield the seeds, then mutations of them and of mutations, the same for one *seed*, for ever."""
    rng = Random(f"{target.name} {seed}")
    pool = list(target.seeds())
    first = len(pool)
    yield from pool
    while True:
        data = target.mutate(rng.choice(pool), rng)
        yield data
        if rng.random() < 0.1:
            if len(pool) < first + 64:
                pool.append(data)
            else:
                pool[rng.randrange(first, len(pool))] = data


def write_whole(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1))
    temporary.replace(path)
