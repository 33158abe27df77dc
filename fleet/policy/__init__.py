"""Network policies: Kubernetes NetworkPolicy in, one table per host out, and the reference verdict. Pure: no I/O.

`stream` and `document` read and check, `table` compiles, `verdict` judges and explains.
"""

from __future__ import annotations

from fleet.policy.document import parse_policies
from fleet.policy.fault import PolicyMalformed, PolicyTooLarge, PolicyUnresolved, PolicyUnsupported
from fleet.policy.table import compile_policy
from fleet.policy.verdict import explain, judge

__all__ = [
    "PolicyMalformed",
    "PolicyTooLarge",
    "PolicyUnresolved",
    "PolicyUnsupported",
    "compile_policy",
    "explain",
    "judge",
    "parse_policies",
]
