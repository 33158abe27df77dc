"""The variants as rows: which child holds one, which checks one, which undoes what one left. Starts nothing."""

import os
import re
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional

from probes.agent import scope as scopes
from probes.agent.faults import NotAttached
from probes.agent.process import own_command
from probes.agent.spec import Spec
from probes.agent.state import Place, make_folder, write_bytes
from probes.agent.store import artefact, load_module

_MAP = re.compile(r"[A-Za-z0-9_.]{1,63}\Z")


class Site(NamedTuple):
    """One spec at its place, with the file it was written to."""

    spec: Spec
    place: Place
    spec_file: str


Command = Callable[[Site], List[str]]


class Variant(NamedTuple):
    """One row. ``undo`` is None when nothing can be left; ``metered`` children answer `sample`; times in seconds.

    ``memory_mib`` bounds what a child may have for itself, None leaves it to the budget; ``costly`` checks are not
    repeated within a boot.
    """

    hold: Command
    check: Command
    undo: Callable[[Site], Optional[List[str]]]
    metered: bool
    check_s: float
    ready_s: float
    memory_mib: Optional[int] = None
    costly: bool = False


def adapter(site: Site) -> Any:
    """Return the adapter module of the spec, or None when it has none."""
    digest = site.spec.files.get("adapter")
    return load_module(site.place.root, "adapter", digest) if digest else None


def core_arguments(site: Site) -> Mapping[str, Any]:
    """Return what the adapter wants the runner told: ``set``, ``fill``, ``attach``, ``carry``."""
    module = adapter(site)
    function = getattr(module, "core_arguments", None)
    if function is None:
        return {}
    try:
        wanted = function(site.spec.config, scopes.resolve(site.spec.scope))
    except Exception as error:  # the adapter is the program's code: whatever it raises is a refusal, not our crash
        raise NotAttached("the adapter refuses the configuration: %s: %s" % (type(error).__name__, error)) from None
    return wanted if isinstance(wanted, dict) else {}


def _runner(site: Site) -> str:
    return artefact(site.place.root, site.spec.files["runner"])


def _object(site: Site) -> List[str]:
    words = [artefact(site.place.root, site.spec.files["object"])]
    if site.spec.btf:
        words += ["--btf", artefact(site.place.root, site.spec.btf)]
    for name in site.spec.optional:
        words += ["--optional", name]
    return words


def _hold_core(site: Site) -> List[str]:
    words = [_runner(site), "hold"] + _object(site)
    if site.spec.record:
        words += ["--record", site.spec.record]
    wanted = core_arguments(site)
    for text in wanted.get("set", ()):
        words += ["--set", text]
    for name, rows in sorted(wanted.get("fill", {}).items()):
        words += ["--fill", "%s=%s" % (name, _fill_file(site, name, rows))]
    for text in wanted.get("attach", ()):
        words += ["--attach", text]
    for name in wanted.get("carry", ()):
        words += ["--carry", name]
    if site.spec.static:
        folder = scopes.pin_folder(site.spec.program)
        make_folder(os.path.dirname(folder))
        words += ["--pin", folder, "--keep"]
    return words


def _fill_file(site: Site, name: str, rows: Any) -> str:
    if not _MAP.match(name):
        raise NotAttached("the adapter names an impossible map %r" % name)
    path = os.path.join(site.place.work, "fill.%s.%d" % (name, site.spec.generation))
    write_bytes(path, b"".join(b"%s %s\n" % (k.hex().encode(), v.hex().encode()) for k, v in rows), durable=False)
    return path


def _check_core(site: Site) -> List[str]:
    return [_runner(site), "verify"] + _object(site)


def _undo_core(site: Site) -> Optional[List[str]]:
    if not site.spec.static:
        return None  # links and perf events die with the runner
    words = [_runner(site), "detach", "--pin", scopes.pin_folder(site.spec.program)]
    try:
        attachments = core_arguments(site).get("attach", ())
    except NotAttached:
        attachments = ()  # the interface is gone, and its filters with it
    for text in attachments:
        words += ["--attach", text]
    return words


def _child(kind: str, action: str) -> Command:
    return lambda site: own_command(
        "child", kind, action, "--state", site.place.root, "--program", site.spec.program, "--spec", site.spec_file
    )


_CORE = Variant(_hold_core, _check_core, _undo_core, metered=True, check_s=60, ready_s=30)

VARIANTS: Dict[str, Variant] = {
    "core": _CORE,
    "core-btf": _CORE,
    # A compile takes 2 s and 90 MiB of its own on a machine of today; on an emulated one with a busy host, minutes.
    "bcc": Variant(
        _child("bcc", "hold"),
        _child("bcc", "check"),
        _child("bcc", "remove"),
        metered=True,
        check_s=600,
        ready_s=600,
        memory_mib=512,
        costly=True,
    ),
    "fallback": Variant(
        _child("fallback", "hold"),
        _child("fallback", "check"),
        _child("fallback", "remove"),
        metered=False,
        check_s=30,
        ready_s=30,
    ),
}


def same_family(one: Spec, other: Spec) -> bool:
    """Tell whether holding *other* replaces what *one* left in place, so that it must not be undone afterwards."""
    return VARIANTS[one.variant] is VARIANTS[other.variant]
