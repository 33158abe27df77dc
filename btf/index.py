"""Where each type of a BTF lies and what it is called: built in single passes over words, decoding nothing."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Mapping, Sequence

from btf.codec import KIND_MASK, KIND_SHIFT, VLEN_MASK
from btf.fault import EXIT_USAGE, Fault
from btf.kinds import RECORDS, RecordSize

# X___Y with exactly three underscores between two other characters; the last such place ends the essential name.
_FLAVOUR = re.compile(r"[^_]___[^_]")


class BtfMalformed(Fault):
    """Bytes that are not usable BTF; the message says at which byte."""

    code = "COR-BTF-001"
    exit = EXIT_USAGE
    remedy = "Fetch it again: it must be the whole /sys/kernel/btf/vmlinux of one kernel, or a .btf file of an archive."


def essential_name(name: str) -> str:
    """Return *name* without its flavour: ``task_struct___old`` is a flavour of ``task_struct``."""
    if "___" not in name:
        return name
    for start in range(len(name) - 5, -1, -1):
        if _FLAVOUR.match(name, start):
            return name[: start + 1]
    return name


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
        where = f"type {len(offsets)} at byte {first_byte + 4 * at}"
        raise BtfMalformed(
            f"{where} is of unknown kind {error.args[0]}",
            remedy="A newer tool made this BTF: update corollout, or make it again without the newer kinds.",
        ) from None
    if at != end:
        raise BtfMalformed(f"type {len(offsets)} at byte {first_byte + 4 * offsets[-1]} reaches past the types' end")
    return offsets


class NameIndex:
    """Type ids by name for the records of one BTF (its own, not its base's)."""

    __slots__ = ("_ids", "_strings")

    def __init__(
        self, words: array[int], offsets: Sequence[int], strings: Sequence[tuple[int, bytes]], *, first_id: int
    ) -> None:
        """*strings* are (first offset, bytes), the base's before the own; ids count from *first_id*."""
        self._strings = strings
        ids: dict[int, int | list[int]] = {}
        for id_, at in enumerate(offsets, first_id):
            where = words[at]
            if where in ids:
                seen = ids[where]
                if isinstance(seen, list):
                    seen.append(id_)
                else:
                    ids[where] = [seen, id_]
            else:
                ids[where] = id_
        ids.pop(0, None)  # the anonymous
        self._ids = ids

    def exact(self, name: bytes) -> list[int]:
        """Return the ids of the types called *name*, ascending."""
        return sorted(self._ids_at(name + b"\0"))

    def flavours(self, name: bytes) -> list[int]:
        """Return ids whose name is *name* or starts with *name* and three underscores; the caller checks the rest."""
        return sorted({*self._ids_at(name + b"\0"), *self._ids_at(name + b"___")})

    def _ids_at(self, needle: bytes) -> Iterator[int]:
        # A name may also point into the middle of a longer string, so every occurrence counts.
        for first, strings in self._strings:
            at = strings.find(needle)
            while at >= 0:
                found = self._ids.get(first + at)
                if found is not None:
                    yield from found if isinstance(found, list) else (found,)
                at = strings.find(needle, at + 1)
