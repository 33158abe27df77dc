"""Network namespaces for tests: two joined by a veth pair, sockets made inside them, and removal whatever happens."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

CLONE_NEWNET = 0x40000000
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Namespace:
    """One network namespace with an address of each family on ``eth0``."""

    name: str
    v4: str
    v6: str

    @property
    def path(self) -> Path:
        return Path("/run/netns") / self.name

    @property
    def inode(self) -> int:
        return self.path.stat().st_ino

    @property
    def enter(self) -> list[str]:
        return ["nsenter", f"--net={self.path}"]

    def call(self, function: Callable[[], T]) -> T:
        """Run *function* in a thread inside the namespace; sockets made there stay there."""
        result: list[T] = []
        error: list[BaseException] = []

        def body() -> None:
            try:
                descriptor = os.open(self.path, os.O_RDONLY)
                if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
                os.close(descriptor)
                result.append(function())
            except BaseException as problem:
                error.append(problem)

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        if error:
            raise error[0]
        return result[0]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def pair() -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces, ``eth0`` to ``eth0``."""
    tag = secrets.token_hex(3)
    left = Namespace(f"cot-{tag}-l", "10.83.0.1", "fd83::1")
    right = Namespace(f"cot-{tag}-r", "10.83.0.2", "fd83::2")
    try:
        for side in (left, right):
            ip("netns", "add", side.name)
        ip("-n", left.name, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", right.name)
        for side in (left, right):
            ip("-n", side.name, "addr", "add", f"{side.v4}/24", "dev", "eth0")
            ip("-n", side.name, "addr", "add", f"{side.v6}/64", "dev", "eth0", "nodad")
            ip("-n", side.name, "link", "set", "eth0", "up")
            ip("-n", side.name, "link", "set", "lo", "up")
        yield left, right
    finally:
        for side in (left, right):
            subprocess.run(["ip", "netns", "del", side.name], stderr=subprocess.DEVNULL, check=False)
