"""The kinds of small kernel, as rows: what no package of a distribution has any more, and old fleets still run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fleet.lab.kernel_store import KernelUnknown

BASE = (Path(__file__).parent / "small_kernel.config").read_text(encoding="ascii")


@dataclass(frozen=True, slots=True)
class Edit:
    """One change to the source: in ``file``, ``before`` stands exactly once and becomes ``after``."""

    file: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Kind:
    """One small kernel: its options beside those of every one, what is taken out of the source, types from DWARF?"""

    name: str
    summary: str
    options: tuple[str, ...] = ()
    edits: tuple[Edit, ...] = ()
    btf: bool = False
    package: str = "linux-source-5.10"
    series: str = "debian:5.10"  # whose suite has the package
    suite: str = "bullseye"

    @property
    def config(self) -> str:
        """Every option that is on, one a line."""
        name = f'CONFIG_LOCALVERSION="-small-{self.name}"'
        return "\n".join((BASE.rstrip(), name, *(f"CONFIG_{option}=y" for option in self.options), ""))


_SYSCALL, _VERIFIER = "kernel/bpf/syscall.c", "kernel/bpf/verifier.c"
# What kernels before 5.0 do not have and no option turns off, as measured on 4.18 and 4.19.
_AGED = (
    Edit("include/linux/bpf_types.h", "BPF_MAP_TYPE(BPF_MAP_TYPE_RINGBUF, ringbuf_map_ops)\n", ""),
    Edit(_SYSCALL, "err = link_create(&attr);", "err = -EINVAL;"),
    Edit(_SYSCALL, "err = bpf_enable_stats(&attr);", "err = -EINVAL;"),
    Edit(_SYSCALL, "err = map_freeze(&attr);", "err = -EINVAL;"),
    Edit(_SYSCALL, "(bpf_capable() ? BPF_COMPLEXITY_LIMIT_INSNS : BPF_MAXINSNS)", "BPF_MAXINSNS"),
    # Arrays that are read-only to programs or mapped into user space, so constants; what is written stays (a real
    # kernel has both or neither).
    Edit(
        "kernel/bpf/arraymap.c",
        "(BPF_F_NUMA_NODE | BPF_F_MMAPABLE | BPF_F_ACCESS_MASK | \\\n\t BPF_F_PRESERVE_ELEMS | BPF_F_INNER_MAP)",
        "(BPF_F_NUMA_NODE)",
    ),
    Edit(_VERIFIER, "if (loop_ok && env->bpf_capable)", "if (false)"),  # bounded loops
    # 32-bit jumps, and with them the third instruction set.
    Edit(
        _VERIFIER,
        "} else if (class == BPF_JMP || class == BPF_JMP32) {\n\t\t\tu8 opcode",
        "} else if (class == BPF_JMP) {\n\t\t\tu8 opcode",
    ),
)

KINDS: Mapping[str, Kind] = {
    row.name: row
    for row in (
        Kind(
            "no-bpf",
            "a kernel without bpf(), where only the fallbacks live",
            # A wire to be policed; what iptables on nftables makes of counters, limits, states and logs; flows of SCTP,
            # which are none by port without (a packet the other way would pass for a reply).
            ("VETH", "NFT_COUNTER", "NFT_CT", "NFT_LIMIT", "NFT_LOG", "NF_CT_PROTO_SCTP"),
        ),
        Kind(
            "no-btf",
            "BPF as before 5.0: no BTF, kprobes, links, ring buffer, constants, loops or third instruction set",
            ("BPF_SYSCALL", "BPF_JIT", "CGROUP_BPF", "UPROBE_EVENTS", "DEBUG_INFO", "DEBUG_INFO_DWARF4"),
            _AGED,
            btf=True,
        ),
    )
}


def kind(name: str) -> Kind:
    """Parse ``small:KIND``. Raises KernelUnknown."""
    try:
        return KINDS[name.removeprefix("small:")]
    except KeyError:
        raise KernelUnknown(f"{name}: no such kernel") from None
