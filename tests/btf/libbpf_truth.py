"""Ask libbpf what it makes of objects on one BTF: its own words on every relocation, and the code it leaves.

``libbpf_truth.c`` is compiled against the system's libbpf when it is needed. The running kernel is asked by ``kernel``
alone.
"""

from __future__ import annotations

import functools
import re
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from btf.objects.insn import Insn, decode_insns

_SOURCE = Path(__file__).with_suffix(".c")
_BUILT = Path(__file__).parents[2] / ".cache" / "libbpf_truth"
_ERRNO = {1: "EPERM", 3: "ESRCH", 7: "E2BIG", 22: "EINVAL", 34: "ERANGE", 95: "EOPNOTSUPP"}

_RELOCATION = re.compile(r"libbpf: prog '(?P<program>.*?)': relo #(?P<number>\d+): (?P<words>.*)")
_SPEC = re.compile(r"<(?P<kind>\w+)> \[(?P<type>\d+)\]")
_CANDIDATE = re.compile(r"matching candidate #\d+ <\w+> \[(\d+)\]")
_PATCHED = re.compile(r"patched insn #(\d+) \(\S+\) (?:imm|off|imm64) (\d+) -> (\d+)")
_RESIZED = re.compile(r"patched insn #\d+ \(\S+\) mem_sz (\d+) -> (\d+)")
_POISONED = re.compile(r"substituting insn #(\d+)")
_REFUSED = re.compile(r"failed to (?:relocate|patch insn #\d+): -(\d+)|target candidate search failed .*: -(\d+)")


@dataclass
class Told:
    """What libbpf says of one relocation; ``outcome`` in the words of :class:`btf.core.relocate.RelocationOutcome`."""

    program: str
    number: int  # in its section
    kind: str = ""
    local: int = 0
    insn: int | None = None  # slot in the program; of a 64-bit load the first
    outcome: str = ""
    value: int | None = None
    candidates: list[int] = field(default_factory=list)  # ids of those that have what is asked for
    resized: tuple[int, int] | None = None
    errno: str | None = None
    words: list[str] = field(default_factory=list)

    def hear(self, words: str) -> None:
        """Take in one more line about it."""
        self.words.append(words)
        if not self.kind and (spec := _SPEC.match(words)):
            self.kind, self.local = spec["kind"], int(spec["type"])
        elif candidate := _CANDIDATE.match(words):
            self.candidates.append(int(candidate[1]))
        elif "ambiguity" in words:
            self.outcome = "ambiguous"
        elif patched := _PATCHED.match(words):
            self.outcome, self.insn, self.value = "value", int(patched[1]), int(patched[3])
        elif resized := _RESIZED.match(words):
            self.resized = int(resized[1]), int(resized[2])
        elif poisoned := _POISONED.match(words):
            self.outcome, self.insn = "poisoned", int(poisoned[1])  # the second slot of a 64-bit load comes first
        elif refused := _REFUSED.match(words):
            self.outcome = self.outcome if self.outcome == "ambiguous" else "failed"
            number = int(refused[1] or refused[2])
            self.errno, self.value, self.insn = _ERRNO.get(number, str(number)), None, None


@dataclass
class Truth:
    """``loaded``: None, or the negative errno; ``log``: libbpf's words; ``instructions``: relocated, by program."""

    loaded: int | None = None
    log: list[str] = field(default_factory=list)
    relocations: list[Told] = field(default_factory=list)  # in the order libbpf takes them, that of .BTF.ext
    instructions: dict[str, tuple[Insn, ...]] = field(default_factory=dict)
    crashed: bool = False

    @property
    def relocated(self) -> bool:
        """Whether relocation came to its end, whatever the verifier said later."""
        return not self.crashed and not any(told.outcome in ("ambiguous", "failed", "") for told in self.relocations)

    def _hear(self, line: str) -> None:
        self.log.append(line)
        heard = _RELOCATION.match(line)
        if heard is None:
            return
        program, number = heard["program"], int(heard["number"])
        last = self.relocations[-1] if self.relocations else None
        if last is None or (last.program, last.number) != (program, number):
            if not heard["words"].startswith(("<", "parsing", "target candidate search")):
                return  # a relocation of ELF's, not of CO-RE
            last = Told(program, number)
            self.relocations.append(last)
        last.hear(heard["words"])


@functools.cache
def truth_program() -> Path:
    """Return the compiled ``libbpf_truth.c``."""
    if not _BUILT.exists() or _BUILT.stat().st_mtime < _SOURCE.stat().st_mtime:
        _BUILT.parent.mkdir(exist_ok=True)
        fresh = _BUILT.with_suffix(".new")
        subprocess.run(["gcc", "-O2", "-Wall", "-Werror", "-o", fresh, _SOURCE, "-lbpf", "-ldl"], check=True)
        fresh.rename(_BUILT)
    return _BUILT


def ask_libbpf_of(
    paths: Sequence[Path],
    btf: Path | None,
    *,
    everything: bool = False,
    code: bool = False,
    kernel: bool = False,
    kconfig: str = "",
    modules: Sequence[Path] = (),
) -> list[Truth]:
    """Open each of *paths* and relocate it against *btf* (None: the running kernel's); one process does them all.

    *everything* includes the programs marked optional, *code* reads the instructions back, *kernel* really loads,
    *kconfig* are lines of options that come before the kernel's own, *modules* is BTF on top of *btf*, which is then
    taken for the running kernel's.
    """
    flags = [word for word, on in (("--all", everything), ("--code", code), ("--kernel", kernel)) if on]
    flags += [f"--kconfig={kconfig}"] if kconfig else []
    flags += [f"--module={path}" for path in modules]
    command: list[str | Path] = [truth_program(), *flags, btf or "-", *paths]
    done = subprocess.run(command, capture_output=True, check=False, timeout=300)
    crashed = done.returncode in (-signal.SIGSEGV, -signal.SIGFPE, -signal.SIGABRT, -signal.SIGBUS)
    assert done.returncode == 0 or crashed, done.stderr
    truths: list[Truth] = []
    for line in done.stdout.decode(errors="replace").split("\n"):
        word, _, rest = line.partition(" ")
        if word == "object":
            truths.append(Truth())
        elif word == "log":
            truths[-1]._hear(rest)
        elif word in ("loaded", "unopened"):
            truths[-1].loaded = int(rest) or None
        elif word == "code":
            name, _, digits = rest.partition(" ")
            truths[-1].instructions[name] = decode_insns(bytes.fromhex(digits))
    if crashed:
        truths[-1].crashed = True
    return truths


def ask_libbpf(path: Path, btf: Path | None, kconfig: str = "") -> Truth:
    """Relocate the object at *path* against *btf* and load it into the running kernel; needs root."""
    return ask_libbpf_of([path], btf, code=True, kernel=True, kconfig=kconfig)[0]


def version() -> str:
    """Return which libbpf judges."""
    return subprocess.run([truth_program(), "-"], capture_output=True, text=True, check=True).stdout.strip()


def write_btf(path: Path, data: bytes) -> Path:
    """Write raw BTF where libbpf can read it."""
    path.write_bytes(data)
    return path
