"""Compiles a BCC build, gives it its scope through the adapter, and prints its records as JSON lines. System Python."""

from __future__ import annotations

import importlib.util
import json
import select
import sys
from pathlib import Path

from bcc import BPF

source, adapter_path, scope = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
spec = importlib.util.spec_from_file_location("adapter", adapter_path)
assert spec and spec.loader
adapter = importlib.util.module_from_spec(spec)
spec.loader.exec_module(adapter)

bpf = BPF(text=Path(source).read_text())
table = bpf["events_perf"]


def say(event: str, **fields: object) -> None:
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def on_record(_cpu: int, data: int, _size: int) -> None:
    record = table.event(data)
    fields = {}
    for name, *_ in record._fields_:
        value = getattr(record, name)
        if isinstance(value, bytes):
            fields[name] = value.split(b"\0")[0].decode()
        elif not name.startswith("__pad"):
            fields[name] = value if isinstance(value, int) else bytes(value).hex()
    say("record", data=fields)


table.open_perf_buffer(on_record)
say("loaded")
for line in sys.stdin:  # orders: `scope`, then wait for records until the end of input
    if line.strip() == "scope":
        adapter.bcc_setup(bpf, {}, scope, "corollout:tcp-flow:1")
        say("ready")
        while not select.select([sys.stdin], [], [], 0)[0]:
            bpf.perf_buffer_poll(100)
