"""``corollout plan``, ``pin`` and ``rollout start`` as they are typed: files, differences, stale plans, replanning."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from console_fleet import Scan, case_of, make_lab
from decide_cases import facts

from fleet.cli import rollout_start
from fleet.cli.main import run
from fleet.record import Record, open_record
from fleet.rollout.planning.freeze import PlanImpossible
from inventory.host import Host

Answer = tuple[int, str, str]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    make_lab(tmp_path / "home" / "fleet.db").close()
    return tmp_path / "home"


@pytest.fixture
def corollout(home: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    def typed(*arguments: str | Path) -> Answer:
        with pytest.raises(SystemExit) as ended:
            run(["--home", str(home), *map(str, arguments)])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return typed


@pytest.fixture
def driven(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The rollouts that would be driven; carrying them out is tested elsewhere."""
    ids: list[str] = []
    monkeypatch.setattr(rollout_start, "drive", lambda _settings, rollout_id, **_way: ids.append(rollout_id) or 0)
    return ids


def test_a_pin_to_what_cannot_run_there_leaves_the_host_out(corollout: Any) -> None:
    assert "blocked there" in corollout("pin", "plain-1", "tcp-flow", "--variant", "bcc")[2]
    document = json.loads(corollout("plan", "tcp-flow", "--check", "-o", "json")[1])
    left = {s["host"]: s["detail"] for s in document["skipped"] if s["code"] == "pinned"}
    assert left["plain-1"].startswith("to bcc, which is blocked here: no reason given (")


def a_record(home: Path) -> Record:
    return open_record(home / "fleet.db")


def planned(document: dict[str, Any]) -> set[str]:
    return {h["host"] for w in document["waves"] for h in w["hosts"]}


def rescan(home: Path, name: str) -> None:
    """Another boot of the same host: other facts, undecided."""
    case = case_of("lab-plain")
    changed = facts({**case.get("changes", {}), "sysctl.kernel.perf_event_paranoid": {"answer": "yes", "value": 4}})
    with a_record(home) as record:
        record.record_scan(Scan(Host(name), changed))


def test_a_plan_is_a_file_that_start_takes(corollout: Any, home: Path, tmp_path: Path, driven: list[str]) -> None:
    code, out, _ = corollout("plan", "tcp-flow", "--out", tmp_path / "plan.json", "-o", "json")
    assert code == 0
    document = json.loads((tmp_path / "plan.json").read_text())
    assert document == json.loads(out)
    assert planned(document) >= {"plain-1", "plain-2"}
    assert corollout("rollout", "start", tmp_path / "plan.json", "--check")[0] == 0
    assert corollout("rollout", "start", tmp_path / "plan.json", "--yes")[0] == 0
    with a_record(home) as record:
        assert record.rollout(driven[0]).plan_id == document["id"]


def test_a_changed_file_is_refused(corollout: Any, tmp_path: Path, driven: list[str]) -> None:
    corollout("plan", "tcp-flow", "--out", tmp_path / "plan.json")
    text = (tmp_path / "plan.json").read_text()
    (tmp_path / "plan.json").write_text(text.replace('"bake_s":300.0', '"bake_s":3.0'))
    code, out, err = corollout("rollout", "start", tmp_path / "plan.json", "--yes")
    assert (code, out) == (2, "")
    assert err.startswith("COR-PLN-010: plan tcp-flow-")
    assert driven == []


def test_a_stale_plan_names_its_hosts_and_can_be_made_anew(
    corollout: Any, home: Path, tmp_path: Path, driven: list[str]
) -> None:
    corollout(
        "plan", "tcp-flow", "--window", "daily 01:00-02:00 UTC", "--out", tmp_path / "plan.json", "--parallel", "3"
    )
    rescan(home, "plain-1")
    code, _, err = corollout("rollout", "start", tmp_path / "plan.json", "--yes")
    assert code == 3
    assert "COR-PLN-002" in err
    assert "plain-1 (facts-changed)" in err
    code, out, err = corollout("rollout", "start", tmp_path / "plan.json", "--replan", "--yes")
    assert code == 0
    assert ["plain-1", "removed"] in [line.split()[:2] for line in out.splitlines()]
    assert "are planned otherwise than in tcp-flow-" in err
    with a_record(home) as record:
        document = record.plan(record.rollout(driven[0]).plan_id).document
    assert "plain-1" not in planned(document)
    assert (document["settings"]["window"], document["settings"]["parallel"]) == ("daily 01:00-02:00 UTC", 3)


def test_missing_artefacts_are_refused(corollout: Any, home: Path, driven: list[str]) -> None:
    plan_id = json.loads(corollout("plan", "tcp-flow", "-o", "json")[1])["id"]
    next(iter((home / "artefacts").iterdir())).unlink()
    code, _, err = corollout("rollout", "start", plan_id, "--yes")
    assert code == 1
    assert "COR-ROL-022" in err
    assert driven == []


