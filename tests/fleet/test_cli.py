"""The command's frame: what start-up loads, how errors look, which exit code they carry."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fleet.cli.codes import all_codes
from fleet.cli.main import VERBS, run

HEAVY = ("sqlalchemy", "textual", "ansible", "dbos", "paramiko")


def corollout(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        run(list(arguments))
    out, err = capsys.readouterr()
    code = ended.value.code
    assert isinstance(code, int)
    return code, out, err


@pytest.mark.parametrize("arguments", [["--help"], ["version"], ["programs", "list"], ["check", "--help"]])
def test_light_verbs_load_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom fleet.cli.main import run\n"
        f"try:\n    run({arguments!r})\nexcept SystemExit as e:\n    assert not e.code, e.code\n"
        f"print('LOADED', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_every_verb_of_the_table_loads_and_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = corollout("--help", capsys=capsys)
    assert code == 0
    for verb in VERBS:
        assert f"  {verb} " in out
        assert corollout(verb, "--help", capsys=capsys)[0] == 0


def test_a_missing_home_is_one_line_with_a_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = corollout("--home", str(tmp_path / "none"), "hosts", "list", capsys=capsys)
    assert (code, out) == (2, "")
    first, second = err.splitlines()
    assert first.startswith("COR-CLI-010: ")
    assert "corollout init" in second


def test_usage_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert corollout("hosts", "scan", "--parallel", "0", capsys=capsys)[0] == 2
    assert corollout("nonsense", capsys=capsys)[0] == 2


def test_a_bug_is_one_line_and_debug_shows_it_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_settings: object) -> None:
        raise ValueError("two\nlines \x1b[31m")

    monkeypatch.setattr("fleet.cli.settings.Settings.catalogue", broken)
    code, _, err = corollout("programs", "list", capsys=capsys)
    assert code == 1
    assert err.splitlines()[0] == "COR-CLI-001: ValueError: two lines \N{REPLACEMENT CHARACTER}[31m"
    with pytest.raises(ValueError, match="two"):
        run(["--debug", "programs", "list"])


def test_codes_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = corollout("explain", "COR-SSH-012", "-o", "json", capsys=capsys)
    assert code == 0
    assert json.loads(out)["schema"] == "corollout.code/1"
    code, _, err = corollout("explain", "COR-SSH-912", capsys=capsys)
    assert code == 2
    assert "did you mean COR-SSH-" in err


def test_every_code_has_one_class_a_meaning_and_a_remedy() -> None:
    codes = all_codes()
    assert len(codes) > 30
    for meaning in codes.values():
        assert meaning.code.startswith("COR-")
        assert len(meaning.meaning) > 10, meaning
        assert len(meaning.remedy) > 10, meaning


def test_no_two_classes_share_a_code_by_accident() -> None:
    from btf.fault import Fault
    from fleet.cli.codes import _descendants

    all_codes()
    owners: dict[str, type] = {}
    for kind in _descendants(Fault):
        code = vars(kind).get("code")
        if code is not None:
            assert code not in owners, f"{kind} and {owners[code]} are both {code}"
            owners[code] = kind


def test_init_makes_a_home_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    assert corollout("--home", str(home), "init", "--check", capsys=capsys)[0] == 0
    assert not home.exists()
    for _ in range(2):
        assert corollout("--home", str(home), "init", capsys=capsys)[0] == 0
    assert (home / "fleet.db").exists()
    code, out, _ = corollout("--home", str(home), "hosts", "list", "-o", "json", capsys=capsys)
    assert (code, json.loads(out)) == (0, {"schema": "corollout.hosts/1", "hosts": []})
