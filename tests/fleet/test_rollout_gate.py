"""``rollout status --gate``: each check with the samples it rests on, held against limit and controls."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from scripted_hosts import SAMPLE, plan_of
from scripted_rollout import Rollout
from test_rollout_service import POLICY, WAVES, felt

from fleet.cli.main import cli


def ask(home: Path, rollout: str, gate: str, *more: str) -> Any:
    return CliRunner().invoke(cli, ["--home", str(home), "rollout", "status", rollout, "--gate", gate, *more])


@pytest.fixture
def halted(tmp_path: Path):
    """Slower by half where it runs, and memory over the budget on none."""
    rollout = Rollout(tmp_path, replace(plan_of(*WAVES, service=POLICY), controls=("f",)))
    rollout.fleet.service = felt(1.5)
    assert rollout.go() == "HALTED"
    yield rollout
    rollout.record.close()


def checks(home: Path, rollout: str) -> dict[str, Any]:
    done = ask(home, rollout, "0", "-o", "json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["schema"] == "corollout.gate/1"
    return {c["name"]: c for c in document["gate"]["checks"]}


def test_a_service_check_shows_every_round_with_its_controls_value(halted: Rollout, tmp_path: Path) -> None:
    check = checks(tmp_path, halted.id)["service-latency"]
    assert (check["answer"], check["limit"], check["unit"]) == ("fail", 5.0, "% slower")
    assert {r["id"] for r in check["rows"]} == set(check["service_samples"])
    ours = [r for r in check["rows"] if r["host"] == "a"]
    assert {r["role"] for r in ours} == {"canary"}
    assert all(r["value"] == pytest.approx(r["control"], rel=0.01) for r in ours if r["moment"] == "before")
    assert all(r["value"] == pytest.approx(1.5 * r["control"], rel=0.01) for r in ours if r["moment"] == "after")
    assert {r["moment"] for r in ours} == {"before", "after"}


def test_a_cost_check_shows_value_against_limit(halted: Rollout, tmp_path: Path) -> None:
    found = checks(tmp_path, halted.id)
    rows = found["cpu"]["rows"]
    assert [(r["host"], r["value"], r["limit"]) for r in rows] == [("a", SAMPLE["cpu_percent"], 1.0)]
    assert rows[0]["control"] is None  # nothing runs there
    assert {r["id"] for r in rows} == set(found["cpu"]["samples"])


def test_an_earlier_build_on_a_control_is_what_a_newer_one_is_held_against(tmp_path: Path) -> None:
    rollout = Rollout(tmp_path, replace(plan_of(*WAVES), controls=("f",)), {"f": {"sample": {"cpu_percent": 0.4}}})
    with rollout.fleet.state("f") as state:
        state |= {"state": "running", "token": 3, "build": "sha256:earlier"}
    rollout.go()
    assert {r["control"] for r in checks(tmp_path, rollout.id)["cpu"]["rows"]} == {0.4}
    rollout.record.close()


def test_a_page_for_a_person(halted: Rollout, tmp_path: Path) -> None:
    done = ask(tmp_path, halted.id, "0")
    assert done.exit_code == 0
    assert done.stdout.startswith(f"{halted.id}: wave 0 (wave 0) fail: service-latency: +50")
    assert "finished: pass: all 1 hosts are done\n" in done.stdout
    assert any(line.split()[:1] == ["HOST"] for line in done.stdout.splitlines())


@pytest.mark.parametrize("wave", ["1", "7", "-1"])
def test_a_wave_without_a_verdict_is_told(halted: Rollout, tmp_path: Path, wave: str) -> None:
    done = ask(tmp_path, halted.id, wave)
    assert "COR-CLI-040" in str(done.exception)
