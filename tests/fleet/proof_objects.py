"""Compiles ``objects/proof.bpf.c`` once for each thing a program may ask of a kernel."""

from __future__ import annotations

import subprocess
from pathlib import Path

SOURCE = Path(__file__).parent / "objects" / "proof.bpf.c"
NAMES = (
    *("tracepoint", "tracepoint_missing", "syscall", "raw_tp", "tp_btf", "fentry", "fentry_missing", "kprobe"),
    *("kprobe_multi", "iter", "socket", "xdp", "tc", "ringbuf", "bloom", "big_map", "loop", "new_helper", "weak_kfunc"),
    *("global", "atomics", "xdp_frags", "fentry_sleepable", "lsm", "task_storage", "loop_helper"),
    *("field", "field_missing", "field_guarded", "renamed", "stray"),
)

_ISA = {"atomics": "v3"}


def compile_proof(name: str, folder: Path) -> Path:
    """Return the object of one of NAMES."""
    out = folder / f"{name}.bpf.o"
    command = ["clang", "-target", "bpf", f"-mcpu={_ISA.get(name, 'v2')}", "-O2", "-g", "-Wall", "-Wno-unused"]
    command += [f"-D{name.upper()}", "-D__TARGET_ARCH_x86", "-I/usr/include/x86_64-linux-gnu"]
    done = subprocess.run([*command, "-c", str(SOURCE), "-o", str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out
