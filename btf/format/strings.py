"""The strings of a BTF: the text at an offset, remembered, and the offsets of a text. A module's strings go on where
those of its base end."""

from __future__ import annotations

from collections.abc import Iterable

from btf.fault import EXIT_USAGE, Fault

# Names may share their bytes (one may be the end of another), but not so that they add up to more than all strings
# twice and this: no writer of BTF we know makes any.
_MAX_SHARED, _ROOM = 2, 1 << 16
_MAX_MARKS = 4096  # a kernel has some dozens of names with three underscores


class BtfMalformed(Fault):
    """Bytes that are not usable BTF; the message says at which byte."""

    code = "COR-BTF-001"
    exit = EXIT_USAGE
    remedy = "Fetch it again: it must be the whole /sys/kernel/btf/vmlinux of one kernel, or a .btf file of an archive."


class Strings(dict[int, str]):
    """Text by offset: ``strings[offset]`` decodes it once, or raises BtfMalformed. Not UTF-8 becomes surrogates."""

    __slots__ = ("_data", "_left", "_marks", "base", "end", "first")

    def __init__(self, data: bytes, base: Strings | None = None) -> None:
        super().__init__({0: ""})
        self.base = base
        self.first: int = base.end if base is not None else 0
        self.end: int = self.first + len(data)
        self._data = data
        self._left = _MAX_SHARED * len(data) + _ROOM
        self._marks: list[int] | None = None

    def __missing__(self, offset: int) -> str:
        if self.base is not None and offset < self.first:
            return self.base[offset]
        start = offset - self.first
        end = self._data.find(b"\0", start)
        if start < 0 or end < 0:
            raise BtfMalformed(f"there is no string at offset {offset}: the strings end at {self.end}")
        self._left -= end - start
        if self._left < 0:
            raise BtfMalformed(f"the strings up to offset {offset} share their bytes too often")
        text = self[offset] = self._data[start:end].decode("utf-8", "surrogateescape")
        return text

    def are_starts(self, offsets: Iterable[int]) -> bool:
        """Whether no string lies across any of *offsets*: nothing points into the middle of a longer one."""
        before = self.first + 1
        places = [offset - before for offset in offsets if before <= offset < self.end]
        return not any(map(self._data.__getitem__, places))

    def every(self, needle: bytes) -> list[int]:
        """Return every offset where the bytes *needle* are, by looking through all strings."""
        found, at = [], self._data.find(needle)
        while at >= 0:
            found.append(self.first + at)
            at = self._data.find(needle, at + 1)
        return found

    def texts(self, offsets: Iterable[int]) -> dict[bytes, int]:
        """Return the text at each of *offsets*, which lie in these strings and not in the base's."""
        data, first, find = self._data, self.first, self._data.find
        if first:
            return {data[at - first : find(b"\0", at - first)]: at for at in offsets}
        return {data[at : find(b"\0", at)]: at for at in offsets}  # a kernel has 70,000 of them: no step too many

    def flavoured(self, name: bytes) -> list[int] | None:
        """Return every offset where *name* and three underscores are, None when underscores are everywhere."""
        if self._marks is None:
            self._marks = self.every(b"___")
        if len(self._marks) > _MAX_MARKS:
            return None
        starts = (at - self.first - len(name) for at in self._marks)
        return [self.first + at for at in starts if at >= 0 and self._data.startswith(name, at)]
