"""Carrying one phase of a wave to its hosts, many at a time. Decides nothing about the rollout.

Every host's progress is a row (``StepRow``), so a phase begun again after a crash goes on where each host was. What is
done to one host is ``acts``. Silence is *unreachable*: neither success nor failure.
"""

from __future__ import annotations

import itertools
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from btf.fault import Fault
from fleet.record.errors import RecordFault
from fleet.record.views import StepOutcome, StepView
from fleet.rollout.acts import ACTS, Act, HostChanged, StepFailed
from fleet.rollout.execute import AgentRefused
from fleet.rollout.hours import closed
from fleet.rollout.work import Work
from inventory.connect.errors import Refused, Unreachable


def carry(work: Work, wave: int, phase: str) -> dict[str, Any]:
    """Do *phase* on every host of *wave* that waits for it; returns counts, and whether it was cut short.

    No new host is begun once more hosts failed than the plan tolerates, when a person asked for something, or on stop.
    """
    states, act, silent, faulty = ACTS[phase]
    settings = work.plan.settings
    view = work.record.rollout(work.rollout_id).waves[wave]
    waiting = work.steps(wave, states)
    if phase == "revert":
        waiting = [s for s in waiting if s.attempts]  # the others were never touched
    tolerated = (
        0 if wave == 0 else min(int(sum(view.steps.values()) * settings.failed_percent / 100), settings.failed_cap)
    )
    failed = view.steps.get("failed", 0)
    left, flying = iter(waiting), set[Future[StepOutcome]]()

    def why() -> str:
        """Why no further host is begun now; empty when it is."""
        if phase == "apply" and failed > tolerated:
            return "failures"
        if work.stop.is_set():
            return "stopped"
        return "window" if closed(work, wave, phase) else ""

    cut = why()
    with ThreadPoolExecutor(settings.parallel, thread_name_prefix="step") as pool:
        while not cut or flying:
            begun = [] if cut else list(itertools.islice(left, settings.parallel - len(flying)))
            flying |= {pool.submit(_one, work, step, act, silent, faulty) for step in begun}
            if not flying:
                break
            done, flying = wait(flying, return_when=FIRST_COMPLETED)
            outcomes = [future.result() for future in done]
            work.finish(outcomes)
            failed = work.failed(wave)  # of other zones, too
            cut = why() or ("asked" if phase != "revert" and work.watching() else "")
    return {"phase": phase, "hosts": len(waiting), "cut": cut if cut == "failures" or next(left, None) else ""}


def _one(work: Work, step: StepView, act: Act, silent: str, faulty: str) -> StepOutcome:
    """Do one host, and return where it got to."""
    try:
        return act(work, step)
    except RecordFault:
        raise  # not the host's fault: the work stops here and goes on when the record is well again
    except HostChanged as fault:
        return StepOutcome(step.host, "skipped", str(fault))
    except (Unreachable, Refused) as fault:
        return StepOutcome(step.host, silent, str(fault))
    except AgentRefused as fault:
        return StepOutcome(step.host, faulty, str(fault), dict(fault.document), forget_token=True)
    except Fault as fault:
        return StepOutcome(step.host, faulty, str(fault), forget_token=isinstance(fault, StepFailed))
    except Exception as error:  # a bug met on one host must not hold the others
        return StepOutcome(step.host, faulty, f"COR-ROL-099: unexpected {type(error).__name__}: {error}")
