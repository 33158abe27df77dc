"""The service that a rollout asks on its hosts to see what its users would feel. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from btf.fault import EXIT_USAGE, Fault

MAX_COUNT = 1000
MIN_ROUNDS = 6  # before and after: fewer can show nothing that a gate would act on
KINDS = ("tcp", "http", "exec")


class ServiceWrong(Fault):
    """The policy's ``[service]`` makes no sense."""

    code = "COR-PLN-040"
    exit = EXIT_USAGE
    remedy = 'For example: probe = "tcp:127.0.0.1:8080", "http://127.0.0.1:8080/health" or "exec:/usr/bin/check".'


@dataclass(frozen=True, slots=True)
class Service:
    """``[service]`` of a rollout's policy: what is asked on canaries and controls, how often, and what is tolerated.

    A round asks *count* times; there is one every *every_s* seconds, *rounds* of them before a wave is attached and at
    least as many while it bakes. Other than loopback addresses, and commands, only where the host's own policy allows.
    """

    probe: str
    arguments: tuple[str, ...] = ()  # of an exec: probe
    every_s: float = 10.0
    count: int = 20
    rounds: int = 8
    timeout_s: float = 1.0  # for one answer; none within it is an error
    hosts: int = 40  # of a wave are asked at most, kernels in turn
    tolerance_percent: float = 5.0  # slower, or tolerance_ms, whichever is more
    tolerance_ms: float = 1.0
    tolerance_errors: float = 0.1  # percentage points

    def __post_init__(self) -> None:
        kind, _, rest = self.probe.partition(":")
        if kind not in KINDS or not rest or not self.probe.isprintable() or len(self.probe) > 1024:
            raise ServiceWrong(f"probe {self.probe!r} is not {', '.join(KINDS)}")
        if self.arguments and kind != "exec":
            raise ServiceWrong(f"probe {self.probe!r} takes no arguments")
        if not 1 <= self.count <= MAX_COUNT or not MIN_ROUNDS <= self.rounds <= MAX_COUNT or self.hosts < 1:
            raise ServiceWrong(f"count is 1 to {MAX_COUNT}, rounds at least {MIN_ROUNDS}, hosts at least 1")
        if self.every_s <= 0 or not 0 < self.timeout_s <= 30:
            raise ServiceWrong("every_s must be positive, timeout_s at most 30")
        if min(self.tolerance_percent, self.tolerance_ms, self.tolerance_errors) < 0:
            raise ServiceWrong("a tolerance is negative")

    @property
    def question(self) -> dict[str, object]:
        """What the host's agent is asked to do in one round."""
        return {
            "probe": self.probe, "arguments": list(self.arguments), "count": self.count, "timeout_s": self.timeout_s,
        }  # fmt: skip
