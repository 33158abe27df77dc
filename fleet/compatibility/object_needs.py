"""What an object asks for that is read off the object alone: how deep its stack gets, which libbpf loads it."""

from __future__ import annotations

import re

from btf.objects.frame import LIMIT, STEPS
from fleet.compatibility.signs import RUNNER_LIBBPF
from fleet.compatibility.sources import Finding, Known
from fleet.compatibility.verdict import Evidence, Requirement
from inventory.facts import Answer


def ask_stack(need: Requirement, known: Known) -> Finding | None:
    """A stack of more than 512 bytes, by the finest count: refused, but where functions may have their own."""
    if not need.subject.isdecimal():
        return None
    if int(need.subject) <= LIMIT:
        words = f"{need.context} bytes where a kernel counts each function's in steps of {STEPS[1]}, which is too many"
        return Finding(Answer.UNKNOWN, Evidence.DERIVED, words, "object")
    if known.btf is None or known.btf.by_name("priv_stack_mode"):
        words = "more than the 512 bytes of one stack; this kernel may give functions their own"
        return Finding(Answer.UNKNOWN, Evidence.DERIVED, words, "btf:priv_stack_mode")
    return Finding(Answer.NO, Evidence.DERIVED, "more than the 512 bytes that a kernel gives", "object")


def ask_loader(need: Requirement, known: Known) -> Finding | None:  # noqa: ARG001  one signature for all sources
    """What the runner's libbpf must know: ``1.3`` is since that version, ``<1.0`` before it."""
    bound = re.fullmatch(r"<?(\d+)\.(\d+)", need.subject)
    if bound is None:
        return None
    asked, before = (int(bound[1]), int(bound[2])), need.subject.startswith("<")
    met = asked > RUNNER_LIBBPF if before else asked <= RUNNER_LIBBPF
    words = f"the runner has libbpf {RUNNER_LIBBPF[0]}.{RUNNER_LIBBPF[1]}"
    return Finding(Answer.YES if met else Answer.NO, Evidence.DERIVED, words, "runner")
