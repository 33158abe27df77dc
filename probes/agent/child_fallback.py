"""The child that holds a fallback: runs the artefact's ``run(context)`` and speaks the child protocol for it."""

import sys
import traceback
from typing import Any, Dict, List, Mapping, Sequence

from probes.agent import scope as scopes
from probes.agent.faults import printable
from probes.agent.protocol import Channel
from probes.agent.spec import Spec
from probes.agent.state import Place
from probes.agent.store import load_module


class Context:
    """What a fallback sees of the agent. ``directory`` is a folder of its own; ``tag`` marks what it leaves outside."""

    def __init__(self, spec: Spec, place: Place, channel: Channel) -> None:
        self.config: Mapping[str, Any] = spec.config
        self.scope: Dict[str, Any] = scopes.resolve(spec.scope)
        self.host = spec.host
        self.program = spec.program
        self.tag = spec.tag
        self.directory = place.work
        self._channel = channel

    def ready(self, details: Mapping[str, Any]) -> None:
        """Say that it is applied; ``details`` names the hooks."""
        hooks = details.get("hooks", [])
        more = {k: v for k, v in details.items() if k in ("rules",)}
        self._channel.say("ready", programs=[], maps=[], hooks=hooks, **more)

    def stopping(self, timeout_s: float) -> bool:
        """Wait up to *timeout_s* seconds; True when ``run`` must return."""
        for _ in self._channel.orders():
            pass  # a fallback has no orders of its own; its cost is read from /proc
        return self._channel.stopping(timeout_s)

    def emit(self, raw: Mapping[str, Any]) -> None:
        """Emit one raw record."""
        self._channel.say("record", data=raw)

    def lost(self, count: int) -> None:
        """Say that *count* records were lost since the last call."""
        self._channel.say("lost", count=count)

    def counters(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Publish the counters as they stand now."""
        self._channel.say("counters", rows=list(rows))


def check(spec: Spec, place: Place) -> int:
    """Import the module and see that it can be run and undone; applies nothing."""
    channel = Channel()
    try:
        module = load_module(place.root, "module", spec.files["module"])
        scopes.resolve(spec.scope)
        absent = [name for name in ("run", "remove") if not callable(getattr(module, name, None))]
        if absent:
            raise AttributeError("the module does not define %s" % " and ".join(absent))
    except Exception as error:
        return trouble(channel, "load", error)
    channel.say("verified", programs=[], maps=[])
    return 0


def hold(spec: Spec, place: Place) -> int:
    """Run the fallback until the end comes; a tracing fallback undoes itself, a networking one stays in force."""
    channel = Channel()
    try:
        module = load_module(place.root, "module", spec.files["module"])
        context = Context(spec, place, channel)
    except Exception as error:
        return trouble(channel, "load", error)
    status = 0
    try:
        module.run(context)
    except Exception as error:
        status = trouble(channel, "run", error)
    if not spec.static:
        status = _remove(module, context, channel) or status
    channel.say("bye")
    return status


def remove(spec: Spec, place: Place) -> int:
    """Undo all that the fallback can have left; idempotent."""
    channel = Channel()
    try:
        module = load_module(place.root, "module", spec.files["module"])
        status = _remove(module, Context(spec, place, channel), channel)
    except Exception as error:
        return trouble(channel, "remove", error)
    if not status:
        channel.say("detached", removed=[spec.tag])
    return status


def _remove(module: Any, context: Context, channel: Channel) -> int:
    try:
        module.remove(context)
    except Exception as error:
        return trouble(channel, "remove", error)
    return 0


def trouble(channel: Channel, stage: str, error: Exception) -> int:
    """Say what went wrong as an ``error`` event; return the exit status 1."""
    number = getattr(error, "errno", None)
    lines: List[str] = traceback.format_exception(type(error), error, error.__traceback__)
    sys.stderr.write("".join(lines)[-4096:])
    channel.say(
        "error",
        stage=stage,
        errno=_errno_name(number),
        message=printable("%s: %s" % (type(error).__name__, error)),
        log="".join(lines)[-8192:],
        program="",
    )
    return 1


def _errno_name(number: Any) -> str:
    import errno

    return errno.errorcode.get(number, "") if isinstance(number, int) else ""