def test_a_policy_file_and_options_that_win_over_it(corollout: Any, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('waves = ["name=plain-2", 1]\nbake_s = 5\nparallel = 2\nexclude = "name=no-python"\n')
    code, out, _ = corollout(
        "plan", "tcp-flow", "--rollout-policy", policy, "--bake", "7", "--controls", "0", "--check", "-o", "json"
    )
    document = json.loads(out)
    assert code == 0
    assert document["settings"] | {"bake_s": 7.0, "parallel": 2, "control_hosts": 0} == document["settings"]
    assert {s["host"]: s["code"] for s in document["skipped"]}["no-python"] == "excluded"
    policy.write_text("bake = 5\n")
    code, out, err = corollout("plan", "tcp-flow", "--rollout-policy", policy)
    assert (code, out) == (2, "")
    assert "did you mean bake_s?" in err
    assert corollout("plan", "tcp-flow", "--rollout-policy", tmp_path / "none.toml")[2].startswith("COR-PLN-005")


def test_the_policy_is_shown_with_its_defaults(corollout: Any, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("failed_percent = 1\n")
    code, out, _ = corollout("rollout", "policy", policy)
    assert code == 0
    assert [line.split() for line in out.splitlines() if line.startswith("failed_percent")] == [
        ["failed_percent", "1.0", "file"]
    ]
    assert json.loads(corollout("rollout", "policy", "--schema")[1])["$defs"]["WaveSettings"]
    assert json.loads(corollout("rollout", "policy", policy, "-o", "json")[1])["failed_percent"] == 1.0


def test_pins_hold_hosts_in_plans_until_they_are_taken_back(corollout: Any, home: Path) -> None:
    assert corollout("pin", "plain-1", "tcp-flow", "--reason", "audit", "--check")[0] == 0
    assert corollout("pins", "-o", "json")[1] == '{\n  "schema": "corollout.pins/1",\n  "pins": []\n}\n'
    assert corollout("pin", "plain-1", "tcp-flow", "--reason", "audit")[0] == 0
    assert corollout("pin", "plain-2", "tcp-flow", "--variant", "fallback")[0] == 0
    document = json.loads(corollout("plan", "tcp-flow", "--check", "-o", "json")[1])
    left = {s["host"]: (s["code"], s["detail"]) for s in document["skipped"]}
    assert left["plain-1"][0] == "pinned"
    assert "audit" in left["plain-1"][1]
    variants = {h["host"]: h["variant"] for w in document["waves"] for h in w["hosts"]}
    assert variants["plain-2"] == "fallback"
    with a_record(home) as record:
        assert [e.verb for e in record.events(0, 100) if e.host in ("plain-1", "plain-2")][-2:] == ["pin", "pin"]
    assert corollout("unpin", "plain-1", "tcp-flow")[0] == 0
    assert "plain-1" in planned(json.loads(corollout("plan", "tcp-flow", "--check", "-o", "json")[1]))
    assert corollout("unpin", "plain-1", "tcp-flow")[0] != 0
    assert corollout("pin", "nobody", "tcp-flow")[0] != 0


def test_exit_code_and_difference_of_plans(corollout: Any, home: Path, tmp_path: Path) -> None:
    code, _, err = corollout("plan", "tcp-flow", "--exit-code", "--out", tmp_path / "one.json")
    assert code == 3, "hosts would run something new"
    code, out, err = corollout("plan", "tcp-flow", "--diff", tmp_path / "one.json", "--exit-code", "--check")
    assert (code, out) == (0, "")
    assert "as planned in tcp-flow-" in err
    corollout("plan", "tcp-flow", "--exclude", "name=plain-1", "--out", tmp_path / "two.json")
    code, out, _ = corollout("plan", tmp_path / "two.json", "--diff", tmp_path / "one.json", "--exit-code")
    assert code == 3
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [
        ["plain-1", "removed"], ["plain-2", "wave"], ["seccomp-enosys", "wave"]
    ]  # fmt: skip


def test_what_hosts_run_already_is_unchanged(corollout: Any, home: Path, driven: list[str]) -> None:
    plan_id = json.loads(corollout("plan", "tcp-flow", "-o", "json")[1])["id"]
    corollout("rollout", "start", plan_id, "--yes")
    with a_record(home) as record:
        for step in record.steps(driven[0]):
            record.begin_step(driven[0], step.host)
            record.finish_step(driven[0], step.host, "attached")
    code, out, _ = corollout("plan", "tcp-flow", "--check", "--exit-code", "-o", "json")
    document = json.loads(out)
    assert code == 0
    assert document["waves"] == []
    assert {s["code"] for s in document["skipped"] if s["host"] in ("plain-1", "plain-2")} == {"unchanged"}
    changed = json.loads(corollout("plan", "tcp-flow", "--check", "--budget", "cpu_percent=50", "-o", "json")[1])
    assert {h["change"] for w in changed["waves"] for h in w["hosts"]} == {"configure"}


def test_check_keeps_nothing(corollout: Any, home: Path, tmp_path: Path) -> None:
    assert corollout("plan", "tcp-flow", "--check", "--out", tmp_path / "p.json")[0] == 0
    assert not (tmp_path / "p.json").exists()
    with a_record(home) as record:
        assert record.plans() == []


def test_an_unwritable_file_and_an_unknown_plan_are_refused(corollout: Any, tmp_path: Path) -> None:
    assert corollout("plan", "tcp-flow", "--out", tmp_path / "no" / "where.json")[2].count("COR-PLN-012") == 1
    assert "no plan is called 'what'" in corollout("rollout", "start", "what", "--yes")[2]
    assert corollout("plan", "tcp-flow", "--scope", "cgroup")[0] in (0, PlanImpossible.exit)
