"""What a BPF object needs of a kernel, read off the object itself: never asked of its author, never of a kernel.

Each :class:`Requirement` has the kind of a row of ``features.FEATURES``. A subject ``a|b`` is met by either. Needs of a
program with ``?`` in its section's name are optional: the loader leaves such a program out.
"""

from __future__ import annotations

from collections.abc import Iterator

from btf.drift.arguments import counted_arguments
from btf.objects.flow import has_loop
from btf.objects.frame import LIMIT, STEPS, stack_depth
from btf.objects.insn import SIZE, heads, is_atomic
from btf.objects.loader import LoaderNeed, loader_needs
from btf.objects.maps import BpfMap
from btf.objects.object import BpfObject, BpfProgram
from btf.objects.uapi import HELPERS, name_of
from btf.reach.memory import VERSION
from fleet.compatibility.signs import MAP_FLAG_SIGNS
from fleet.compatibility.targets import BY_VERSION
from fleet.compatibility.verdict import Requirement

SMALL = 4096  # so many instructions every kernel takes

# libbpf puts the old helper in where the kernel lacks the new one.
HELPER_ALTERNATIVES = {
    "probe_read_kernel": "probe_read_kernel|probe_read",
    "probe_read_user": "probe_read_user|probe_read",
    "probe_read_kernel_str": "probe_read_kernel_str|probe_read_str",
    "probe_read_user_str": "probe_read_user_str|probe_read_str",
}

# How a program is attached, by the section row it matched: (way, kind of the thing it is attached to).
_HOOKS: dict[str, tuple[str, str]] = {
    "tracepoint": ("tracepoint", "tracepoint"),
    "tp": ("tracepoint", "tracepoint"),
    "raw_tracepoint": ("raw_tracepoint", "raw_tracepoint"),
    "raw_tp": ("raw_tracepoint", "raw_tracepoint"),
    "raw_tracepoint.w": ("raw_tracepoint", "raw_tracepoint"),
    "raw_tp.w": ("raw_tracepoint", "raw_tracepoint"),
    "tp_btf": ("tp_btf", "raw_tracepoint"),
    **dict.fromkeys(("fentry", "fentry.s", "fexit", "fexit.s", "fmod_ret", "fmod_ret.s"), ("fentry", "function")),
    **dict.fromkeys(("lsm", "lsm.s", "lsm_cgroup"), ("lsm", "lsm")),
    **dict.fromkeys(("iter", "iter.s"), ("iter", "iter")),
    **dict.fromkeys(("kprobe", "kretprobe"), ("kprobe", "function")),
    **dict.fromkeys(("ksyscall", "kretsyscall"), ("kprobe", "")),
    **dict.fromkeys(("kprobe.multi", "kretprobe.multi"), ("kprobe_multi", "function")),
    "kprobe.session": ("kprobe_session", "function"),
    **dict.fromkeys(("uprobe", "uprobe.s", "uretprobe", "uretprobe.s", "usdt", "usdt.s"), ("uprobe", "")),
    **dict.fromkeys(("uprobe.multi", "uprobe.multi.s", "uretprobe.multi", "uretprobe.multi.s"), ("uprobe_multi", "")),
    **dict.fromkeys(("uprobe.session", "uprobe.session.s"), ("uprobe_session", "")),
    **dict.fromkeys(("tc", "classifier", "action"), ("tc", "")),
    **dict.fromkeys(("tc/ingress", "tc/egress", "tcx/ingress", "tcx/egress"), ("tcx", "")),
    **dict.fromkeys(("netkit/primary", "netkit/peer"), ("netkit", "")),
    **dict.fromkeys(("xdp", "xdp.frags"), ("xdp", "")),
    "perf_event": ("perf_event", ""),
    **dict.fromkeys(("cgroup_skb/ingress", "cgroup_skb/egress", "cgroup/skb"), ("cgroup_skb", "")),
}

# Sleepable programs that not every place takes.
_SLEEPABLE = frozenset({"fentry.s", "fexit.s", "fmod_ret.s", "lsm.s"})
_PATTERN = frozenset("*?")  # kprobe.multi/tcp_* names no single function


def infer(obj: BpfObject) -> tuple[Requirement, ...]:
    """Return what *obj* needs, without duplicates: first what all of it needs, then program by program; remembered."""
    return obj.remember("requirements", lambda: _infer(obj))


def _infer(obj: BpfObject) -> tuple[Requirement, ...]:
    return tuple(dict.fromkeys([*_whole(obj), *(need for p in obj.programs for need in _program(obj, p))]))


def used_at(obj: BpfObject, program: BpfProgram, need: Requirement) -> set[tuple[str, int]]:
    """Return where *program* uses the helper, kernel symbol or argument of *need*: (section, byte offset)."""
    names = set(need.subject.split("|"))
    if need.kind == "helper":
        key = "helper calls", program.section, program.function.start
        calls = obj.remember(key, lambda: _helper_calls(program))
        return {place for name in names for place in calls.get(name, ())}
    if need.kind == "argument":
        return set(counted_arguments(obj, program).get(int(need.subject.rpartition(":")[2]), ()))
    return {(f.section, r.insn) for f in program.functions for r in f.references if not r.section and r.name in names}


def _helper_calls(program: BpfProgram) -> dict[str, list[tuple[str, int]]]:
    """Return where *program* calls each helper, by name: (section, byte offset)."""
    found: dict[str, list[tuple[str, int]]] = {}
    for function in program.functions:
        for index, insn in heads(function.instructions):
            if insn.is_call:
                found.setdefault(name_of(insn.imm, HELPERS), []).append(
                    (function.section, function.start + SIZE * index)
                )
    return found


