"""What a tracing program takes from its hook, held against what a kernel's hook hands over.

The signature of a raw tracepoint is its ``btf_trace_NAME`` typedef, of a function its FUNC; the record of a tracepoint
is its ``trace_event_raw_NAME``. A program shows what it takes an argument for by the fields it looks for behind it.
Casts between structs that begin with one another (``tcp_sock`` and ``sock``) are no difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from btf.core.relocate import RelocationOutcome
from btf.drift.reads import Based, Read, uses
from btf.format.index import essential_name
from btf.format.kinds import Composite, Func, FuncProto, Fwd, Int, Kind, Member, Ptr, Typedef
from btf.format.types import Btf
from btf.objects.insn import SIZE
from btf.objects.object import BpfFunction, BpfObject, BpfProgram

_WORD = 8
_MAX_DEPTH = 16
_MOST_USES = 100  # of its context by one program

# How struct pt_regs calls the registers of a function's arguments, in their order, in the kernel and in uapi headers.
_REGISTERS: tuple[tuple[str, ...], ...] = (
    ("di", "si", "dx", "cx", "r8", "r9"),
    ("rdi", "rsi", "rdx", "rcx", "r8", "r9"),
)
# Where struct user_pt_regs has them in an array, on arm64 and s390: (its name, the first argument's place, how many).
_REGISTER_ARRAYS: tuple[tuple[str, int, int], ...] = (("regs", 0, 8), ("gprs", 2, 5))
_TRACEPOINT = frozenset({"tracepoint", "tp"})
_BY_TRACEPOINT = frozenset({"raw_tracepoint", "raw_tp", "raw_tracepoint.w", "raw_tp.w", "tp_btf"})
_BY_FUNCTION = frozenset({"fentry", "fentry.s", "fexit", "fexit.s", "fmod_ret", "fmod_ret.s"})
_BY_LSM = frozenset({"lsm", "lsm.s", "lsm_cgroup"})
_BY_REGISTERS = frozenset({"kprobe", "kprobe.session"})
_HOOKED = _TRACEPOINT | _BY_TRACEPOINT | _BY_FUNCTION | _BY_LSM | _BY_REGISTERS


_TYPED = _BY_TRACEPOINT | _BY_FUNCTION | _BY_LSM  # the kernel counts the arguments that programs of these take
_RETURNS = ("fexit", "fmod_ret", "lsm")  # hand over what the function returned, behind its arguments


class Taken(NamedTuple):
    """The program takes argument ``number`` (from 0) at byte ``insn`` and looks at byte ``used`` for fields of struct
    ``root`` behind it (empty: of none). For a tracepoint's record: of ``field`` it reads ``size`` bytes at ``offset``.
    """

    insn: int
    used: int
    number: int = -1
    root: str = ""
    field: str = ""
    offset: int = 0
    size: int = 0


class Mismatch(NamedTuple):
    """What a hook hands over that is not what the program takes it for; ``missing``: it has no such argument."""

    what: str
    was: str
    now: str
    insn: int
    missing: bool = False
    record: bool = False  # it is a field of a tracepoint's record


def mismatches(
    obj: BpfObject, outcomes: Sequence[RelocationOutcome], target: Btf, reference: Btf | None
) -> Iterator[tuple[BpfProgram, Mismatch]]:
    """Yield what the programs of *obj* take from their hooks that *target* hands over otherwise.

    *outcomes* are the object's relocations. *reference* is the BTF of the kernel that the object was made for, when
    there is one: then arguments whose use shows nothing are compared, too.
    """
    for number, taken in obj.remember("taken", lambda: _taken(obj, outcomes)).items():
        program = obj.programs[number]
        compare = _record if program.meaning.kind in _TRACEPOINT else _arguments
        for bad in compare(program, taken, target, reference):
            yield program, bad


def counted_arguments(obj: BpfObject, program: BpfProgram) -> dict[int, frozenset[tuple[str, int]]]:
    """Return where *program* takes each argument that the kernel counts: (section, byte offset), by number from 0."""
    found: dict[int, set[tuple[str, int]]] = {}
    if program.meaning.kind in _TYPED:
        for taken in obj.remember(("typed", program.section, program.function.start), lambda: _typed(program)):
            found.setdefault(taken.number, set()).add((program.section, taken.insn))
    return {number: frozenset(places) for number, places in sorted(found.items())}


def _typed(program: BpfProgram) -> tuple[Taken, ...]:
    function = program.function
    reads = (use for use in islice(uses(function, 0, 1, (), exact=True), _MOST_USES) if isinstance(use, Read))
    numbers = ((use.insn, _number(use, None, {})) for use in reads)
    return tuple(Taken(insn, insn, number) for insn, number in numbers if number is not None)


def argument_count(btf: Btf, kind: str, aim: str) -> int | None:
    """Return how many arguments the hook *aim* of a section *kind* hands over, None where *btf* does not say."""
    parameters = _signature(btf, kind, aim)
    return None if parameters is None else len(parameters) + kind.startswith(_RETURNS)


def _arguments(program: BpfProgram, takes: Sequence[Taken], target: Btf, reference: Btf | None) -> Iterator[Mismatch]:
    kind, aim = program.meaning.kind, program.meaning.target
    parameters = _signature(target, kind, aim)
    if parameters is None:
        return
    before = _signature(reference, kind, aim) if reference else None
    for taken in takes:
        number = taken.number
        ordinal = f"argument {number + 1} of {aim.rpartition(':')[2]}"
        was = before[number] if before and number < len(before) else None
        named = f"struct {taken.root} *" if taken.root else "there"
        words = reference.text(was) if reference and was is not None else named
        if number >= len(parameters):
            if number >= len(parameters) + kind.startswith(_RETURNS):
                yield Mismatch(ordinal, words, f"absent (it has {len(parameters)})", taken.insn, missing=True)
            continue
        now = parameters[number]
        if taken.root:
            differs = not _is(target, now, taken.root)
        else:
            differs = reference is not None and was is not None and not _same(reference, was, target, now)
        if differs:
            yield Mismatch(ordinal, words, target.text(now), taken.used)


def _record(program: BpfProgram, takes: Sequence[Taken], target: Btf, _reference: Btf | None) -> Iterator[Mismatch]:
    """Compare fields that are read where the object's own struct has them, without a relocation."""
    name = program.meaning.target.rpartition("/")[2]
    fields: dict[str, Member] = {}
    for id_ in target.by_name(f"trace_event_raw_{name}", Kind.STRUCT):
        type_ = target[id_]
        fields = {m.name: m for m in type_.members} if isinstance(type_, Composite) else {}
    for taken in takes:
        here = fields.get(taken.field)
        if here is None or here.bit_size:
            continue
        offset, size = here.bit_offset // 8, target.size_of(here.type)
        if (offset, size) != (taken.offset, taken.size) and size:
            was = f"{taken.size} bytes at {taken.offset}"
            yield Mismatch(f"{name}.{taken.field}", was, f"{size} bytes at {offset}", taken.insn, record=True)


