"""The records of one program on disk: numbered JSON lines in two files of bounded size, newest last."""

import json
import os
from collections import deque
from io import FileIO
from typing import Any, Dict, Iterator, List, Optional

MAX_FILE = 8 * 1024 * 1024
_TAIL = 256 * 1024


class RecordLog:
    """The writer. One holder has it at a time; a full disk loses records, which are counted, and nothing else."""

    def __init__(self, path: str, limit: int = MAX_FILE) -> None:
        self._path = path
        self._limit = limit
        self._waiting: List[bytes] = []
        self._file: Optional[FileIO] = None
        self._size = 0
        self.seq = last_seq(path)

    def add(self, record: Dict[str, Any]) -> None:
        """Number a record and keep it for the next flush."""
        self.seq += 1
        record["seq"] = self.seq
        self._waiting.append(json.dumps(record, separators=(",", ":")).encode() + b"\n")

    def flush(self) -> int:
        """Write what waits; return how many records were lost because the disk did not take them."""
        if not self._waiting:
            return 0
        lines, self._waiting = self._waiting, []
        data = b"".join(lines)
        try:
            if self._file is None or self._size + len(data) > self._limit:
                self._open_next()
            assert self._file is not None
            written = self._file.write(data)
            if written != len(data):
                raise OSError("short write")
            self._size += len(data)
        except OSError:
            self._cut()
            return len(lines)
        return 0

    def _open_next(self) -> None:
        self.close()
        try:
            size = os.path.getsize(self._path)
        except OSError:
            size = 0
        if size and size * 2 > self._limit:
            os.replace(self._path, self._path + ".1")
            size = 0
        self._file = FileIO(self._path, "a")
        self._size = size

    def _cut(self) -> None:
        """Drop half a line that a full disk left behind, so that the next line starts at its beginning."""
        try:
            if self._file is not None:
                os.ftruncate(self._file.fileno(), self._size)
        except OSError:
            pass
        self.close()

    def close(self) -> None:
        """Close the file; what waits stays for the next flush."""
        if self._file is not None:
            try:
                self._file.close()
            except OSError:
                pass
            self._file = None


def _lines(path: str, start: int = 0) -> Iterator[Dict[str, Any]]:
    for name in (path + ".1", path):
        try:
            with open(name, "rb") as file:
                if start:
                    file.seek(max(0, os.fstat(file.fileno()).st_size - start))
                for line in file:
                    if not line.endswith(b"\n"):
                        continue  # the writer is in the middle of it
                    try:
                        record = json.loads(line.decode("utf-8"))
                    except ValueError:
                        continue
                    if isinstance(record, dict) and isinstance(record.get("seq"), int):
                        yield record
        except OSError:
            continue


def last_seq(path: str) -> int:
    """Return the highest sequence number on disk, 0 when there is none."""
    return max((r["seq"] for r in _lines(path, _TAIL)), default=0)


def read_records(path: str, since: Optional[int], limit: int) -> List[Dict[str, Any]]:
    """Return at most *limit* records, newest last: the oldest after *since*, or the newest of all when it is None."""
    if since is None:
        return list(deque(_lines(path), maxlen=limit))
    found: List[Dict[str, Any]] = []
    for record in _lines(path):
        if record["seq"] > since:
            found.append(record)
            if len(found) >= limit:
                break
    return found
