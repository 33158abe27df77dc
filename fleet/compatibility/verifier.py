"""The verifier's complaint in words: which instruction, which source line, which register, what usually causes it.

The log is the kernel's (``-- BEGIN PROG LOAD LOG --`` without its frame) and hostile: bounded, and only quoted. A kind
of complaint is one row of :data:`COMPLAINTS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from btf.fault import printable
from btf.objects.uapi import HELPERS, name_of

_T = TypeVar("_T")
_MAX_LINES = 4000
_INSTRUCTION = re.compile(r"^(\d+): \([0-9a-f]{2}\) (.+)")  # "7: (79) r1 = *(u64 *)(r0 +0)"
_SOURCE = re.compile(r"^; (.+)")  # "; *count += 1; @ prog.bpf.c:12" from Linux 6.9 on
_PLACE = re.compile(r"(.*?)\s*@ (\S+:\d+)$")
_STATE = re.compile(r"(?<![\w.])(R\d+)(?:_\w+)?=")
_CLOSING = re.compile(r"^(processed \d+ insns|verification time|stack depth|max_states|peak_states)")


@dataclass(frozen=True, slots=True)
class Complaint:
    """A kind of complaint. ``absence``: the kernel lacks something, falling back is right; else the code is wrong."""

    pattern: str
    cause: str
    absence: bool = False


# First match wins. {0}, {1} … are the groups of the pattern.
COMPLAINTS: tuple[Complaint, ...] = (
    Complaint(
        r"failed to resolve CO-RE relocation <\w+> (?:\[\d+\] )?(.+?)(?: \([\d:]+ @ .*)?$",
        "this kernel has no {0}, and the access can be reached: guard it with bpf_core_field_exists or its like",
        absence=True,
    ),
    Complaint(
        r"invalid func unknown#195896080",
        "an access that this kernel does not have (CO-RE poison) can be reached: guard it with bpf_core_field_exists",
        absence=True,
    ),
    Complaint(
        r"(?:invalid|unknown) func (\S+)", "this kernel, or this type of program, has no helper {0}", absence=True
    ),
    Complaint(
        r"program of this type cannot use helper (\S+)",
        "the kernel keeps {0} from this type of program, by its type, its licence or lockdown",
        absence=True,
    ),
    # Pointers are arguments of a global function since Linux 5.12; whoever makes it static asks for nothing newer.
    Complaint(
        r"Arg#(?:\d+) type \w+ in (\w+)\(\) is not supported yet",
        "this verifier knows no pointers as arguments of a global function: make {0}() static",
    ),
    Complaint(
        r"cannot call GPL.restricted function", "the helper is for GPL programs; the object's licence says another"
    ),
    Complaint(
        r"(?:unknown opcode|BPF_\w+ uses reserved fields|BPF_ATOMIC\S* .*)",
        "the object is compiled for a newer instruction set than this kernel's; compile with an older -mcpu",
        absence=True,
    ),
    Complaint(
        r"back-edge from insn (\d+) to (\d+)",
        "this kernel takes no loops; unroll it",
        absence=True,
    ),
    Complaint(
        r"(R\d+) invalid mem access '\w*or_null'",
        "{0} may be null here: test what the look-up returned before it is used",
    ),
    Complaint(
        r"(R\d+) invalid mem access '(inv|scalar)'",
        "{0} is a number here, not a pointer: read what it points to with bpf_probe_read_kernel or BPF_CORE_READ",
    ),
    Complaint(
        r"(R\d+) invalid mem access '(\w+)'",
        "{0} is a {1} here, and memory of that kind is not to be read or written so",
    ),
    Complaint(
        r"invalid access to packet, off=(-?\d+) size=(\d+)",
        "{1} byte(s) at offset {0} of the packet are not proven to be there: compare with data_end first",
    ),
    Complaint(
        r"invalid access to map value, value_size=(\d+) off=(-?\d+) size=(\d+)",
        "{2} byte(s) at offset {1} lie outside a map's value of {0} bytes: bound the index",
    ),
    Complaint(
        r"invalid access to memory, mem_size=(\d+) off=(-?\d+) size=(\d+)",
        "{2} byte(s) at offset {1} lie outside a buffer of {0} bytes: bound the index",
    ),
    Complaint(
        r"(R\d+) (?:min|max|unbounded|unbounded memory).*(?:outside|access|negative).*",
        "the verifier cannot bound {0}: compare or mask it, in the same register, just before its use",
    ),
    Complaint(
        r"(R\d+) (?:min value is negative|unbounded memory access).*",
        "the verifier cannot bound {0}: make it unsigned and compare it just before its use",
    ),
    Complaint(
        r"invalid (?:indirect )?(?:read from|access to) stack.*?(-?\d+)",
        "bytes of the stack are read that nobody has written: clear the whole structure, padding too",
    ),
    Complaint(
        r"(?:invalid stack|invalid write to stack|combined stack size).*",
        "more than 512 bytes of stack, or an index outside it: keep large things in a per-CPU map",
    ),
    Complaint(
        r"(?:BPF program is too large\.|too many (?:jumps|states)|The sequence of \d+ jumps is too complex)",
        "too many paths for this kernel's verifier: shorten loops, split the program, or make branches meet early",
    ),
    Complaint(r"infinite loop detected at insn (\d+)", "the verifier sees no end of the loop: bound it by a constant"),
    Complaint(r"unreachable insn (\d+)", "an instruction that no path reaches: the compiler left dead code"),
    Complaint(r"(R\d+) !read_ok", "{0} is used before it has a value, often after a call, which forgets R1 to R5"),
    Complaint(r"(R\d+) type=(\S+) expected=(.+)", "{0} is a {1} where the helper or function takes {2}"),
    Complaint(
        r"Unreleased reference id=(\d+).*", "a reference (socket, ring buffer slot) is not given back on every path"
    ),
    Complaint(
        r"At program exit the register (R\d+).*", "the return value {0} is not one this type of program may return"
    ),
    Complaint(r"(\S+) is not sleepable", "{0} takes no sleepable programs; without the .s it may do", absence=True),
    Complaint(
        r"attach_btf_id (\d+) is not a function|attach to unsupported member|.*is not modifiable.*",
        "the place this program attaches to does not take such a program",
        absence=True,
    ),
    Complaint(r"arg#(\d+) .*", "argument {0} of a function is not of the type the kernel has there"),
    Complaint(r"math between (\S+) pointer and (.*)", "a pointer ({0}) is computed with in a way that is not allowed"),
    Complaint(r"(?:pointer (?:arithmetic|comparison) .*|(R\d+) pointer .* prohibited)", "pointers are computed with"),
    Complaint(r"(R\d+) (?:leaks addr|leaks).*", "{0} holds a kernel address, which may not be given away here"),
)
_COMPILED = tuple((re.compile(row.pattern), row) for row in COMPLAINTS)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the verifier said, in words. Texts are printable and bounded; empty where the log does not tell."""

    complaint: str  # its own line
    cause: str  # what usually causes it
    absence: bool  # the kernel lacks something, rather than the code being wrong
    instruction: int | None = None
    code: str = ""  # the instruction, disassembled by the kernel
    source: str = ""  # the source line, from line info
    place: str = ""  # file:line, where the kernel tells
    register: str = ""
    state: str = ""  # of that register, the last the verifier printed

    def lines(self) -> list[str]:
        """Return it for a person: the complaint, where, and what to look at."""
        where = f"instruction {self.instruction}: {self.code}" if self.instruction is not None else ""
        source = " ".join(word for word in (self.place, self.source) if word)
        held = f"{self.register} is {self.state}" if self.register and self.state else ""
        rows = [("verifier", self.complaint), ("source", source), ("at", where), ("holds", held), ("cause", self.cause)]
        return [f"{name:>8}: {text}" for name, text in rows if text]