def _signature(btf: Btf, kind: str, aim: str) -> Sequence[int] | None:
    """Return the types of a hook's arguments, None where BTF does not say."""
    name = aim.rpartition(":")[2]
    if kind in _BY_TRACEPOINT:
        for id_ in btf.by_name(f"btf_trace_{name}", Kind.TYPEDEF):
            type_ = btf[id_]
            pointer = btf.resolve(type_.type) if isinstance(type_, Typedef) else type_
            proto = btf.resolve(pointer.type) if isinstance(pointer, Ptr) else pointer
            if isinstance(proto, FuncProto) and proto.parameters:
                return [p for _, p in proto.parameters[1:]]  # the first is the tracer's own
    elif "+" not in name:
        for id_ in btf.by_name(f"bpf_lsm_{name}" if kind in _BY_LSM else name, Kind.FUNC):
            function = btf[id_]
            proto = btf[function.type] if isinstance(function, Func) else function
            if isinstance(proto, FuncProto):
                return [p for _, p in proto.parameters]
    return None


def _taken(obj: BpfObject, outcomes: Sequence[RelocationOutcome]) -> dict[int, tuple[Taken, ...]]:
    """Return what each program takes from its hook, by the program's place in the object; the same for any kernel."""
    by_section: dict[str, dict[int, RelocationOutcome]] = {}
    for outcome in outcomes:
        by_section.setdefault(outcome.section, {})[outcome.insn] = outcome
    found: dict[int, tuple[Taken, ...]] = {}
    for number, program in enumerate(obj.programs):
        if program.meaning.kind in _HOOKED:
            found[number] = tuple(dict.fromkeys(_takes(obj, program, by_section.get(program.section, {}))))
    return found


def _takes(obj: BpfObject, program: BpfProgram, outcomes: Mapping[int, RelocationOutcome]) -> Iterator[Taken]:
    """Yield every use that the program's entry function makes of its context."""
    function, kind = program.function, program.meaning.kind
    registers = _places(obj) if kind in _BY_REGISTERS else None
    members = _context(obj, function) if kind in _TRACEPOINT else []
    for use in islice(uses(function, 0, 1, outcomes), _MOST_USES):
        if kind in _TRACEPOINT:
            yield from (
                Taken(use.insn, use.insn, field=m.name, offset=use.offset, size=use.size)
                for m, size in members
                if isinstance(use, Read) and use.by == "load" and (m.bit_offset, size) == (8 * use.offset, use.size)
            )
        elif (number := _number(use, registers, outcomes)) is not None and use.register is not None:
            found = list(_roots(function, use.insn, use.register, outcomes)) or [(use.insn, "")]
            yield from (Taken(use.insn, used, number, root) for used, root in found)


