"""What an archive has that could be taken for a kernel and is not it: refused by name, never used.

Two builds of one release have different layouts now and then, and BTF of the other one relocates silently to wrong
offsets (Ubuntu gives one release name to several builds).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from btf.archive.archive import Entry, KernelName
from btf.fault import printable


def near_misses(entries: Iterable[Entry], name: KernelName) -> list[str]:
    """Say of each entry that could be taken for the kernel *name* and is not it, what it is; the nearest first.

    For instance ``5.4.0-92-generic #103, not #104``.
    """
    found = []
    for entry in entries:
        has = entry.name
        if not has.release or (has.arch and name.arch and has.arch != name.arch):
            continue
        if has.release == name.release:
            if not entry.exact:
                whose = has.distribution or "nobody said whose"
                found.append((0, f"{has.release} of {whose} by name only, which is not proof of the same build"))
            elif has.version and name.version and has.version != name.version:
                found.append((0, f"{_both(has, name)}"))
            else:
                found.append((1, f"{has.release} of another build ({entry.kernel_id})"))
        elif _numbers(has.release) == _numbers(name.release):
            found.append((2, f"{has.release}, not {name.release}"))
    return [printable(words) for _, words in sorted(found)]


def _both(has: KernelName, name: KernelName) -> str:
    """Return both versions, cut to their first word where that already differs: ``#103`` and ``#104``."""
    ours, theirs = has.version.partition(" ")[0], name.version.partition(" ")[0]
    if ours == theirs:
        ours, theirs = has.version, name.version
    return f"{has.release} {ours}, not {theirs}"


def _numbers(release: str) -> str:
    return (re.match(r"[\d.]+(?:-\d+)?", release) or [""])[0]
