"""Runs a program's fallback in a process of its own, with the least context that its contract asks for."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any


class Context:
    def __init__(self, scope: dict[str, Any]) -> None:
        self.config: dict[str, Any] = {}
        self.scope, self.host, self.program, self.tag, self.directory = scope, "h", "p", "corollout:p:1", "."
        self._stop = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        sys.stdin.read()
        self._stop.set()

    def say(self, event: str, **fields: Any) -> None:
        os.write(1, (json.dumps({"event": event, **fields}) + "\n").encode())

    def ready(self, details: dict[str, Any]) -> None:
        self.say("ready", **details)

    def stopping(self, timeout_s: float) -> bool:
        return self._stop.wait(timeout_s)

    def emit(self, raw: dict[str, Any]) -> None:
        self.say("record", data=raw)

    def lost(self, count: int) -> None:
        self.say("lost", count=count)


if __name__ == "__main__":
    spec = importlib.util.spec_from_file_location("fallback", Path(sys.argv[1]))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    context = Context(json.loads(sys.argv[2]))
    try:
        module.run(context)
    except OSError as error:
        context.say("error", errno=error.errno, message=str(error))
