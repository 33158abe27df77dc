"""Prediction equals reality on arm64: the same objects, another architecture under emulation.

`make proof` runs this, `make test` does not: it needs a cross compiler and the other emulator.
"""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from lab_kernels import CACHE

from fleet.cli.main import cli

pytestmark = pytest.mark.proof

KERNELS = ("debian:6.1/arm64", "debian:6.12/arm64")
PROFILES = ("plain", "no-btf", "lockdown-confidentiality", "unprivileged", "memlock-64k")
BUILDS = ("tcp-flow", "tcp-flow (core-btf)", "net-policy", "net-policy (core-btf)")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], dict]:
    home = tmp_path_factory.mktemp("arm64") / "home"
    words = ["--home", str(home), "prove", "tcp-flow", "net-policy", "--cache", str(CACHE), "-o", "json"]
    words += ["--kernel", ",".join(KERNELS), "--profile", ",".join(PROFILES)]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    return {(c["build"], c["kernel"], c["profile"]): c for c in json.loads(done.stdout)["cells"]}


def test_prediction_equals_reality(cells: dict) -> None:
    assert len(cells) == len(BUILDS) * len(KERNELS) * len(PROFILES)
    # On a busy machine the probes of an emulated host may run out of their time: then nothing is claimed.
    others = {place: c["agreement"] for place, c in cells.items() if c["agreement"] not in ("equal", "open")}
    assert others == {}
    assert all("known" in c["because"] for c in cells.values() if c["agreement"] == "open")
    assert all(c["kernel_id"].endswith("/aarch64") for c in cells.values())


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_same_objects_run_and_see_the_same(cells: dict, kernel: str) -> None:
    for profile in ("plain", "no-btf", "memlock-64k"):
        for build in BUILDS:
            fits = build != "tcp-flow" or profile != "no-btf"
            assert cells[build, kernel, profile]["real"] == ("ran" if fits else "refused"), (build, profile)
    for build in ("tcp-flow", "tcp-flow (core-btf)"):
        outcome = cells[build, kernel, "plain"]["outcome"]
        assert outcome["records"] == 6, "two conversations and one that is refused in each family, as on x86-64"
    assert all(
        c["real"] == "refused" for (_, k, profile), c in cells.items() if (k, profile) == (kernel, "unprivileged")
    )
    assert cells["tcp-flow", kernel, "lockdown-confidentiality"]["real"] == "refused"
