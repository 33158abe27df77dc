"""Distribution kernels as their packages have them: what an image says is what other tools and its own modules say."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from judged import CACHE

from btf.archive.archive import Archive
from btf.archive.btf_file import read_image_file
from btf.archive.importing import Importer, files_under
from btf.archive.kernel_image import KernelImage
from btf.archive.module import ModuleForeign, parse_module, read_module
from btf.format.architecture import architecture
from btf.format.parse import parse_btf
from btf.format.types import Btf
from fleet.lab.kernel_store import Kernel
from fleet.lab.kernels import fetch

WITH_BTF = ("debian:5.10", "debian:6.1", "debian:6.12", "debian:sid", "debian:6.12/arm64", "debian:sid/s390x")
WITH_MODULES = WITH_BTF[1:]  # 5.10's modules have none
EVERY = 50  # so many modules of a kernel are passed over for each that is looked at


@cache
def at_hand(name: str) -> tuple[Kernel, KernelImage]:
    kernel = fetch(name, cache=CACHE)
    return kernel, read_image_file(kernel.vmlinuz)


@cache
def types(name: str) -> Btf:
    btf = at_hand(name)[1].btf
    assert btf
    return parse_btf(btf)


def some_modules(name: str) -> list[Path]:
    kernel = at_hand(name)[0]
    assert kernel.modules
    return [p for p in files_under([kernel.modules]) if ".ko" in p.name][::EVERY]


@pytest.mark.parametrize("name", WITH_BTF)
def test_an_image_says_what_its_package_is(name) -> None:
    kernel, image = at_hand(name)
    assert (image.release, image.arch, image.why) == (kernel.release, kernel.arch, "")
    assert image.version and f"Debian {kernel.version}" in image.version and image.version.startswith("#1 ")
    assert architecture(types(name)) == kernel.arch and types(name).by_name("task_struct")
    assert image.build_id and re.fullmatch(r"[0-9a-f]{40}", image.build_id)


def test_a_kernel_that_was_built_without_says_so() -> None:
    kernel, image = at_hand("debian:6.1/s390x")
    assert kernel.config and "CONFIG_DEBUG_INFO_BTF=y" not in kernel.config.read_text().splitlines()
    assert image.btf is None and "built without" in image.why and image.release == kernel.release and image.build_id


@pytest.mark.parametrize("name", [n for n in WITH_BTF if "/" not in n])
def test_other_tools_unpack_the_same(name, tmp_path) -> None:
    kernel, image = at_hand(name)
    unpack = {"zstd": ["zstd", "-dcq"], "lz4": ["lz4", "-dcq"], "xz": ["xz", "-dc"], "gzip": ["gzip", "-dcq"]}[
        image.layers[1]
    ]
    magic = {"zstd": b"\x28\xb5\x2f\xfd", "lz4": b"\x02\x21\x4c\x18", "xz": b"\xfd7zXZ", "gzip": b"\x1f\x8b\x08"}
    data = kernel.vmlinuz.read_bytes()
    packed = data[data.index(magic[image.layers[1]]) :]
    vmlinux = subprocess.run(
        unpack, input=packed, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
    ).stdout
    (tmp_path / "vmlinux").write_bytes(vmlinux)
    section = tmp_path / "btf"
    command = ["llvm-objcopy", f"--dump-section=.BTF={section}", str(tmp_path / "vmlinux"), "/dev/null"]
    subprocess.run(command, check=True, capture_output=True)
    assert section.read_bytes() == image.btf
    notes = subprocess.run(["readelf", "-n", tmp_path / "vmlinux"], capture_output=True, text=True, check=False).stdout
    assert re.search(r"Build ID: (\w+)", notes)[1] == image.build_id


@pytest.mark.parametrize("name", WITH_MODULES)
def test_modules_stand_on_their_own_kernel_and_on_no_other(name) -> None:
    others = [types(other) for other in WITH_MODULES if other != name]
    looked_at = 0
    for path in some_modules(name):
        module = read_module(path.read_bytes(), name=path.name.partition(".")[0])
        assert len(parse_module(module, types(name))) > len(types(name)) and module.release == at_hand(name)[0].release
        for other in others:
            with pytest.raises(ModuleForeign):
                parse_module(module, other)
        looked_at += 1
    assert looked_at >= 20


def test_kernels_and_their_modules_share_an_archive(tmp_path) -> None:
    archive = Archive(tmp_path / "btf")
    importer = Importer(archive)
    for name in ("debian:6.1", "debian:6.12"):
        assert importer.bring(at_hand(name)[0].vmlinuz).outcome == "added"
        assert {importer.bring(path).outcome for path in some_modules(name)} == {"added"}
    by_release = {entry.name.release: entry for entry in archive.list()}
    assert len(by_release) == 2
    for name in ("debian:6.1", "debian:6.12"):
        kernel, image = at_hand(name)
        entry = by_release[kernel.release]
        assert entry.kernel_id == f"{image.build_id}/x86_64"
        modules = archive.modules(entry.sha256)
        assert len(modules) == len(some_modules(name)) and all(a.module < b.module for a, b in pairwise(modules))
        assert len(archive.module_btf(modules[0])) > len(types(name))
