"""The holder's end of the child protocol: starts the child, splits its lines, sends orders, ends it.

Lines and totals are bounded. It judges nothing that a child says.
"""

import json
import os
import signal
import subprocess
import time
from typing import Any, Dict, List, Optional

from probes.agent.faults import CannotRun
from probes.agent.process import identity, limit_memory

MAX_LINE = 8 * 1024 * 1024
MAX_LOG = 512 * 1024
_CHUNK = 256 * 1024


class Child:
    """One running child. ``out`` and ``err`` are descriptors to wait on; ``known`` is its process identity."""

    def __init__(self, command: List[str], log: str, memory_mib: Optional[int] = None) -> None:
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise CannotRun("%s: %s" % (os.path.basename(command[0]), error.strerror)) from None
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self.pid = self._process.pid
        limit_memory(self.pid, memory_mib)
        self.known = identity(self.pid)
        self.out = self._process.stdout.fileno()
        self.err = self._process.stderr.fileno()
        self._in = self._process.stdin.fileno()
        for descriptor in (self.out, self.err, self._in):
            os.set_blocking(descriptor, False)
        self._pending = b""
        self._log = log
        self._logged = 0
        self.ended = False  # its stdout has closed

    def events(self) -> List[Dict[str, Any]]:
        """Return the events that have arrived; sets ``ended`` at the end of output. What is not JSON is dropped."""
        try:
            data = os.read(self.out, _CHUNK)
        except BlockingIOError:
            return []
        if not data:
            self.ended = True
            return []
        lines = (self._pending + data).split(b"\n")
        self._pending = lines.pop()
        if len(self._pending) > MAX_LINE:
            self._pending = b""
        found = []
        for line in lines:
            try:
                event = json.loads(line.decode("utf-8", "replace"))
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict):
                found.append(event)
        return found

    def drain_errors(self) -> bool:
        """Copy what is on its stderr to the log, up to MAX_LOG in all; False at the end."""
        try:
            data = os.read(self.err, 65536)
        except BlockingIOError:
            return True
        if data and self._logged < MAX_LOG:
            self._logged += len(data)
            try:
                with open(self._log, "ab") as file:
                    file.write(data)
            except OSError:
                pass
        return bool(data)

    def order(self, line: str) -> None:
        """Write one order; a child that no longer reads misses it."""
        try:
            os.write(self._in, line.encode() + b"\n")
        except OSError:
            pass

    def stop(self, grace_s: float) -> Optional[List[Dict[str, Any]]]:
        """Ask it to end and wait; return what it still said, or None when it had to be killed."""
        said: List[Dict[str, Any]] = []
        try:
            self._process.send_signal(signal.SIGTERM)
            assert self._process.stdin
            self._process.stdin.close()
        except OSError:
            pass
        until = time.monotonic() + grace_s
        while self._process.poll() is None and time.monotonic() < until:
            said += self.events()
            self.drain_errors()
            time.sleep(0.005)
        killed = self._process.poll() is None
        if killed:
            self._process.kill()
            self._process.wait()
        while not self.ended:
            more = self.events()
            if not more and not self.ended:
                break  # a grandchild keeps the pipe open: what matters was said
            said += more
        return None if killed else said
