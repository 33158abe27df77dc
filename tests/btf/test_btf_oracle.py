"""libbpf is the judge: every relocation of every object on every kernel's BTF at hand, outcome and value."""

from __future__ import annotations

from pathlib import Path

import pytest
from judge import TALLY, compare
from judged import KERNELS, own_objects, tools_objects
from libbpf_truth import version, write_btf

from btf.parse import parse_btf


@pytest.fixture(scope="session")
def real_objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    TALLY.judge = version()
    found = tools_objects(tmp_path_factory.mktemp("tools")) | own_objects()
    assert len(found) > 50
    return found


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda name: name.replace(" ", "-"))
def test_real_objects_on_real_kernels(real_objects, tmp_path, kernel) -> None:
    data = KERNELS[kernel]()
    assert compare(real_objects, kernel, write_btf(tmp_path / "kernel.btf", data), parse_btf(data)) == []
