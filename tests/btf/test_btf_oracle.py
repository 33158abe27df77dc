"""libbpf is the judge: every relocation of every object on every kernel's BTF at hand, outcome and value."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from invent import invent
from judge import INVENTED, REAL, compare
from judged import KERNELS, own_objects, tools_objects
from libbpf_truth import ask_libbpf_of, write_btf

from btf.elf_object import read_object
from btf.minimise import minimise
from btf.parse import parse_btf


@pytest.fixture(scope="session")
def real_objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = tools_objects(tmp_path_factory.mktemp("tools")) | own_objects()
    assert len(found) > 50
    return found


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda name: name.replace(" ", "-"))
def test_real_objects_on_real_kernels(real_objects, tmp_path, kernel) -> None:
    data = KERNELS[kernel]()
    assert compare(real_objects, kernel, write_btf(tmp_path / "kernel.btf", data), parse_btf(data), REAL) == []


@pytest.mark.parametrize("first", range(0, 500, 50))
def test_invented_objects_on_invented_kernels(tmp_path, first) -> None:
    for seed in range(first, first + 50):
        object_, kernel = invent(Random(seed))
        path, btf, target = tmp_path / "invented.o", write_btf(tmp_path / "kernel.btf", kernel), parse_btf(kernel)
        path.write_bytes(object_)
        assert compare({f"seed {seed}": path}, f"kernel {seed}", btf, target, INVENTED) == []

        whole = ask_libbpf_of([path], btf)[0]
        small = write_btf(tmp_path / "small.btf", minimise([read_object(object_)], target))
        if whole.relocated:
            told = [(t.kind, t.insn, t.outcome, t.value, t.resized) for t in whole.relocations]
            cut = [(t.kind, t.insn, t.outcome, t.value, t.resized) for t in ask_libbpf_of([path], small)[0].relocations]
            assert told == cut, f"minimised, seed {seed}"
