"""A rollout's policy as a TOML file: the keys are the fields of ``WaveSettings``, each with its default. Pure.

waves = ["canaries", 3, "5%", {take = "zone:eu1", window = "Sat 08:00-12:00 Europe/Berlin"}, "100%"]
window = "Mon-Fri 22:00-04:00 Europe/Berlin"
failed_percent = 1
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

import msgspec

from btf.fault import EXIT_USAGE, Fault, printable
from fleet.rollout.planning.service import Service
from fleet.rollout.planning.settings import WaveSettings, WaveStep

MAX_BYTES = 256 * 1024
_SETTINGS = tuple(f.name for f in fields(WaveSettings))
_SERVICE = tuple(f.name for f in fields(Service))
_STEP = tuple(f.name for f in fields(WaveStep))


class RolloutPolicyWrong(Fault):
    """A rollout policy that cannot be read."""

    code = "COR-PLN-003"
    exit = EXIT_USAGE
    remedy = "`corollout rollout policy` shows every key with its default."


def read_policy(data: bytes, origin: str) -> dict[str, Any]:
    """Return what the file *data* sets, checked key by key; raises RolloutPolicyWrong naming *origin*."""
    if len(data) > MAX_BYTES:
        raise RolloutPolicyWrong(f"{origin}: larger than {MAX_BYTES} bytes")
    try:
        given = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and TOMLDecodeError are ValueErrors
        raise RolloutPolicyWrong(f"{origin}: not TOML: {error}") from None
    _known(given, _SETTINGS, origin)
    service = given.get("service")
    _known(service if isinstance(service, dict) else (), _SERVICE, f"{origin}: service")
    waves = given.get("waves")
    if waves is not None:
        if not isinstance(waves, list):
            raise RolloutPolicyWrong(f"{origin}: waves must be a list")
        given["waves"] = [_step(step, f"{origin}: waves[{n}]") for n, step in enumerate(waves)]
    try:
        settings_of(given)
    except RolloutPolicyWrong as fault:
        raise RolloutPolicyWrong(f"{origin}: {fault.message}") from None
    return given


def settings_of(given: Mapping[str, Any]) -> WaveSettings:
    """Return the settings that *given* makes of the defaults; raises RolloutPolicyWrong or what a value is wrong by."""
    try:
        return msgspec.convert(dict(given), WaveSettings)
    except msgspec.ValidationError as error:
        raise RolloutPolicyWrong(str(error).replace("`$.", "`")) from None


def _step(step: object, place: str) -> dict[str, Any]:
    if isinstance(step, str) or (isinstance(step, int) and not isinstance(step, bool) and step > 0):
        return {"take": str(step)}
    if not isinstance(step, dict):
        raise RolloutPolicyWrong(
            f"{place}: {printable(repr(step), 60)} is no wave: a number, a text, or a table with `take`"
        )
    _known(step, _STEP, place)
    take = step.get("take")
    return {**step, "take": str(take)} if isinstance(take, int) else dict(step)


def _known(given: Iterable[str], known: tuple[str, ...], place: str) -> None:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(known)}"
            raise RolloutPolicyWrong(f"{place}: no key is called {printable(key, 60)!r}; {hint}")


def policy_schema() -> dict[str, Any]:
    """Return the JSON schema of a policy file."""
    schema = msgspec.json.schema(WaveSettings)
    for part in schema["$defs"].values():
        part["additionalProperties"] = False
    waves = schema["$defs"]["WaveSettings"]["properties"]["waves"]
    waves["items"] = {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 1}, waves["items"]]}
    return schema
