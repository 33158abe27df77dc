"""The agent's command line: one row per verb, one JSON document on stdout, an exit code of the shared table."""

import argparse
import importlib
import json
import os
import signal
import socket
import sys
from typing import Any, Callable, Dict, List, NamedTuple, NoReturn, Optional, Sequence, Tuple

from probes.agent import calibrate, compiled, residue, revert, store, supervise, units
from probes.agent.apply import CHECKS, Attempt, apply, lease
from probes.agent.boot import after_boot, attach_waiting
from probes.agent.faults import EXIT_FAILURE, Interrupted, NotHere, Refusal, StateUnwritable, Unexpected, Usage
from probes.agent.hold import Holder
from probes.agent.process import own_command
from probes.agent.records import read_records
from probes.agent.remove import remove
from probes.agent.spec import MAX_SPEC, Spec, check_program, parse_spec
from probes.agent.state import DEFAULT_ROOT, Place, locked, programs, read_json
from probes.agent.status import standing, status_document
from probes.agent.variant import Site
from probes.agent.verify import verify_load

Answer = Optional[Dict[str, Any]]
_MAX_RECORDS = 100_000


def _place(options: argparse.Namespace) -> Place:
    return Place(options.state, check_program(options.program))


def _spec(options: argparse.Namespace) -> Spec:
    try:
        if options.spec == "-":
            return parse_spec(sys.stdin.buffer.read(MAX_SPEC + 1))
        with open(options.spec, "rb") as file:
            return parse_spec(file.read(MAX_SPEC + 1))
    except OSError as error:
        raise Usage("%s: %s" % (options.spec, error.strerror)) from None


def _missing(options: argparse.Namespace) -> Answer:
    return {"missing": store.missing(options.state, options.digest)}


def _stage(options: argparse.Namespace) -> Answer:
    size = store.stage(options.state, options.digest, sys.stdin.buffer)
    compiled.keep()
    return {"digest": options.digest, "size": size}


def _check(options: argparse.Namespace) -> Answer:
    spec = _spec(options)
    place = Place(options.state, spec.program)
    place.make()
    attempt = Attempt(place, spec, 0, {})
    for step in CHECKS[:-1]:
        step.do(attempt)
    return verify_load(attempt.site)


def _apply(options: argparse.Namespace) -> Answer:
    spec = _spec(options)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the session may drop in the middle; half an apply may not
    with locked(options.state, options.wait_s):
        residue.register(options.state)
        answer = apply(Place(options.state, spec.program), spec, options.token)
        supervise.ensure(options.state)
        compiled.keep()
        return answer


def _remove(options: argparse.Namespace) -> Answer:
    place = _place(options)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with locked(options.state, options.wait_s):
        return remove(place, options.token)


def _confirm(options: argparse.Namespace) -> Answer:
    place = _place(options)
    with locked(options.state, options.wait_s):
        return {"program": place.program, "already": not revert.confirm(place, options.token)}


def _renew(options: argparse.Namespace) -> Answer:
    place = _place(options)
    with locked(options.state, options.wait_s):
        state = read_json(place.state) or {}
        stands = standing(place, state)
        if stands.state != "running":
            raise NotHere("%s is %s, so there is no lease to renew" % (place.program, stands.state))
        return {"program": place.program, "expires": lease(place, options.lease_s)}


def _status(options: argparse.Namespace) -> Answer:
    document = status_document(options.state, check_program(options.program) if options.program else None)
    document["supervisor"] = supervise.description(options.state)
    if not options.program:
        document["residue"] = residue.told(options.state)
    return document


def _boot(options: argparse.Namespace) -> Answer:
    names = [check_program(options.program)] if options.program else programs(options.state)
    if options.yes and not options.program:
        raise Usage("--yes is for one program: name it with --program")
    with locked(options.state, options.wait_s):
        places = [Place(options.state, name) for name in names]
        found = {p.program: attach_waiting(p) if options.yes else after_boot(p) for p in places}
        supervise.ensure(options.state)
    return {"programs": {name: state for name, state in found.items() if state}}


def _supervise(options: argparse.Namespace) -> Answer:
    return {"already": not supervise.run(options.state)}


def _clean(options: argparse.Namespace) -> Answer:
    with locked(options.state, options.wait_s):
        return residue.clean(options.state, older_s=options.older_s, check=options.check)


def _records(options: argparse.Namespace) -> Answer:
    limit = max(1, min(options.limit, _MAX_RECORDS))
    for record in read_records(_place(options).records, options.since, limit):
        sys.stdout.write(json.dumps(record, separators=(",", ":")) + "\n")
    return None


def _facts(_options: argparse.Namespace) -> Answer:
    from inventory.collector.main import collect

    return dict(collect())


def _ask(options: argparse.Namespace) -> Answer:
    from probes.agent import ask as service  # brings HTTP along: 3 MiB that no other verb needs

    return service.ask(options.state, service.read_question(options.question))


def _calibrate(options: argparse.Namespace) -> Answer:
    return calibrate.measure(options.state, options.runner or calibrate.any_runner(options.state))


def _hold(options: argparse.Namespace) -> Answer:
    site = Site(_spec(options), _place(options), options.spec)
    control = socket.socket(fileno=options.control)
    try:
        holder = Holder(site, control)
    except Exception as error:
        message = error.message if isinstance(error, Refusal) else "%s: %s" % (type(error).__name__, error)
        control.sendall(json.dumps({"event": "error", "message": message}).encode() + b"\n")
        raise
    sys.exit(holder.run())


def _revert(options: argparse.Namespace) -> Answer:
    return {"reverted": revert.wait_and_revert(_place(options), options.token)}


