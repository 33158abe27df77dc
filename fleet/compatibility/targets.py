"""What a program is attached to or calls by name: functions, LSM hooks, iterators, kfuncs, symbols.

That BTF has no such function proves little for a kprobe (static, inlined or assembler functions, modules); the kernel's
own list of symbols says more, and is believed first.
"""

from __future__ import annotations

from btf.drift.arguments import argument_count
from btf.format.types import Btf
from fleet.compatibility.sources import CachedTypes, Finding, Known, kconfig
from fleet.compatibility.verdict import Evidence, Requirement
from inventory.facts import Answer

# Ways to attach that take a function's address from BTF: no signature there, no program.
BY_SIGNATURE = frozenset({"fentry"})
# Functions that exist for BPF alone, by way to attach: (prefix, what they are, one that came with the first of them).
_FAMILIES = {
    # Since Linux commit 9d3fdea789c8 ("bpf: lsm: Provide attachment points for BPF LSM programs") (v5.7).
    "lsm": ("bpf_lsm_", "LSM hook", "bpf_lsm_file_open"),
    # Since Linux commit eaaacd23910f ("bpf: Add task and task/file iterator targets") (v5.8).
    "iter": ("bpf_iter_", "iterator", "bpf_iter_task"),
}


def ask_function(need: Requirement, known: Known) -> Finding | None:
    """A kernel function by its BTF. Absence proves nothing: it may be static, inlined, or live in a module."""
    if known.btf is None or need.context in _FAMILIES or need.subject not in known.btf.functions():
        return None
    return Finding(Answer.YES, Evidence.DERIVED, "the kernel's BTF has the function", "btf:FUNC")


def ask_module(need: Requirement, known: Known) -> Finding | None:
    """A function by the BTF of the kernel's modules, where some are at hand; the module must be loaded to attach."""
    module = known.modules().get(need.subject) if need.context not in _FAMILIES else None
    if module is None:
        return None
    return Finding(Answer.YES, Evidence.DERIVED, f"the BTF of module {module} has it", f"btf:{module}")


def ask_family(need: Requirement, known: Known) -> Finding | None:
    """An LSM hook or an iterator: functions that the kernel has for nothing else, all of them in its own BTF."""
    if known.btf is None or need.context not in _FAMILIES:
        return None
    prefix, noun, first = _FAMILIES[need.context]
    functions = known.btf.functions()
    name = need.subject.removeprefix(prefix)
    if need.subject in functions:
        return Finding(Answer.YES, Evidence.DERIVED, f"the kernel's BTF has the {noun} {name}", "btf:FUNC")
    if first not in functions:
        return None  # none is seen here: built without them, or this BTF leaves functions out
    return Finding(Answer.NO, Evidence.DERIVED, f"the kernel's BTF has {noun}s, but no {name}", "btf:FUNC")


def ask_symbols(need: Requirement, known: Known) -> Finding | None:
    """A kernel function by the kernel's list of symbols, which also shows what the compiler made of it."""
    symbols = known.symbols() if need.context not in _FAMILIES else None
    if symbols is None or not (symbols.functions or symbols.copies):
        return None
    name = need.subject
    if name in symbols.functions:
        module = symbols.modules.get(name)
        signed = known.btf is None or name in known.btf.functions()
        if need.context in BY_SIGNATURE and not signed:
            if module:
                return None  # its signature is in the module's BTF
            words = f"it is there, but its signature is not in the kernel's BTF, where {need.context} takes it from"
            return Finding(Answer.NO, Evidence.PROBED, f"{words}; a kprobe attaches", "kallsyms")
        words = f"it is there, in module {module}" if module else "it is there"
        return Finding(Answer.YES, Evidence.PROBED, words, "kallsyms")
    if name in symbols.copies:
        words = f"it is there only as {symbols.made_of(name)}; a kprobe must name that, and fentry cannot"
        return Finding(Answer.NO, Evidence.PROBED, words, "kallsyms")
    if kconfig(known.facts, "MODULES") == "n":
        words = "not among the symbols of the kernel, which has no modules: inlined or left out"
        return Finding(Answer.NO, Evidence.PROBED, words, "kallsyms")
    words = "not among the symbols of the kernel and its loaded modules: inlined, left out, or in a module not loaded"
    return Finding(Answer.UNKNOWN, Evidence.PROBED, words, "kallsyms")


