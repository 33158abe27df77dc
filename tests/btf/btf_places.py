"""Where the BTF of real kernels is: the running one, and the samples beside the project."""

from __future__ import annotations

from pathlib import Path

VMLINUX = Path("/sys/kernel/btf/vmlinux")
SAMPLES = Path(__file__).parents[3] / "shared" / "data" / "btf"
