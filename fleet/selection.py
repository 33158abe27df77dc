"""Which hosts of the record a selector means; a filter line may also be a bare word found in name, zone, release or OS.

Reads the record. Facts come from the host's columns where they can; a facts document is opened only for what they lack.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from fleet.record import Record
from fleet.record.views import HostBrief, HostFilter
from inventory.facts import Answer, Fact, Facts
from inventory.selector import parse_selector

_COMPARES = re.compile(r"[=~<>]")


def check_selector(text: str) -> None:
    """Raise SelectorMalformed when *text* means nothing."""
    if _COMPARES.search(text):
        parse_selector(text)


def select_hosts(record: Record, text: str, sort: Sequence[str]) -> list[str]:
    """Return the names of the hosts that *text* selects, in order; raises SelectorMalformed."""
    if not _COMPARES.search(text):
        return record.host_names(HostFilter(text=text), sort)
    chosen = matching(record, [text])[text]
    return [name for name in record.host_names(sort=sort) if name in chosen]


def matching(record: Record, texts: Sequence[str]) -> dict[str, frozenset[str]]:
    """Return, for each selector of *texts*, the names of the hosts it matches; raises SelectorMalformed."""
    selectors = {text: parse_selector(text) for text in texts}
    if not selectors:
        return {}
    known = [(brief.host, _facts(brief, record.facts_of)) for brief in record.host_briefs()]
    return {
        text: frozenset(host.name for host, facts in known if selector.matches(host, facts))
        for text, selector in selectors.items()
    }


def _facts(brief: HostBrief, load: Callable[[str], Facts | None]) -> Facts | None:
    return None if brief.facts_digest is None else Facts(_Seen(brief, brief.facts_digest, load))


class _Seen(Mapping[str, Fact]):
    """A host's facts: those a selector mostly asks for from columns, all others from the document, read once."""

    def __init__(self, brief: HostBrief, digest: str, load: Callable[[str], Facts | None]) -> None:
        self._columns = {
            "kernel.release": Fact("kernel.release", Answer.YES, brief.release),
            "kernel.arch": Fact("kernel.arch", Answer.YES, brief.arch),
        }
        if brief.btf is not None:  # its answer; nobody compares its value, a digest and a size
            self._columns["btf.vmlinux"] = Fact("btf.vmlinux", Answer(brief.btf))
        self._digest, self._load = digest, load
        self._document: Facts | None = None

    def _all(self) -> Facts:
        if self._document is None:
            self._document = self._load(self._digest) or Facts({})
        return self._document

    def __getitem__(self, name: str) -> Fact:
        return self._columns[name] if name in self._columns else self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter({*self._columns, *self._all()})

    def __len__(self) -> int:
        return len(self._columns)  # at least these; what asks only whether there are any opens no document