def _context(obj: BpfObject, function: BpfFunction) -> list[tuple[Member, int]]:
    """Return the members, with their sizes, of the struct that *function* says its context is."""
    info = next((i for i in obj.function_info if (i.section, i.insn) == (function.section, function.start)), None)
    if obj.btf is None or info is None or not info.type < len(obj.btf):
        return []
    type_ = obj.btf[info.type]
    proto = obj.btf[type_.type] if isinstance(type_, Func) else type_
    pointer = obj.btf.resolve(proto.parameters[0][1]) if isinstance(proto, FuncProto) and proto.parameters else type_
    struct = obj.btf.resolve(pointer.type) if isinstance(pointer, Ptr) else pointer
    members = struct.members if isinstance(struct, Composite) else ()
    return [(m, obj.btf.size_of(m.type) or 0) for m in members if m.name and not m.bit_size]


def _number(
    use: Read | Based, registers: Mapping[str | int, int] | None, outcomes: Mapping[int, RelocationOutcome]
) -> int | None:
    """Return which argument a use of the context is, None when it is none."""
    if isinstance(use, Based):
        return registers.get(outcomes[use.insn].local) if registers else None
    if use.by != "load" or use.size != _WORD:
        return None
    if registers is not None:
        return registers.get(use.offset)
    return use.offset // _WORD if use.offset >= 0 and use.offset % _WORD == 0 else None


def _places(obj: BpfObject) -> dict[str | int, int]:
    """Return which argument lies where in the object's struct pt_regs: by byte offset, and by what it is called."""
    found: dict[str | int, int] = {}
    for id_ in obj.btf.by_name("pt_regs", Kind.STRUCT) if obj.btf else ():
        type_ = obj.btf[id_] if obj.btf else None
        members = {m.name: m for m in type_.members} if isinstance(type_, Composite) else {}
        for names in _REGISTERS:
            if set(names) <= set(members):
                for number, name in enumerate(names):
                    found[members[name].bit_offset // 8] = number
                    found[f"pt_regs.{name}"] = number
    for id_ in obj.btf.by_name("user_pt_regs", Kind.STRUCT) if obj.btf else ():
        type_ = obj.btf[id_] if obj.btf else None
        for member in type_.members if isinstance(type_, Composite) else ():
            for name, first, count in _REGISTER_ARRAYS:
                for number in range(count if member.name == name else 0):
                    found[member.bit_offset // 8 + _WORD * (first + number)] = number
                    found[f"user_pt_regs.{name}[{first + number}]"] = number
    return found


def _roots(
    function: BpfFunction, insn: int, register: int, outcomes: Mapping[int, RelocationOutcome]
) -> Iterator[tuple[int, str]]:
    """Yield (byte, essential name) of each struct whose fields are looked for behind what *insn* put in *register*."""
    for use in uses(function, (insn - function.start) // SIZE + 1, register, outcomes):
        outcome = outcomes[use.insn] if isinstance(use, Based) else None
        if outcome and outcome.ours and outcome.kind == "byte_off":
            root = outcome.ours.btf.resolve(outcome.ours.root)
            if isinstance(root, Composite) and root.name:
                yield use.insn, essential_name(root.name)


def _is(btf: Btf, id_: int, name: str) -> bool:
    """Whether an argument of this type may be taken for a pointer to struct *name*."""
    pointer = btf.resolve(id_)
    if not isinstance(pointer, Ptr):
        return not isinstance(pointer, Int) or pointer.size == btf.pointer_size  # an address as a number
    pointee = btf.resolve(pointer.type)
    if not isinstance(pointee, Composite | Fwd) or not pointee.name:
        return True  # void *: of whatever
    own = {pointee.name, *_beginnings(btf, pointee)}
    likes = [type_ for i in btf.by_name(name) if isinstance(type_ := btf[i], Composite)]
    return not likes or any(own & {name, *_beginnings(btf, type_)} for type_ in likes)


def _beginnings(btf: Btf, type_: Composite | Fwd) -> Iterator[str]:
    """Yield the names of the structs that *type_* begins with, one inside the other."""
    for _ in range(_MAX_DEPTH):
        if not isinstance(type_, Composite) or not type_.members:
            return
        first = btf.resolve(type_.members[0].type)
        if not isinstance(first, Composite):
            return
        type_ = first
        if type_.name:
            yield type_.name


def _same(one: Btf, id_: int, other: Btf, other_id: int) -> bool:
    """Whether two parameters are the same to a program: what they point to by name, what they are by size."""
    ours, theirs = one.resolve(id_), other.resolve(other_id)
    for _ in range(_MAX_DEPTH):
        if not isinstance(ours, Ptr) or not isinstance(theirs, Ptr):
            break
        ours, theirs = one.resolve(ours.type), other.resolve(theirs.type)
    if isinstance(ours, Composite | Fwd) and isinstance(theirs, Composite | Fwd):
        return essential_name(ours.name) == essential_name(theirs.name)
    if Kind.VOID in (ours.kind, theirs.kind):
        return True
    return ours.kind == theirs.kind and one.size_of(ours.id) == other.size_of(theirs.id)
