"""This machine as a host: commands run in a shell here, bounded in time and output. Knows nothing of SSH."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from types import TracebackType
from typing import IO, Self

from inventory.connect import Completed
from inventory.connect.errors import CommandTimeout, Unreachable

_CHUNK = 65536
_AFTER_EXIT_S = 0.2  # a background child may hold the pipes open; what it writes later is not the command's


class LocalConnection:
    """A way to this machine; see ``Connection``."""

    def run(
        self, command: str, *, stdin: bytes = b"", timeout: float = 60.0, limit: int = 8 * 1024 * 1024
    ) -> Completed:
        """Run *command* in ``/bin/sh`` in a session of its own; what outlives it by ``setsid`` is left alone."""
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise Unreachable(f"cannot start a shell here: {error.strerror}") from None
        try:
            return _exchange(process, stdin, time.monotonic() + timeout, limit, timeout)
        finally:
            _end(process)

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _exchange(process: subprocess.Popen[bytes], stdin: bytes, deadline: float, limit: int, timeout: float) -> Completed:
    if not (process.stdin and process.stdout and process.stderr):
        raise AssertionError("all three streams are pipes")
    got: dict[IO[bytes], bytearray] = {process.stdout: bytearray(), process.stderr: bytearray()}
    unsent = memoryview(stdin)
    exited_at: float | None = None
    with selectors.DefaultSelector() as selector:
        for stream in got:
            selector.register(stream, selectors.EVENT_READ)
        if unsent:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE)
        else:
            process.stdin.close()
        while set(selector.get_map()) & {stream.fileno() for stream in got}:
            now = time.monotonic()
            if now > deadline:
                raise CommandTimeout(f"the command did not end within {timeout:g} s")
            if exited_at is None and process.poll() is not None:
                exited_at = now
            ready = selector.select(min(deadline - now, _AFTER_EXIT_S))
            if not ready and exited_at is not None:
                break
            for key, _ in ready:
                stream = key.fileobj  # type: ignore[assignment]  # only our own streams are registered
                if stream is process.stdin:
                    unsent = _send(stream, unsent)
                    if not unsent:
                        selector.unregister(stream)
                        stream.close()
                    continue
                data = os.read(key.fd, _CHUNK)
                if not data:
                    selector.unregister(stream)
                    continue
                got[stream] += data
                if len(got[stream]) > limit:
                    out, err = (bytes(buffer[:limit]) for buffer in got.values())
                    return Completed(-1, out, err, truncated=True)
    try:
        status = process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise CommandTimeout(f"the command did not end within {timeout:g} s") from None
    out, err = (bytes(buffer) for buffer in got.values())
    return Completed(status if status >= 0 else -1, out, err)


def _send(stream: IO[bytes], unsent: memoryview) -> memoryview:
    try:
        return unsent[os.write(stream.fileno(), unsent[:_CHUNK]) :]
    except BlockingIOError:
        return unsent
    except BrokenPipeError:  # the command does not want its input: not an error, as in a shell
        return unsent[:0]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the command's process group when it still runs, reap it and close the pipes."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
