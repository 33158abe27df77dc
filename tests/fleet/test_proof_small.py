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
OLD_ENOUGH = {"tracepoint", "syscall", "raw_tp", "tc"}
LOADED_ONLY = {"socket", "xdp", "big_map"}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], dict]:
    folder = tmp_path_factory.mktemp("small")
    words = ["--home", str(folder / "home"), "prove", "tcp-flow", "net-policy"]
    words += [str(compile_proof(name, folder)) for name in NAMES]
    words += ["--kernel", "small:no-bpf,no-btf", "--profile", ",".join(PROFILES), "--cache", str(CACHE), "-o", "json"]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    return {(c["build"].removesuffix(".bpf.o"), c["kernel"], c["profile"]): c for c in json.loads(done.stdout)["cells"]}


def of(cells: dict, kernel: str, profile: str) -> dict[str, dict]:
    return {build: c for (build, k, p), c in cells.items() if (k, p) == (f"small:{kernel}", profile)}


def test_prediction_equals_reality(cells: dict) -> None:
    wrong = {place: c["agreement"] for place, c in cells.items() if c["agreement"] not in ("equal", "open", "rejected")}
    assert wrong == {}
    assert {build.split(".")[0] for (build, _, _), c in cells.items() if c["agreement"] == "rejected"} <= {"stray"}


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
    assert {n for n in NAMES if plain[n]["real"] == "ran"} == OLD_ENOUGH
    assert {n for n in NAMES if plain[n]["real"] == "loaded"} == LOADED_ONLY
