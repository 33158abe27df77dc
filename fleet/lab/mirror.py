"""Which mirror of Debian this machine uses, read from its apt configuration. Asks no network and changes nothing.

Both forms are read: one line per source (``sources.list``) and paragraphs (``*.sources``). Sources that are not
Debian's main archive (other suites, other components, security and update pools) are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from btf.fault import EXIT_USAGE, Fault

# Code names and standing names: a third party's suite has others, or other components than `main`.
_CODE_NAMES = ("buster", "bullseye", "bookworm", "trixie", "forky", "duke", "sid")
_SUITES = frozenset((*_CODE_NAMES, "stable", "oldstable", "oldoldstable", "testing", "unstable"))
_ONE_LINE = re.compile(
    r"^deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)(?P<components>(?:\s+[^#\s]+)*)"
)


class NoMirror(Fault):
    """This machine's apt names no mirror of Debian."""

    code = "COR-LAB-010"
    exit = EXIT_USAGE
    remedy = "Name one with --mirror or COROLLOUT_DEBIAN_MIRROR, as in a line of sources.list."


@dataclass(frozen=True, slots=True)
class Source:
    """One source of packages: address, suites and components, as apt's configuration says."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]


def sources(apt: Path = Path("/etc/apt")) -> list[Source]:
    """Return every enabled binary source under *apt*, in apt's order; a file that cannot be read is passed over."""
    found: list[Source] = []
    for path in [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]:
        parse = _FORMS.get(path.suffix)
        try:
            text = path.read_text(encoding="utf-8", errors="replace") if parse else ""
        except OSError:
            continue
        if parse:
            found.extend(parse(text))
    return found


def debian_mirror(apt: Path = Path("/etc/apt")) -> str:
    """Return the address of this machine's mirror of Debian's main archive. Raises NoMirror."""
    for source in sources(apt):
        if "main" in source.components and _SUITES.intersection(source.suites) and not source.uri.startswith("cdrom:"):
            return source.uri.rstrip("/")
    raise NoMirror(f"no source under {apt} is Debian's main archive")


def _lines(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        if match := _ONE_LINE.match(line.strip()):
            yield Source(match["uri"], (match["suite"],), tuple(match["components"].split()))


def _paragraphs(text: str) -> Iterator[Source]:
    for paragraph in re.split(r"\n\s*\n", text):
        fields: dict[str, list[str]] = {}
        name = ""
        for line in paragraph.splitlines():
            if line.startswith("#") or not line.strip():
                continue
            if line[0] not in " \t":
                name, _, line = line.partition(":")  # noqa: PLW2901  what follows the colon is the field's first line
                name = name.strip().lower()
            fields.setdefault(name, []).extend(line.split())
        if "deb" not in fields.get("types", []) or fields.get("enabled", ["yes"])[:1] in (["no"], ["false"], ["0"]):
            continue
        for uri in fields.get("uris", []):
            yield Source(uri, tuple(fields.get("suites", [])), tuple(fields.get("components", [])))


_FORMS = {".list": _lines, ".sources": _paragraphs}