def explain(log: str) -> Explanation | None:
    """Return the complaint at the end of a verifier's log, or None when the log has none."""
    lines = [line.strip() for line in log.splitlines()][-_MAX_LINES:]
    while lines and (not lines[-1] or _CLOSING.match(lines[-1])):
        lines.pop()
    if not lines:
        return None
    found = _complaint(lines)
    if found is None:
        return None  # the log ends in the middle of the work: it was cut off
    at, match, row = found
    cause, absence, register = "", False, ""
    if match is not None and row is not None:
        groups = [_named(printable(group or "", 80)) for group in match.groups()]
        cause, absence = row.cause.format(*groups), row.absence
        register = next((group for group in groups if re.fullmatch(r"R\d+", group)), "")
    before = lines[:at]
    number, code = _last(before, _instruction) or (None, "")
    source, place = _last(before, _source) or ("", "")
    state = (_last(before, lambda line: _state(line, register)) or "") if register else ""
    return Explanation(printable(lines[at], 200), cause, absence, number, code, source, place, register, state)


def _named(word: str) -> str:
    """A helper by its name: a kernel that lacks it knows its number only."""
    match = re.fullmatch(r"unknown#(\d{1,6})", word)
    return name_of(int(match[1]), HELPERS) if match else word


def _complaint(lines: list[str]) -> tuple[int, re.Match[str] | None, Complaint | None] | None:
    """Find the complaint after the last instruction: a line that a row knows, else the first that is no state."""
    worked = [at for at, line in enumerate(lines) if _INSTRUCTION.match(line) or _SOURCE.match(line)]
    first = worked[-1] + 1 if worked else max(0, len(lines) - 6)
    for at in range(first, len(lines)):
        for pattern, row in _COMPILED:
            if match := pattern.search(lines[at]):
                return at, match, row
    plain = [at for at in range(first, len(lines)) if not _STATE.search(lines[at])]
    return (plain[0], None, None) if plain else None


def _last(lines: list[str], read: Callable[[str], _T | None]) -> _T | None:
    return next((found for line in reversed(lines) if (found := read(line)) is not None), None)


def _instruction(line: str) -> tuple[int, str] | None:
    match = _INSTRUCTION.match(line)
    return (int(match[1][:9]), printable(match[2].partition(" ;")[0], 120)) if match else None


def _source(line: str) -> tuple[str, str] | None:
    match = _SOURCE.match(line)
    if match is None:
        return None
    placed = _PLACE.match(match[1])
    return (printable(placed[1], 160), printable(placed[2], 120)) if placed else (printable(match[1], 160), "")


def _state(line: str, register: str) -> str | None:
    """The state of a register in a line, up to the blank after it; blanks in parentheses belong to it."""
    found = [match.end() for match in _STATE.finditer(line) if match[1] == register]
    if not found:
        return None
    depth, end = 0, found[-1]
    while end < len(line) and (depth or not line[end].isspace()):
        depth += {"(": 1, ")": -1}.get(line[end], 0)
        end += 1
    return printable(line[found[-1] : end], 120)
