"""How two kernels differ, for a person and as ``corollout.kernel-diff/1``."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from btf.drift.difference import Change, Touched, difference, summary, touched
from btf.objects.elf_object import MAX_OBJECT, read_object
from fleet.cli.diagnostics import printable_line
from fleet.cli.output import table
from fleet.compatibility.check import KernelBtf

_MARKS = {"added": "+", "removed": "-", "changed": "~"}


@dataclass(frozen=True, slots=True)
class KernelDiff:
    """What was compared and found. ``changes`` are those asked for; ``asks`` what an object gets answered otherwise."""

    old: KernelBtf
    new: KernelBtf
    counts: dict[str, dict[str, int]]
    changes: list[Change]
    obj: str = ""
    asks: tuple[Touched, ...] = ()
    same: int = 0

    @property
    def differs(self) -> bool:
        """Whether there is a difference in what was asked; for an object, whether it loses something."""
        if self.obj:
            return any(t.worse for t in self.asks)
        return bool(self.changes) or any(n for row in self.counts.values() for n in row.values())

    def document(self) -> dict[str, Any]:
        """Return the body of the JSON document."""
        kernels = {
            word: {"release": k.release, "arch": k.arch, "build_id": k.build_id, "btf_sha256": k.sha256}
            for word, k in (("from", self.old), ("to", self.new))
        }
        body = {**kernels, "summary": self.counts, "changes": [asdict(c) for c in self.changes]}
        if self.obj:
            body |= {"object": self.obj, "relocations": {"same": self.same, "other": [asdict(t) for t in self.asks]}}
        return body


def compare(
    old: KernelBtf, new: KernelBtf, *, names: Collection[str] = (), path: Path | None = None, everything: bool = False
) -> KernelDiff:
    """Compare two kernels: the types called *names*, what the object at *path* asks, or all of it, in numbers."""
    wanted = set(names)
    asks: list[Touched] = []
    same = 0
    if path is not None:
        with path.open("rb") as file:
            obj = read_object(file.read(MAX_OBJECT + 1))
        asks, same, named = touched(obj, old.btf, new.btf)
        wanted |= named
    narrow = bool(wanted or path) and not everything
    changes = difference(old.btf, new.btf, wanted if narrow else None)
    shown = changes if narrow or everything else []
    return KernelDiff(old, new, summary(changes), shown, str(path or ""), tuple(asks), same)


def render(diff: KernelDiff) -> Iterator[str]:
    """Yield the lines for a person."""
    yield printable_line(f"{diff.old.name} → {diff.new.name}")
    rows = [[sort, *counts.values()] for sort, counts in diff.counts.items() if any(counts.values())]
    if not rows:
        yield "no type differs"
    elif not diff.changes:
        yield table(rows, ("", "added", "removed", "changed")).rstrip()
    for change in diff.changes:
        sort = "" if change.sort == "function" else f"{change.sort} "
        yield printable_line(f"{_MARKS[change.change]} {sort}{change.name}{'()' if change.sort == 'function' else ''}")
        yield from (printable_line(f"      {words}") for words in change.words)
    if diff.obj:
        yield printable_line(f"{diff.obj}: {diff.same} answers stay, {len(diff.asks)} become others")
        if diff.asks:
            functions: dict[tuple[str, ...], list[str]] = {}
            for t in diff.asks:
                row = (t.local, t.kind, t.before, t.after, "lost" if t.worse else "")
                functions.setdefault(row, []).append(t.function)
            cells = [(*row[:4], row[4], names) for row, names in functions.items()]
            yield table(cells, ("asked", "kind", "was", "is", "so", "functions")).rstrip()
