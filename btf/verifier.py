"""What the verifier of a kernel follows, told by that kernel's BTF: the less it follows, the more code it looks at.

Every ability has a sign: something the kernel's BTF shows that came with it or after it. Where the sign is missing the
ability is not assumed, so that no code is called dead which an older verifier would look at.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Protocol


class Ability(Enum):
    """One thing that verifiers learned to follow."""

    COMPARE = auto()
    SPILL = auto()
    COMPARE_REGISTERS = auto()
    FROZEN = auto()
    XOR = auto()
    SHORT_SPILL = auto()
    STORE_CONSTANT = auto()
    COMPARE_RANGES = auto()
    LAZY_GLOBALS = auto()
    NARROW_FILL = auto()
    WEAK_FUNCTION = auto()
    NEGATE = auto()


EVERY = frozenset(Ability)

# ability: (enum, constant) that the kernel's BTF has when it has the ability.
SIGNS: dict[Ability, tuple[str, str]] = {
    # Decides every comparison with a constant, not only (in)equality of 64 bits.
    # Since Linux commit 4f7b3e82589e ("bpf: improve verifier branch analysis") (v5.0).
    Ability.COMPARE: ("bpf_func_id", "BPF_FUNC_rc_pointer_rel"),
    # Since Linux commit f7cf25b2026d ("bpf: track spill/fill of constants") (v5.3).
    Ability.SPILL: ("bpf_func_id", "BPF_FUNC_tcp_gen_syncookie"),
    # Since Linux commit fb8d251ee2a6 ("bpf: extend is_branch_taken to registers") (v5.3).
    Ability.COMPARE_REGISTERS: ("bpf_func_id", "BPF_FUNC_tcp_gen_syncookie"),
    # Since Linux commit a23740ec43ba ("bpf: Track contents of read-only maps as scalars") (v5.5).
    Ability.FROZEN: ("bpf_func_id", "BPF_FUNC_probe_read_kernel"),
    # Since Linux commit 2921c90d4718 ("bpf: Fix a verifier failure with xor") (v5.10).
    Ability.XOR: ("bpf_func_id", "BPF_FUNC_redirect_peer"),
    # Since Linux commit 354e8f1970f8 ("bpf: Support <8-byte scalar spill and refill") (v5.16).
    Ability.SHORT_SPILL: ("bpf_func_id", "BPF_FUNC_kallsyms_lookup_name"),
    # Since Linux commit ecdf985d7615 ("bpf: track immediate values written to stack by BPF_ST instruction") (v6.3).
    Ability.STORE_CONSTANT: ("bpf_prog_type", "BPF_PROG_TYPE_NETFILTER"),
    # Since Linux commit c31534267c18 ("bpf: generalize is_branch_taken() to work with two registers") (v6.8).
    Ability.COMPARE_RANGES: ("bpf_cmd", "BPF_TOKEN_CREATE"),
    # A global function that only dead code calls is not looked at.
    # Since Linux commit 2afae08c9dcb ("bpf: Validate global subprogs lazily") (v6.8).
    Ability.LAZY_GLOBALS: ("bpf_cmd", "BPF_TOKEN_CREATE"),
    # Since Linux commit c1e6148cb4f8 ("bpf: Preserve boundaries and track scalars on narrowing fill") (v6.9).
    Ability.NARROW_FILL: ("bpf_cmd", "BPF_TOKEN_CREATE"),
    # The address of a weak kernel function that is there is not null. Seen in v6.17; since when was not looked up.
    Ability.WEAK_FUNCTION: ("bpf_cmd", "BPF_PROG_STREAM_READ_BY_FD"),
    # Since Linux commit aced132599b3 ("bpf: Add range tracking for BPF_NEG") (v6.17).
    Ability.NEGATE: ("bpf_cmd", "BPF_PROG_STREAM_READ_BY_FD"),
}


class KernelEnums(Protocol):
    """What is asked of a kernel's BTF here; ``btf.types.Btf`` gives it."""

    def enum_values(self, enum_name: str, /) -> dict[str, int]:
        """Return the constants of an enum, empty when there is no such enum."""


def abilities(kernel: KernelEnums) -> frozenset[Ability]:
    """Return what the verifier of the kernel with this BTF is known to follow."""
    enums = {enum: kernel.enum_values(enum) for enum, _ in SIGNS.values()}
    return frozenset(ability for ability, (enum, constant) in SIGNS.items() if constant in enums[enum])
