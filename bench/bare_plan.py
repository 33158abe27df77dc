"""A plan made without a record, facts or builds: one program for many hosts, for benches of what carries it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fleet.rollout.planning.plan import Plan, PlannedHost, Wave
from fleet.rollout.planning.settings import WaveSettings
from probes.agent import scope

_BUILD = f"sha256:{1:064x}"
_BUDGET = {
    "cpu_percent": 400.0, "ns_per_event": 1e6, "memory_mib": 512.0, "loss_percent": 0.1, "interval_s": 1.0,
    "strikes": 2, "action": "detach",
}  # fmt: skip


def bare_plan(
    program: str, variant: str, files: Mapping[str, str], waves: Sequence[Sequence[str]], settings: WaveSettings
) -> Plan:
    """Return the plan of *program*: *files* by role and digest, *waves* of host names."""
    shared = {
        "schema": "corollout.spec/1", "program": program, "kind": "tracing", "variant": variant, "build": _BUILD,
        "generation": 1, "files": dict(files), "record": None, "optional": [], "fail_mode": "detach",
        "boot": "stay-off", "lease_s": 3600, "revert_s": 0, "budget": _BUDGET,
    }  # fmt: skip
    made = tuple(
        Wave(
            number,
            f"wave {number}",
            settings.bake_s,
            tuple(PlannedHost(name, "k/x86_64", variant, _BUILD, "f" * 64) for name in names),
        )
        for number, names in enumerate(waves)
    )
    here = scope.kernel()
    own = {
        name: {"host": name, "btf": None, "scope": {"kind": "host"}, "kernel": here, "config": {}}
        for names in waves
        for name in names
    }
    return Plan("bench", program, 5.0, settings, made, (), {variant: shared}, own)
