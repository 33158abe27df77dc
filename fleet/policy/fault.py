"""What can be wrong with a policy, one class per code."""

from __future__ import annotations

from btf.fault import EXIT_USAGE, Fault


class PolicyMalformed(Fault):
    """A document that is no NetworkPolicy."""

    code = "COR-POL-001"
    exit = EXIT_USAGE
    remedy = "Correct the field that is named; nothing was changed."


class PolicyUnsupported(Fault):
    """A NetworkPolicy that Kubernetes takes and that hosts cannot keep."""

    code = "COR-POL-002"
    exit = EXIT_USAGE
    remedy = "Select hosts by podSelector labels or ipBlock, and ports by number."


class PolicyUnresolved(Fault):
    """A policy speaks of a host whose address is not known as a number."""

    code = "COR-POL-003"
    exit = EXIT_USAGE
    remedy = "Give the host `addresses` in the inventory: the addresses its workloads answer on."


class PolicyTooLarge(Fault):
    """A host's table would be larger than a host is asked to hold."""

    code = "COR-POL-004"
    exit = EXIT_USAGE
    remedy = "Use fewer, wider blocks."