def _loader_needs(obj: BpfObject) -> dict[str, list[LoaderNeed]]:
    """Return what the programs of *obj* ask of its loader, by name."""
    found: dict[str, list[LoaderNeed]] = {}
    for loaded in loader_needs(obj):
        found.setdefault(loaded.program, []).append(loaded)
    return found


def _whole(obj: BpfObject) -> Iterator[Requirement]:
    if obj.isa != "v1":  # every kernel with eBPF has the first instruction set
        yield Requirement("isa", obj.isa)
    if obj.relocations:
        yield Requirement("btf", "kernel")
    if obj.data_sections or any(e.origin == "kconfig" for e in obj.externs):
        yield Requirement("feature", "global_data")
    named = {name for p in obj.programs for f in p.functions for name in f.maps}
    for map_ in obj.maps:
        if map_.name not in named:  # the loader makes it whether a program names it or not
            yield from (Requirement(kind, subject, context=map_.name) for kind, subject in _of_map(map_))
    for ops in obj.struct_ops:
        yield Requirement("struct_ops", ops.type, optional=ops.optional)
    for loaded in loader_needs(obj):
        if not loaded.program and _noteworthy(loaded):
            yield Requirement("loader", _versions(loaded), context=loaded.what)
    for extern in obj.externs:
        if extern.origin == "kconfig" and not extern.name.startswith("LINUX_"):  # LINUX_*: libbpf's own values
            yield Requirement("kconfig", extern.name, optional=extern.weak)


def _program(obj: BpfObject, program: BpfProgram) -> Iterator[Requirement]:
    def need(kind: str, subject: str, *, context: str = "", optional: bool = False) -> Requirement:
        return Requirement(kind, subject, program=program.name, context=context, optional=optional or program.optional)

    yield need("program_type", program.program_type)
    meaning = program.meaning
    way, thing = _HOOKS.get(meaning.kind, ("", ""))
    if way:
        yield need("attach", way)
    if thing and meaning.target and not _PATTERN & set(meaning.target):
        yield need(*_hook(thing, meaning.target), context="" if thing.endswith("tracepoint") else way)
    for number in counted_arguments(obj, program):
        chosen = any(VERSION in f.externs for f in program.functions)
        yield need("argument", f"{meaning.kind}/{meaning.target}:{number}", context=BY_VERSION if chosen else "")
    symbols = obj.kernel_symbols(program)
    if meaning.needs_kernel_btf or any(s.typed for s in symbols):
        yield need("btf", "vmlinux", context=meaning.kind if meaning.needs_kernel_btf else "a typed kernel symbol")
    for symbol in symbols:
        yield need("kfunc" if symbol.typed and symbol.function else "ksym", symbol.name, optional=symbol.weak)
    for helper in sorted(obj.helpers(program)):
        yield need("helper", HELPER_ALTERNATIVES.get(helper, helper), context=program.program_type)
    named = {name for f in program.functions for name in f.maps}
    for map_ in obj.maps:
        if map_.name in named:
            yield from (need(kind, subject, context=map_.name) for kind, subject in _of_map(map_))
    if program.instruction_count > SMALL:
        yield need("instructions", str(program.instruction_count))
    least, most = (stack_depth(obj, program, step) for step in STEPS)
    if most > LIMIT:
        yield need("stack", str(least), context=str(most))
    for loaded in obj.remember("loader needs", lambda: _loader_needs(obj)).get(program.name, ()):
        if _noteworthy(loaded):
            yield need("loader", _versions(loaded), context=loaded.what)
    if program.subprograms:
        yield need("feature", "bpf2bpf")
    if any(has_loop(f.instructions) for f in program.functions):
        yield need("feature", "bounded_loops")
    if any(is_atomic(insn) and insn.imm for f in program.functions for _, insn in heads(f.instructions)):
        yield need("feature", "atomics")
    if meaning.kind == "xdp.frags":
        yield need("feature", "xdp_frags")
    if meaning.kind in _SLEEPABLE and meaning.target:
        yield need("sleepable", _hook(thing, meaning.target)[1])


def _of_map(map_: BpfMap) -> Iterator[tuple[str, str]]:
    """Yield (kind, subject) of what a map needs, and the maps in it."""
    yield "map_type", map_.type
    yield from (("map_flag", flag) for flag in map_.flag_names if flag in MAP_FLAG_SIGNS)
    if map_.inner:
        yield from _of_map(map_.inner)


def _noteworthy(need: LoaderNeed) -> bool:
    """Whether not every libbpf from 1.0 on meets *need*."""
    return need.since > (1, 0) or need.until is not None


def _versions(need: LoaderNeed) -> str:
    """Return the versions of libbpf that meet *need*: ``1.3``, or ``<1.0``."""
    return f"<{need.until[0]}.{need.until[1]}" if need.until else f"{need.since[0]}.{need.since[1]}"


def _hook(thing: str, target: str) -> tuple[str, str]:
    """Return (kind, subject) of what a program is attached to."""
    if thing == "tracepoint":
        category, _, name = target.partition("/")
        return "tracepoint", f"{category}:{name}"
    if thing in ("lsm", "iter"):
        return "function", f"bpf_{thing}_{target}"
    # A probe may aim inside a function (tcp_v4_connect+8) or name its module (fentry/nf_conntrack:f).
    return thing, target.partition("+")[0].rpartition(":")[2]