def _child(options: argparse.Namespace) -> Answer:
    kind = importlib.import_module("probes.agent.child_" + options.kind)  # the one that this process is
    sys.exit(getattr(kind, options.action)(_spec(options), _place(options)))


class Verb(NamedTuple):
    """One verb: what does it, its arguments, its help; without help it is the agent's own."""

    do: Callable[[argparse.Namespace], Answer]
    arguments: Tuple[Tuple[str, Dict[str, Any]], ...]
    help: Optional[str] = None
    scoped: bool = False  # what it starts outlives the session it is called from


_SPEC = ("--spec", {"required": True, "metavar": "FILE"})
_PROGRAM = ("--program", {"required": True})
_TOKEN = ("--token", {"required": True, "type": int})
_WAIT = ("--wait-s", {"type": float, "default": 120.0, "help": "how long to wait for the lock, in seconds"})

_KINDS = (("kind", {"choices": ("bcc", "fallback")}), ("action", {"choices": ("check", "hold", "remove")}))

VERBS: Dict[str, Verb] = {
    "missing": Verb(_missing, (("digest", {"nargs": "*"}),), "which artefacts are not here"),
    "stage": Verb(_stage, (("digest", {}),), "store one artefact, zlib-compressed on stdin"),
    "check": Verb(_check, (_SPEC,), "load a build without attaching it"),
    "apply": Verb(_apply, (_SPEC, _TOKEN, _WAIT), "bring a spec to run, idempotently", scoped=True),
    "confirm": Verb(_confirm, (_PROGRAM, _TOKEN, _WAIT), "cancel the revert timer"),
    "renew": Verb(_renew, (_PROGRAM, ("--lease-s", {"required": True, "type": float}), _WAIT), "extend a lease"),
    "status": Verb(_status, (("--program", {}),), "what stands, observed"),
    "boot": Verb(
        _boot,
        (("--program", {}), ("--yes", {"action": "store_true", "help": "attach the one that waits"}), _WAIT),
        "do what each spec says after a reboot",
        scoped=True,
    ),
    "clean": Verb(
        _clean,
        (
            ("--check", {"action": "store_true", "help": "only list it"}),
            ("--older-s", {"type": float, "default": 86400.0, "help": "how old files that nobody names must be"}),
            _WAIT,
        ),
        "remove what is ours and belongs to no program",
    ),
    "records": Verb(
        _records,
        (_PROGRAM, ("--since", {"type": int}), ("--limit", {"type": int, "default": 1000})),
        "records as JSON lines, newest last",
    ),
    "remove": Verb(_remove, (_PROGRAM, _TOKEN, _WAIT), "undo everything of a program"),
    "facts": Verb(_facts, (), "what this host can do"),
    "ask": Verb(
        _ask, (("--question", {"required": True, "metavar": "FILE"}),), "ask a service here, and how long it takes"
    ),
    "calibrate": Verb(_calibrate, (("--runner", {"metavar": "DIGEST"}),), "measure what attaching costs here"),
    "hold": Verb(_hold, (_SPEC, _PROGRAM, ("--control", {"type": int}))),
    "supervise": Verb(_supervise, ()),
    "revert": Verb(_revert, (_PROGRAM, _TOKEN)),
    "child": Verb(_child, _KINDS + (_SPEC, _PROGRAM)),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Usage(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="agent", description="Corollout's host agent.")
    parser.add_argument("--state", default=os.environ.get("COROLLOUT_STATE", DEFAULT_ROOT), metavar="DIR")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=_Parser)
    for name, verb in VERBS.items():
        one = verbs.add_parser(name, help=verb.help) if verb.help else verbs.add_parser(name)
        one.add_argument("--state", default=argparse.SUPPRESS, metavar="DIR")
        for flag, settings in verb.arguments:
            one.add_argument(flag, **settings)
    return parser


def main(argv: Sequence[str]) -> int:
    """Run one verb; return its exit code. Everything the caller needs is on stdout."""
    verb = "agent"
    try:
        options = _parser().parse_args(list(argv))
        if not options.verb:
            raise Usage("no verb given; there are " + ", ".join(n for n, v in VERBS.items() if v.help))
        verb = options.verb
        options.state = os.path.abspath(options.state)
        if VERBS[verb].scoped:
            units.into_scope("corollout-" + verb, own_command(*argv))
        answer = VERBS[verb].do(options)
    except Refusal as refusal:
        return _refuse(verb, refusal)
    except OSError as error:
        return _refuse(verb, StateUnwritable("%s: %s" % (error.filename or "input or output", error.strerror)))
    except KeyboardInterrupt:
        return _refuse(verb, Interrupted("interrupted; ask the status for what stands"))
    except Exception as error:  # the caller parses one document whatever happens; the trace goes to stderr
        import traceback

        traceback.print_exc()
        return _refuse(verb, Unexpected("%s: %s" % (type(error).__name__, error)))
    if answer is not None:
        document = {"schema": "corollout.agent.%s/1" % verb, "ok": True}
        document.update(answer)
        return _print(document, 0)
    return _print(None, 0)


def _refuse(verb: str, refusal: Refusal) -> int:
    return _print(refusal.document(verb), refusal.exit)


def _print(document: Optional[Dict[str, Any]], status: int) -> int:
    try:
        if document is not None:
            sys.stdout.write(json.dumps(document) + "\n")
        sys.stdout.flush()
    except (OSError, ValueError):
        return status or EXIT_FAILURE
    return status


def run(argv: Optional[List[str]] = None) -> NoReturn:
    """Entry point of the zipapp."""
    os.umask(0o077)
    sys.exit(main(sys.argv[1:] if argv is None else argv))
