"""The spec is strict, and whatever else arrives gets one clear answer with a code."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from agent_host import AgentHost
from hypothesis import given
from hypothesis import strategies as st

from probes.agent import main, store
from probes.agent.faults import Refusal, SpecMalformed
from probes.agent.guard import DEFAULTS
from probes.agent.scope import build_id
from probes.agent.spec import BUDGET, FIELDS, check_spec, parse_spec
from probes.manifest import Budget


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return AgentHost(tmp_path_factory.mktemp("host")).spec()


def test_a_good_spec_is_itself(good: dict[str, Any]) -> None:
    spec = check_spec(good)
    assert spec.document() == good
    assert spec.digest == parse_spec(json.dumps(good, indent=3).encode()).digest
    assert spec.tag == "corollout:sample-trace:1"


@pytest.mark.parametrize("key", sorted(set(FIELDS) - {"restart"}))
def test_every_key_is_needed_and_checked(good: dict[str, Any], key: str) -> None:
    with pytest.raises(SpecMalformed, match=key):
        check_spec({k: v for k, v in good.items() if k != key})
    with pytest.raises(SpecMalformed, match=key):
        check_spec({**good, key: object()})


@pytest.mark.parametrize(
    "change",
    [
        {"surprise": 1},
        {"program": "../../etc"},
        {"program": "a/b"},
        {"generation": True},
        {"files": {"module": "abc"}},
        {"files": {}},
        {"files": {"module": "0" * 64, "kernel": "0" * 64}},
        {"variant": "core"},
        {"variant": "core-btf", "files": {"object": "0" * 64, "runner": "0" * 64}},
        {"scope": {}},
        {"scope": {"kind": "cgroup", "path": "relative"}},
        {"lease_s": float("nan")},
        {"lease_s": -1},
        {"optional": ["--pin"]},
        {"record": "a b"},
        {"host": "-rf"},
    ],
)
def test_a_spec_that_could_do_harm_is_refused(good: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises(SpecMalformed):
        check_spec({**good, **change})


@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(SpecMalformed):
        parse_spec(data)


def test_a_truncated_or_deep_spec_is_refused(good: dict[str, Any]) -> None:
    whole = json.dumps(good).encode()
    for end in range(0, len(whole), 37):
        with pytest.raises(SpecMalformed):
            parse_spec(whole[:end])
    with pytest.raises(SpecMalformed):
        parse_spec(b"[" * 100_000)


def test_the_budget_is_the_manifests(good: dict[str, Any]) -> None:
    import msgspec

    assert set(BUDGET) == {field.name for field in msgspec.structs.fields(Budget)}
    check_spec({**good, "budget": msgspec.to_builtins(Budget())})


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], "COR-AGT-001"),
        (["explode"], "COR-AGT-001"),
        (["apply"], "COR-AGT-001"),
        (["apply", "--spec", "/nowhere", "--token", "1"], "COR-AGT-001"),
        (["apply", "--spec", "/dev/null", "--token", "1"], "COR-AGT-002"),
        (["status", "--program", "../x"], "COR-AGT-001"),
        (["missing", "nonsense"], "COR-AGT-001"),
    ],
)
def test_usage_is_answered_as_a_document(
    arguments: list[str], code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main([*arguments, "--state", str(tmp_path)] if arguments else []) == 2
    answer = json.loads(capsys.readouterr().out)
    assert (answer["ok"], answer["code"]) == (False, code) and answer["message"] and answer["remedy"]


def test_confirm_and_renew_of_nothing_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code in (
        (["confirm", "--program", "x", "--token", "1"], "COR-AGT-013"),
        (["renew", "--program", "x", "--lease-s", "5"], "COR-AGT-012"),
    ):
        assert main.main([*arguments, "--state", str(tmp_path)]) == 3
        assert json.loads(capsys.readouterr().out)["code"] == code


def test_every_refusal_has_a_code_and_a_remedy_of_its_own() -> None:
    found: list[type[Refusal]] = []
    waiting = [Refusal]
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting += one.__subclasses__()
    codes = [one.code for one in found]
    assert len(set(codes)) == len(codes) > 10
    assert all(re.fullmatch(r"COR-AGT-0\d\d", code) for code in codes)
    assert all(one.remedy and one.exit in (1, 2, 3, 130) for one in found)


def test_an_artefact_that_unpacks_for_ever_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zlib

    monkeypatch.setattr(store, "MAX_ARTEFACT", 1 << 20)
    packed = zlib.compress(bytes(64 << 20), 9)
    with pytest.raises(Refusal, match="more than"):
        store.stage(str(tmp_path), "a" * 64, io.BytesIO(packed))
    assert not (tmp_path / "artefacts").exists()


def test_the_build_id_is_found_among_other_notes() -> None:
    def note(name: bytes, kind: int, data: bytes) -> bytes:
        pad = bytes(-len(name) % 4)
        return b"".join(n.to_bytes(4, "little") for n in (len(name), len(data), kind)) + name + pad + data

    wanted = bytes(range(20))
    assert build_id(note(b"Xen\0", 3, b"abcd") + note(b"GNU\0", 3, wanted)) == wanted.hex()
    assert build_id(note(b"GNU\0", 1, wanted)) is None
    assert build_id(b"\x04\0\0\0\xff") is None


@pytest.mark.parametrize("restart", [{"limit": -1}, {"limit": 1.5}, {"pause": 1}, {"healthy_s": 0}, [], "often"])
def test_restarts_are_bounded_and_may_be_left_out(good: dict[str, Any], restart: Any) -> None:
    good.pop("restart", None)
    spec = check_spec(good)
    assert spec.restarts == DEFAULTS and "restart" not in spec.document()
    assert check_spec({**good, "restart": {"limit": 0}}).restarts["limit"] == 0
    with pytest.raises(SpecMalformed, match="restart"):
        check_spec({**good, "restart": restart})
