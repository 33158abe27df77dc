"""Prediction equals reality on kernels that no package has: without bpf(), and with BPF as it was before 5.0.

`make proof` runs this, `make test` does not: the kernels are built the first time, some minutes each.
"""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from lab_kernels import CACHE
from proof_objects import NAMES, compile_proof

from fleet.cli.main import cli

pytestmark = pytest.mark.proof

PROFILES = ("plain", "unprivileged", "memlock-64k")
# On the kernel without BTF: what is written for the low floor. All others ask for what came later.
OLD_ENOUGH = {"tracepoint", "syscall", "raw_tp", "tc", "global"}
LOADED_ONLY = {"socket", "xdp", "big_map"}
WITH_TYPES = {"field", "field_guarded", "renamed"}  # these too, when ours are brought along


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], dict]:
    folder = tmp_path_factory.mktemp("small")
    words = ["--home", str(folder / "home"), "prove", "tcp-flow", "net-policy"]
    words += [str(compile_proof(name, folder)) for name in NAMES]
    words += ["--kernel", "small:no-bpf,no-btf", "--profile", ",".join(PROFILES), "--cache", str(CACHE), "-o", "json"]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    told = json.loads(done.stdout)["cells"]
    return {(c["build"].replace(".bpf.o", ""), c["kernel"], c["profile"]): c for c in told}


def of(cells: dict, kernel: str, profile: str) -> dict[str, dict]:
    return {build: c for (build, k, p), c in cells.items() if (k, p) == (f"small:{kernel}", profile)}


def builds(cells: dict, agreement: str) -> set[str]:
    return {build.partition(" ")[0] for (build, _, _), cell in cells.items() if cell["agreement"] == agreement}


def test_prediction_equals_reality(cells: dict) -> None:
    assert {agreement: builds(cells, agreement) for agreement in ("false-fits", "unanswered")} == {
        "false-fits": set(),
        "unanswered": set(),
    }
    assert builds(cells, "rejected") <= {"stray"}
    # Data that is written and data that is constant came with one release; of ours only the latter is gone, and hosts
    # are asked for both at once.
    assert builds(cells, "too-cautious") <= {"global"}


@pytest.mark.parametrize("profile", PROFILES)
def test_without_bpf_nothing_runs_and_every_build_is_known_not_to(cells: dict, profile: str) -> None:
    for build, cell in of(cells, "no-bpf", profile).items():
        assert (cell["predicted"], cell["real"]) == ("refused", "refused"), build
        assert cell["outcome"]["errno"] == "ENOSYS", build


def test_without_btf_our_programs_run_with_ours(cells: dict) -> None:
    plain = of(cells, "no-btf", "plain")
    assert plain["tcp-flow (core-btf)"]["real"] == "ran"
    assert plain["tcp-flow (core-btf)"]["outcome"]["records"] == 6
    assert plain["net-policy (core-btf)"]["real"] == plain["net-policy"]["real"] == "ran"
    assert (plain["tcp-flow"]["predicted"], plain["tcp-flow"]["real"]) == ("refused", "refused")


def test_of_all_that_is_asked_only_what_is_old_runs(cells: dict) -> None:
    plain = of(cells, "no-btf", "plain")
    for variant, old in (("", OLD_ENOUGH), (" (core-btf)", OLD_ENOUGH | WITH_TYPES)):
        assert {n for n in NAMES if plain[n + variant]["real"] == "ran"} == old
        assert {n for n in NAMES if plain[n + variant]["real"] == "loaded"} == LOADED_ONLY
