"""What really came of a build on a kernel, and whether that is what was predicted. Values in, values out.

A guest's words are read here into an :class:`Outcome`; :func:`agreement` holds it against a verdict. The one answer
that may never occur is ``false-fits``: we said it fits, and the kernel refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from btf.fault import printable
from fleet.compatibility.verdict import Evidence, Verdict
from fleet.compatibility.verifier import explain
from inventory.facts import Answer, Facts

_LOG_TAIL = 8192
_PLACED = (
    *("kprobe", "kretprobe", "ksyscall", "kretsyscall", "uprobe", "uretprobe", "usdt", "tracepoint", "tp", "raw_t"),
    *("fentry", "fexit", "fmod_ret", "lsm", "iter"),
)
_NO_PLACE = ("EOPNOTSUPP", "ESRCH")  # the section names no place to attach to: it takes an interface, a cgroup, a path


class Real(StrEnum):
    """What the kernel did with a build."""

    RAN = "ran"  # loaded, attached, read back
    LOADED = "loaded"  # loaded; where to attach it, its section does not say
    REFUSED = "refused"
    SILENT = "silent"  # nobody answered: the guest died or ran out of time


class Agreement(StrEnum):
    """A prediction held against what happened."""

    EQUAL = "equal"
    FALSE_FITS = "false-fits"  # predicted to run, refused
    REJECTED = "rejected"  # it has all it needs, but the verifier does not accept its code: a finding about the build
    TOO_CAUTIOUS = "too-cautious"  # predicted not to run, ran
    OPEN = "open"  # nothing was claimed
    UNANSWERED = "unanswered"  # nothing happened that a prediction could be held against


CONTRADICTIONS = frozenset({Agreement.FALSE_FITS, Agreement.REJECTED, Agreement.TOO_CAUTIOUS})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened, with the kernel's own words where it refused. ``runs``: how often each attached program ran."""

    real: Real
    stage: str = ""  # of a refusal: open, btf, load, map, record, set, attach …
    errno: str = ""
    program: str = ""
    message: str = ""
    log: str = ""  # the verifier's last words
    runs: Mapping[str, int] | None = None
    records: int = 0
    took_s: float = 0.0

    def document(self) -> dict[str, Any]:
        """As JSON, without what is empty."""
        return {name: value for name in self.__slots__ if (value := getattr(self, name)) not in ("", None)}


SILENT = Outcome(Real.SILENT)


@dataclass(frozen=True, slots=True)
class Proof:
    """One build tried on one kernel build under one boot policy: what is kept of it. ``document`` is the outcome's."""

    program: str
    variant: str
    build: str
    runner: str  # digest of the runner, which is part of what was tried
    kernel_id: str
    release: str
    policy: str
    predicted: Verdict
    real: Real
    agreement: Agreement
    evidence: Evidence = Evidence.PROVEN
    detail: str = ""
    document: Mapping[str, Any] = field(default_factory=dict)


def read_outcome(task: Mapping[str, Any]) -> Outcome:
    """Read the words of a guest about one object (``fleet/lab/guest.py``); what is not as expected is silence."""
    took_s = task.get("took_s")
    took = float(took_s) if isinstance(took_s, int | float) else 0.0
    verify, hold = _part(task, "verify"), _part(task, "hold")
    said = _part(verify, "said")
    if said.get("event") != "verified":
        return _refusal(said, verify, took)
    said = _part(hold, "said")
    nowhere = said.get("stage") == "attach" and said.get("errno") in _NO_PLACE
    if said.get("event") == "error" and nowhere and not _names_a_place(verify, said.get("program")):
        return Outcome(Real.LOADED, message=printable(str(said.get("message", ""))), took_s=took)
    if said.get("event") != "ready":
        return _refusal(said, hold, took)
    attached = [p for p in _rows(said) if p.get("attached")]
    sample = _rows(_part(hold, "sample"))
    runs = {str(p.get("name")): p["run_cnt"] for p in sample if _count(p.get("run_cnt"))}
    records = hold.get("records", 0)
    return Outcome(
        Real.RAN if attached else Real.LOADED,
        runs={printable(k, 128): v for k, v in runs.items()},
        records=records if _count(records) else 0,
        took_s=took,
    )