def ask_signature(need: Requirement, known: Known) -> Finding | None:
    """A function for fentry, where no module can have the signature that the kernel's own BTF lacks."""
    if known.btf is None or need.context not in BY_SIGNATURE or need.subject in known.btf.functions():
        return None
    for symbol, other in (("MODULES", "has no modules"), ("DEBUG_INFO_BTF_MODULES", "has no BTF of modules")):
        if kconfig(known.facts, symbol) == "n":
            words = f"no signature in the kernel's BTF, where {need.context} takes it from, and the kernel {other}"
            return Finding(Answer.NO, Evidence.DERIVED, words, "btf:FUNC")
    return None


BY_VERSION = "chosen by the kernel's version"


def ask_argument(need: Requirement, known: Known) -> Finding | None:
    """An argument that a typed hook hands over: ``tp_btf/block_rq_issue:1`` is its second.

    A program that asks for the kernel's version may take another one where the version says so. Where no BTF has the
    hook, all there is is the object's own claim.
    """
    hook, _, number = need.subject.rpartition(":")
    kind, _, aim = hook.partition("/")
    if not number.isdecimal():
        return None
    types = known.btf.btf if isinstance(known.btf, CachedTypes) else known.btf
    count = argument_count(types, kind, aim) if isinstance(types, Btf) else None
    if count is None:
        return Finding(Answer.YES, Evidence.CLAIMED, "no BTF says otherwise", "object")
    if int(number) < count:
        return Finding(Answer.YES, Evidence.DERIVED, f"the hook hands over {count}", "btf:FUNC_PROTO")
    words = f"there is no argument {int(number) + 1}: the hook hands over {count}"
    if need.context == BY_VERSION and not (known.off_host and known.facts.value("kernel.release")):
        return Finding(
            Answer.UNKNOWN, Evidence.DERIVED, f"{words}, and the program asks for the version", "btf:FUNC_PROTO"
        )
    return Finding(Answer.NO, Evidence.DERIVED, words, "btf:FUNC_PROTO")


def ask_kfunc(need: Requirement, known: Known) -> Finding | None:
    """A kernel function that BPF programs may call: FUNC, and the tag of such where this BTF has tags at all."""
    if known.btf is None or need.subject not in known.btf.functions():
        return None  # it may be in a module's BTF
    tagged = known.btf.tagged("bpf_kfunc")
    if not tagged:
        return Finding(Answer.YES, Evidence.DERIVED, "the kernel's BTF has the function", "btf:FUNC")
    if need.subject in tagged:
        return Finding(Answer.YES, Evidence.DERIVED, "the kernel's BTF has it as one", "btf:bpf_kfunc")
    return Finding(Answer.NO, Evidence.DERIVED, "a function of the kernel, none that BPF may call", "btf:bpf_kfunc")


_ENTRIES = ("__x64_sys_", "__arm64_sys_", "__s390x_sys_", "__riscv_sys_")


def ask_sleepable(need: Requirement, known: Known) -> Finding | None:
    """Whether a sleepable program may be attached: entries of system calls take one; else only the kernel knows."""
    if known.btf is None or not need.subject.startswith(_ENTRIES) or need.subject not in known.btf.functions():
        return None
    return Finding(Answer.YES, Evidence.DERIVED, "the entry of a system call", "btf:FUNC")


def ask_symbol(need: Requirement, known: Known) -> Finding | None:
    """A kernel variable or symbol with a type in BTF; others are only in kallsyms, which nobody here has read."""
    if known.btf is None or not known.btf.by_name(need.subject):
        return None
    return Finding(Answer.YES, Evidence.DERIVED, "the kernel's BTF has the symbol", "btf:VAR")


def ask_struct_ops(need: Requirement, known: Known) -> Finding | None:
    """A table of functions that BPF may stand in for: the kernel keeps its maps' values in a struct of its own."""
    sign = f"bpf_struct_ops_{need.subject}"
    if known.btf is None:
        return None
    if known.btf.by_name(sign):
        return Finding(Answer.YES, Evidence.DERIVED, f"the kernel's BTF has {sign}", f"btf:{sign}")
    if kconfig(known.facts, "MODULES") == "n":
        words = f"the kernel's BTF has no {sign}, and the kernel has no modules"
        return Finding(Answer.NO, Evidence.DERIVED, words, f"btf:{sign}")
    return None
