"""Prediction equals reality: real kernels are booted, every build is tried there, and what happens is held against it.

Needs no root: the kernels are emulated. They are fetched once (see ``lab_kernels``).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from lab_kernels import CACHE
from proof_objects import NAMES, compile_proof

from fleet.cli.main import cli

KERNELS = ("debian:5.10", "debian:6.12")
PROFILES = ("plain", "no-btf")
# Not alike on these kernels: what each of them does with it, with its BTF to be seen.
DIFFER = {
    "atomics": ("refused", "ran"),
    "loop_helper": ("refused", "ran"),
    "task_storage": ("refused", "ran"),
    "xdp_frags": ("refused", "loaded"),
    "bloom": ("refused", "ran"),
    "kprobe_multi": ("refused", "ran"),
    "new_helper": ("refused", "ran"),
    "renamed": ("ran", "refused"),
}
NOWHERE = {"tracepoint_missing", "fentry_missing", "fentry_sleepable", "field_missing", "stray"}
NO_PLACE = {"socket", "xdp", "big_map"}
NEEDS_BTF = {"weak_kfunc", "tp_btf", "fentry", "iter", "lsm", "task_storage", "field", "field_guarded", "renamed"}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], dict]:
    folder = tmp_path_factory.mktemp("proof")
    objects = [str(compile_proof(name, folder)) for name in NAMES]
    words = [
        "prove",
        "tcp-flow",
        "net-policy",
        *objects,
        "--kernel",
        ",".join(KERNELS),
        "--profile",
        ",".join(PROFILES),
    ]
    words += ["--cache", str(CACHE), "-o", "json"]
    done = CliRunner().invoke(cli, ["--home", str(folder / "home"), "--quiet", *words], catch_exceptions=False)
    assert done.stdout, done.stderr  # a fault says itself why nothing was proven
    document = json.loads(done.stdout)
    assert document["schema"] == "corollout.prove/1"
    return {(c["build"].removesuffix(".bpf.o"), c["kernel"], c["profile"]): c for c in document["cells"]}


def of(cells: dict, *, real: str) -> set[tuple[str, str, str]]:
    return {place for place, cell in cells.items() if cell["real"] == real}


def test_every_cell_has_an_answer(cells: dict) -> None:
    builds = {name for name, _, _ in cells}
    assert {"tcp-flow", "tcp-flow (core-btf)", "net-policy", "net-policy (core-btf)", *NAMES} <= builds
    assert len(cells) == len(builds) * len(KERNELS) * len(PROFILES)
    assert of(cells, real="silent") == set()


def test_prediction_equals_reality(cells: dict) -> None:
    wrong = {k for k, c in cells.items() if c["agreement"] in ("false-fits", "too-cautious", "unanswered")}
    assert wrong == set()
    still_open = {c["build"] for c in cells.values() if c["agreement"] == "open"}
    # A function that BTF does not name may be in a module; which ones sleep, only a list in the kernel says.
    assert {build.partition(".")[0] for build in still_open} <= {"fentry_missing", "fentry_sleepable"}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("profile", PROFILES)
def test_our_programs_run_wherever_they_should(cells: dict, kernel: str, profile: str) -> None:
    for build in ("tcp-flow (core-btf)", "net-policy", "net-policy (core-btf)"):
        assert cells[build, kernel, profile]["real"] == "ran", build
    bare = cells["tcp-flow", kernel, profile]
    assert bare["real"] == ("ran" if profile == "plain" else "refused")
    flow = cells["tcp-flow (core-btf)", kernel, profile]["outcome"]
    assert flow["records"] >= 4, "two conversations, two ends each"
    assert sum(flow["runs"].values()) > 4
    policy = cells["net-policy", kernel, profile]["outcome"]["runs"]
    assert all(policy[name] > 4 for name in ("net_policy_in", "net_policy_out"))


@pytest.mark.parametrize("name", NAMES)
def test_each_thing_asked_of_a_kernel_is_answered_as_it_is(cells: dict, name: str) -> None:
    for number, kernel in enumerate(KERNELS):
        expected = DIFFER[name][number] if name in DIFFER else "refused" if name in NOWHERE else "ran"
        if name in NO_PLACE:
            expected = "loaded"
        assert cells[name, kernel, "plain"]["real"] == expected, kernel
        hidden = "refused" if name in NEEDS_BTF else expected
        assert cells[name, kernel, "no-btf"]["real"] == hidden, kernel


def test_hidden_btf_is_a_denial_that_can_be_lifted(cells: dict) -> None:
    for kernel in KERNELS:
        assert cells["tcp-flow", kernel, "no-btf"]["predicted"] == "blocked"
        assert "hidden" in cells["tcp-flow", kernel, "no-btf"]["because"]


def test_a_build_that_the_verifier_rejects_is_told_why(cells: dict) -> None:
    rejected = {k: c for k, c in cells.items() if c["agreement"] == "rejected"}
    assert {build.partition(".")[0] for build, _, _ in rejected} == {"stray"}
    for cell in rejected.values():
        told = cell["explanation"]
        assert told["source"].startswith("*count += 1;")
        assert told["register"] == "R0"
        assert "may be null" in told["cause"]


def test_what_would_be_done_is_said_and_nothing_done(tmp_path: Path) -> None:
    words = ["--home", str(tmp_path), "prove", "tcp-flow", "--kernel", "debian:5.10,6.1", "--check"]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0
    assert "debian:6.1 (to be fetched): plain, no-btf" in done.stderr
    assert "2 builds, 8 cells" in done.stderr
    assert list(tmp_path.iterdir()) == []
