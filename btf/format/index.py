"""Where each type of a BTF lies and what it is called: built in single passes over words, decoding nothing."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property

from btf.format.codec import KIND_MASK, KIND_SHIFT, VLEN_MASK
from btf.format.kinds import RECORDS, UNSETTLED, RecordSize
from btf.format.strings import BtfMalformed, Strings

__all__ = ["BtfMalformed", "NameIndex", "essential_name", "locate"]

_SCANS = 4  # so many names are looked for one by one; for more, a table of all is cheaper

# X___Y with exactly three underscores between two other characters; the last such place ends the essential name.
_ESSENTIAL = re.compile(r"(.*[^_])___[^_]", re.DOTALL)


def essential_name(name: str) -> str:
    """Return *name* without its flavour: ``task_struct___old`` is a flavour of ``task_struct``."""
    found = _ESSENTIAL.match(name) if "___" in name else None
    return found[1] if found else name


class _RecordWords(dict[int, int]):
    """Record length in words by info word; a BTF has few distinct ones, so most look-ups are plain hits."""

    def __init__(self, sizes: Mapping[int, RecordSize]) -> None:
        super().__init__()
        self._sizes = sizes

    def __missing__(self, info: int) -> int:
        size = self._sizes.get(info >> KIND_SHIFT & KIND_MASK)
        if size is None:
            raise LookupError(info >> KIND_SHIFT & KIND_MASK)
        words = self[info] = 3 + size.fixed + size.each * (info & VLEN_MASK)
        return words


def locate(words: array[int], first_byte: int, layout: Mapping[int, RecordSize] | None = None) -> array[int]:
    """Return the word offset of every record in order.

    *first_byte* is where the words lie in the file, for errors. *layout* sizes kinds this table does not know.
    """
    length = _RecordWords({**(layout or {}), **RECORDS})
    offsets = array("I")
    append = offsets.append
    at, end = 0, len(words)
    try:
        while at < end:
            append(at)
            at += length[words[at + 1]]
    except IndexError:
        raise BtfMalformed(f"type {len(offsets)} at byte {first_byte + 4 * at} is cut off") from None
    except LookupError as error:
        raise _unknown(error.args[0], f"type {len(offsets)} at byte {first_byte + 4 * at}") from None
    if at != end:
        raise BtfMalformed(f"type {len(offsets)} at byte {first_byte + 4 * offsets[-1]} reaches past the types' end")
    return offsets


def _unknown(kind: int, where: str) -> BtfMalformed:
    if kind == 0:
        return BtfMalformed(f"{where} is of kind 0, which no record has")
    return BtfMalformed(
        f"{where} is of kind {kind}{UNSETTLED.get(kind, '')}, whose size is not known here and not told in the file",
        remedy="A newer tool made this BTF: update corollout, or make it again without the newer kinds.",
    )


class NameIndex:
    """Type ids by name for the records of one BTF (its own, not its base's)."""

    def __init__(self, words: array[int], offsets: Sequence[int], strings: Strings, *, first_id: int) -> None:
        """Ids count from *first_id*; names may also lie in the strings of the base."""
        ids: dict[int, int | list[int]] = {}
        for id_, at in enumerate(offsets, first_id):
            where = words[at]
            if not where:  # the anonymous are many
                continue
            if where in ids:
                seen = ids[where]
                if isinstance(seen, list):
                    seen.append(id_)
                else:
                    ids[where] = [seen, id_]
            else:
                ids[where] = id_
        self._ids = ids
        self._exact: dict[bytes, list[int]] = {}
        self._layers = [strings]
        while (base := self._layers[-1].base) is not None:
            self._layers.append(base)
        self._texts: dict[bytes, int] | None = None
        self._scans = 0

    def exact(self, name: bytes) -> list[int]:
        """Return the ids of the types called *name*, ascending; remembered."""
        found = self._exact.get(name)
        if found is None:
            offsets = self._offsets(name)
            if offsets is None:
                return self._told[0].get(name, [])
            found = self._exact[name] = sorted(self._at(offsets))
        return found

    def flavours(self, name: bytes) -> list[int]:
        """Return ids whose name is *name* or starts with *name* and three underscores; the caller checks the rest."""
        longer: list[int] = []
        for layer in self._layers:
            found = layer.flavoured(name)
            if found is None:
                return self._told[1].get(name, [])
            longer += found
        return sorted({*self.exact(name), *self._at(longer)})

    def _at(self, offsets: Iterable[int]) -> Iterator[int]:
        for offset in offsets:
            found = self._ids.get(offset)
            if found is not None:
                yield from found if isinstance(found, list) else (found,)

    @cached_property
    def _told(self) -> tuple[dict[bytes, list[int]], dict[bytes, list[int]]]:
        """The ids by name and by essential name, told by every type: for strings that make a search too costly."""
        exact: dict[bytes, list[int]] = {}
        essential: dict[bytes, list[int]] = {}
        for offset, ids in self._ids.items():
            text = self._layers[0][offset]
            for by_name, name in ((exact, text), (essential, essential_name(text))):
                found = by_name.setdefault(name.encode("utf-8", "surrogateescape"), [])
                found.extend(ids if isinstance(ids, list) else (ids,))
        for found in (*exact.values(), *essential.values()):
            found.sort()
        return exact, essential

    def _offsets(self, name: bytes) -> list[int] | None:
        """Return where *name* is among the strings, as far as types are called by it; None: too costly to look for."""
        if self._scans < _SCANS:
            self._scans += 1
        else:
            if self._texts is None:
                self._texts = self._all_texts()
            if not self._texts:
                return None
            at = self._texts.get(name)
            return [] if at is None else [at]
        # A name may also point into the middle of a longer string, so every occurrence counts.
        return [at for layer in self._layers for at in layer.every(name + b"\0")]

    def _all_texts(self) -> dict[bytes, int]:
        """Return the offset of each name, or nothing when some name is at several or inside another."""
        texts: dict[bytes, int] = {}
        for layer in self._layers:
            own = [at for at in self._ids if layer.first <= at < layer.end]
            if not layer.are_starts(own):
                return {}
            texts |= layer.texts(own)
        return texts if len(texts) == len(self._ids) else {}
