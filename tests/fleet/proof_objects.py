"""Compiles ``objects/proof.bpf.c`` once for each thing a program may ask of a kernel."""

from __future__ import annotations

import subprocess
from pathlib import Path

SOURCE = Path(__file__).parent / "objects" / "proof.bpf.c"
NAMES = (
    *("tracepoint", "tracepoint_missing", "syscall", "raw_tp", "tp_btf", "fentry", "fentry_missing", "kprobe"),
    *("kprobe_multi", "iter", "socket", "xdp", "tc", "ringbuf", "bloom", "big_map", "loop", "new_helper", "global"),
    *("field", "field_missing", "field_guarded", "renamed", "stray"),
)


def compile_proof(name: str, folder: Path) -> Path:
    """Return the object of one of NAMES."""
    out = folder / f"{name}.bpf.o"
    command = ["clang", "-target", "bpf", "-mcpu=v2", "-O2", "-g", "-Wall", "-Wno-unused", f"-D{name.upper()}"]
    command += ["-D__TARGET_ARCH_x86", "-I/usr/include/x86_64-linux-gnu", "-c", str(SOURCE), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out