def _names_a_place(verify: Mapping[str, Any], program: object) -> bool:
    """Whether the section of a program says where it goes, so that an errno there is the kernel's refusal."""
    rows = _rows(_part(verify, "said"))
    sections = [str(row.get("section")) for row in rows if row.get("name") == program]
    return any(section.startswith(_PLACED) for section in sections)


def _refusal(said: Mapping[str, Any], step: Mapping[str, Any], took_s: float) -> Outcome:
    if said.get("event") != "error":
        words = f"the runner said nothing, status {step.get('status', '?')}, {took_s:.0f} s: {step.get('noise', '')}"
        return Outcome(Real.SILENT, message=printable(words), took_s=took_s)
    stage, errno, program = (printable(str(said.get(name, "")), 200) for name in ("stage", "errno", "program"))
    log = "\n".join(printable(line, 400) for line in str(said.get("log", ""))[-_LOG_TAIL:].splitlines())
    message = printable(str(said.get("message", "")))
    return Outcome(Real.REFUSED, stage, errno, program, message, log, took_s=took_s)


def _part(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = document.get(name)
    return part if isinstance(part, dict) else {}


def _rows(said: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The programs of an answer."""
    programs = said.get("programs")
    return [row for row in programs if isinstance(row, dict)] if isinstance(programs, list) else []


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64


def agreement(predicted: Verdict, outcome: Outcome) -> Agreement:
    """Hold a prediction against what happened."""
    real = outcome.real
    if real is Real.SILENT:
        return Agreement.UNANSWERED
    if predicted is Verdict.UNKNOWN:
        return Agreement.OPEN
    promised = predicted in (Verdict.FITS, Verdict.DEGRADED)
    if promised is (real is not Real.REFUSED):
        return Agreement.EQUAL
    if promised:
        return Agreement.REJECTED if _is_rejection(outcome) else Agreement.FALSE_FITS
    return Agreement.TOO_CAUTIOUS


def _is_rejection(outcome: Outcome) -> bool:
    found = explain(outcome.log) if outcome.stage == "load" else None
    return found is not None and not found.absence


# What permits or denies BPF on one boot of a kernel: hosts that differ here do not speak for each other.
_POLICY_CAPS = ("bpf", "net_admin", "perfmon", "sys_admin", "sys_resource")
_POLICY_SYSCTLS = ("kernel.unprivileged_bpf_disabled",)
_POLICY_MOUNTS = ("mount.tracefs", "mount.debugfs", "btf.vmlinux")


def boot_policy(facts: Facts) -> str:
    """Return the boot policy of a host as one line of text: equal texts mean that one host's outcome holds for another.

    Lockdown, security modules, the capabilities that BPF asks for, seccomp, sysctls, mounts and visible BTF.
    """
    held = facts.value("caps.effective", ())
    caps = [c for c in _POLICY_CAPS if c in held] if isinstance(held, list) else ["?"]
    modules = facts.value("lsm.active", ())
    words = [
        f"lockdown={facts.value('lockdown.mode', '?')}",
        f"lsm={'+'.join(sorted(str(m) for m in modules)) if modules else '?'}",
        f"caps={'+'.join(caps) or 'none'}",
        f"seccomp={facts.value('seccomp.mode', '?')}",
        *(f"{name}={facts.value(f'sysctl.{name}', '?')}" for name in _POLICY_SYSCTLS),
        *(f"{name}={facts.answer(name).value}" for name in _POLICY_MOUNTS),
    ]
    if facts.answer("bpf.syscall") is Answer.BLOCKED:
        words.append("bpf=blocked")
    return printable(" ".join(words), 400)
