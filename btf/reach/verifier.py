"""What the verifier of a kernel follows, told by that kernel's BTF: the less it follows, the more code it looks at.

Every ability has a sign: something of the verifier's own that the kernel's BTF shows, which came with it or after it.
What programs see would not do: vendors carry helpers to old kernels without the verifier of their day. Where the sign
is missing the ability is not assumed, so that no code is called dead which an older verifier would look at.
"""

from __future__ import annotations

from enum import Enum, auto

from btf.format.kinds import Struct
from btf.format.types import Btf


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

# ability: (type, member) that the kernel's BTF has when it has the ability; no member: the type alone tells.
SIGNS: dict[Ability, tuple[str, str]] = {
    # Decides every comparison with a constant, not only (in)equality of 64 bits.
    # Since Linux commit 4f7b3e82589e ("bpf: improve verifier branch analysis") (v5.0); the sign is of v5.3.
    Ability.COMPARE: ("bpf_reg_state", "precise"),
    # Since Linux commit f7cf25b2026d ("bpf: track spill/fill of constants") (v5.3).
    Ability.SPILL: ("bpf_reg_state", "precise"),
    # Since Linux commit fb8d251ee2a6 ("bpf: extend is_branch_taken to registers") (v5.3).
    Ability.COMPARE_REGISTERS: ("bpf_reg_state", "precise"),
    # Since Linux commit a23740ec43ba ("bpf: Track contents of read-only maps as scalars") (v5.5); the sign is of v5.6.
    Ability.FROZEN: ("bpf_func_info_aux", "linkage"),
    # Since Linux commit 2921c90d4718 ("bpf: Fix a verifier failure with xor") (v5.10).
    Ability.XOR: ("bpf_prog_aux", "dst_trampoline"),
    # Since Linux commit 354e8f1970f8 ("bpf: Support <8-byte scalar spill and refill") (v5.16).
    Ability.SHORT_SPILL: ("bpf_kfunc_btf_tab", ""),
    # Since Linux commit ecdf985d7615 ("bpf: track immediate values written to stack by BPF_ST instruction") (v6.3); the
    # sign is of v6.4.
    Ability.STORE_CONSTANT: ("bpf_iter_state", ""),
    # Since Linux commit c31534267c18 ("bpf: generalize is_branch_taken() to work with two registers") (v6.8).
    Ability.COMPARE_RANGES: ("bpf_verifier_env", "test_reg_invariants"),
    # A global function that only dead code calls is not looked at.
    # Since Linux commit 2afae08c9dcb ("bpf: Validate global subprogs lazily") (v6.8).
    Ability.LAZY_GLOBALS: ("bpf_func_info_aux", "called"),
    # Since Linux commit c1e6148cb4f8 ("bpf: Preserve boundaries and track scalars on narrowing fill") (v6.9).
    Ability.NARROW_FILL: ("bpf_verifier_state", "may_goto_depth"),
    # The address of a weak kernel function that is there is not null. Seen in v6.17; since when was not looked up.
    Ability.WEAK_FUNCTION: ("bpf_scc_info", ""),
    # Since Linux commit aced132599b3 ("bpf: Add range tracking for BPF_NEG") (v6.17).
    Ability.NEGATE: ("bpf_scc_info", ""),
}


def abilities(kernel: Btf) -> frozenset[Ability]:
    """Return what the verifier of the kernel with this BTF is known to follow."""
    return frozenset(ability for ability, sign in SIGNS.items() if _shows(kernel, *sign))


def _shows(kernel: Btf, name: str, member: str) -> bool:
    types = (kernel[id_] for id_ in kernel.by_name(name))
    return any(not member or (isinstance(t, Struct) and any(m.name == member for m in t.members)) for t in types)
