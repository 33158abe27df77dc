"""The agent's refusals: one class per code, each with its remedy. Raises nothing by itself.

They mirror ``btf.fault.Fault``, which needs a newer Python than hosts have. ``exit`` is of the table in
``docs/contracts.md``. Codes 020 and up are not raised: they are the reasons a status gives.
"""

from typing import Any, Dict

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_NO = 3
EXIT_INTERRUPTED = 130


def printable(text: str, limit: int = 400) -> str:
    """Return *text* as one bounded line without control characters."""
    flat = "".join(ch if ch.isprintable() else " " if ch in "\r\n\t" else "\N{REPLACEMENT CHARACTER}" for ch in text)
    flat = " ".join(flat.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"


class Refusal(Exception):
    """An expected error of the agent; *more* goes into the document beside code, message and remedy."""

    code = "COR-AGT-000"
    remedy = "Look at holder.log and journal.jsonl in the program's state directory."
    exit = EXIT_FAILURE

    def __init__(self, message: str, **more: Any) -> None:
        self.message = printable(message)
        self.more: Dict[str, Any] = more
        super().__init__("%s: %s" % (self.code, self.message))

    def document(self, verb: str) -> Dict[str, Any]:
        """Return the JSON document of a refused *verb*."""
        document: Dict[str, Any] = {"schema": "corollout.agent.%s/1" % verb, "ok": False}
        document.update(code=self.code, message=self.message, remedy=self.remedy)
        document.update(self.more)
        return document


class Usage(Refusal):
    """The command line makes no sense."""

    code = "COR-AGT-001"
    exit = EXIT_USAGE
    remedy = "Run the agent with --help."


class SpecMalformed(Refusal):
    """The spec is not one."""

    code = "COR-AGT-002"
    exit = EXIT_USAGE
    remedy = "Make the plan again with the controller that matches this agent; nothing was changed."


class StaleToken(Refusal):
    """A token older than the one this host has seen: its bearer has been replaced."""

    code = "COR-AGT-003"
    exit = EXIT_NO
    remedy = "Another controller or a newer step acts on this host; ask its status and do not repeat the step."


class DigestMismatch(Refusal):
    """Bytes that do not hash to their name."""

    code = "COR-AGT-004"
    exit = EXIT_NO
    remedy = "Stage the artefact again; if it repeats, something on the way or the disk alters bytes."


class KernelDiffers(Refusal):
    """The host runs another kernel than the plan was made for."""

    code = "COR-AGT-005"
    exit = EXIT_NO
    remedy = "Scan the host and plan it again; the build was chosen for another kernel."


class ArtefactAbsent(Refusal):
    """The spec names an artefact that was not staged."""

    code = "COR-AGT-006"
    exit = EXIT_NO
    remedy = "Stage what `agent missing` names, then apply again."


class Rejected(Refusal):
    """The build does not load here; nothing was attached."""

    code = "COR-AGT-007"
    exit = EXIT_NO
    remedy = "See the log; this build is not for this kernel. Do not fall back silently: quarantine it."


class NotAttached(Refusal):
    """It loaded, and did not come up; what it did was undone."""

    code = "COR-AGT-008"
    remedy = "See message and log; the host is as before unless `left` names something."


class Busy(Refusal):
    """Another agent call holds the lock."""

    code = "COR-AGT-009"
    remedy = "Wait for the other call to end, then try again."


class StateUnwritable(Refusal):
    """The state directory could not be read or written."""

    code = "COR-AGT-010"
    remedy = "Free space or correct the permissions of the state directory; what ran goes on running."


class BpffsAbsent(Refusal):
    """Networking programs are pinned, and there is nowhere to pin."""

    code = "COR-AGT-011"
    exit = EXIT_NO
    remedy = "mount -t bpf bpf /sys/fs/bpf"


class NotHere(Refusal):
    """No such program on this host, or nothing of it to act on."""

    code = "COR-AGT-012"
    exit = EXIT_NO
    remedy = "`agent status` lists what is here."


class NothingToConfirm(Refusal):
    """The revert has fired, or the token is not the one that waits."""

    code = "COR-AGT-013"
    exit = EXIT_NO
    remedy = "Ask the status: what was applied may have been undone."


class CannotRun(Refusal):
    """A staged artefact could not be executed."""

    code = "COR-AGT-014"
    remedy = "Is the state directory on a file system mounted noexec, or the runner built for another machine?"


class ScopeUnresolved(Refusal):
    """The scope names a cgroup or network namespace that is not here."""

    code = "COR-AGT-015"
    exit = EXIT_NO
    remedy = "Correct the scope's path for this host."


class Interrupted(Refusal):
    """Someone pressed Ctrl-C."""

    code = "COR-AGT-016"
    exit = EXIT_INTERRUPTED
    remedy = "Repeat the call with the same token: what was done is not done again."


class Unexpected(Refusal):
    """A bug of the agent."""

    code = "COR-AGT-099"
    remedy = "Report it with this message; the state on the host is what `agent status` says."


# Reasons in a status; none of them is raised.
TRIPPED = "COR-AGT-020"
EXPIRED = "COR-AGT-021"
UNCONFIRMED = "COR-AGT-022"
HOLDER_GONE = "COR-AGT-023"
REBOOTED = "COR-AGT-024"
CHILD_ENDED = "COR-AGT-025"
INTERRUPTED = "COR-AGT-026"
NOT_IN_KERNEL = "COR-AGT-027"
KERNEL_CHANGED = "COR-AGT-028"
STAYS_OFF = "COR-AGT-029"
WAITS = "COR-AGT-030"
CRASH_LOOPING = "COR-AGT-031"
