"""What one hostile input may cost: CPU seconds and bytes of memory; more is a finding like any other."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MEMORY = 500_000_000
CPU_S = 2.0


class TooLong(BaseException):
    """An input took more CPU than it may; no ``except Exception`` swallows it."""


@contextmanager
def cpu_bound(seconds: float = CPU_S) -> Iterator[None]:
    """Raise TooLong in what is inside once it has used *seconds* of CPU; a wait inside C code is not interrupted."""

    def stop(_signal: int, _frame: object) -> None:
        raise TooLong(f"more than {seconds:g} s of CPU")

    before = signal.signal(signal.SIGPROF, stop)
    # Again after a while, should the first one be lost in a destructor or a callback.
    signal.setitimer(signal.ITIMER_PROF, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def bound_memory(more: int = MEMORY) -> None:
    """Let this process have *more* bytes than now; asking for more is a MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def in_bounds(what: Callable[[], Any], *, seconds: int, memory: int = MEMORY) -> Any:
    """Return what *what* returns in a child process that has so much CPU and memory; raise AssertionError otherwise."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(readable)
        with os.fdopen(writable, "wb") as out:
            try:
                bound_memory(memory)
                resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
                answer: tuple[bool, Any] = (True, what())
            except BaseException:
                answer = (False, traceback.format_exc(limit=-6))
            pickle.dump(answer, out)
        os._exit(0)
    os.close(writable)
    with os.fdopen(readable, "rb") as file:
        data = file.read()
    _, status = os.waitpid(child, 0)
    assert status == 0 and data, f"killed by signal {os.WTERMSIG(status)} after {seconds} s of CPU"
    fine, answer_ = pickle.loads(data)
    assert fine, answer_
    return answer_
