"""Small kernels without building a real one: a source package of our own, whose Makefile takes no time.

Those that boot are in ``test_proof_small.py``.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from debian_archive import DebianArchive

from btf.format.parse import parse_btf
from fleet.lab import kernels, small_kernels
from fleet.lab.kernel_store import KernelUnknown, Origin, kernel_btf
from fleet.lab.small_kernels import SmallUnbuildable, cached, fetch, recipe
from fleet.lab.small_kinds import KINDS, Edit, Kind, kind

# As the kernel's: it takes what it is asked for but LOST, and makes the files a build leaves.
MAKEFILE = """\
allnoconfig:
\tgrep -v LOST $(KCONFIG_ALLCONFIG) > .config
vmlinux:
\tgcc -g -c -o vmlinux vmlinux.c
bzImage:
\tmkdir -p arch/x86/boot include/config
\tcat changed.c > arch/x86/boot/bzImage
\techo 5.10.9-small > include/config/kernel.release
\techo map > System.map
"""
TREE = {
    "Makefile": MAKEFILE,
    "vmlinux.c": "struct old { int pid; char comm[16]; } one;",
    "changed.c": "has_ring();\nhas_links();\n",
}
ROW = Kind("quick", "nothing", ("BPF_SYSCALL",), (Edit("changed.c", "has_ring();\n", ""),), btf=True)


def publish(archive: DebianArchive, version: str = "5.10.9-1") -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as tar:
        for name, text in TREE.items():
            entry = tarfile.TarInfo(f"linux-source-5.10/{name}")
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    archive.publish(
        "bullseye", [("linux-source-5.10", version, [], {"usr/src/linux-source-5.10.tar.xz": packed.getvalue()})]
    )


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[DebianArchive]:
    made = DebianArchive(tmp_path / "archive")
    publish(made)
    yield made
    made.close()


@pytest.fixture
def origin(archive: DebianArchive) -> Origin:
    return Origin(mirror=archive.mirror, keyring=archive.keyring)


def test_it_is_built_once_and_kept_with_its_origin(archive: DebianArchive, origin: Origin, tmp_path: Path) -> None:
    kernel = fetch(ROW, cache=tmp_path / "c", origin=origin)
    assert (kernel.name, kernel.release, kernel.arch) == ("small:quick", "5.10.9-small", "x86_64")
    assert kernel.modules is None
    assert kernel.vmlinuz.read_text() == "has_links();\n"
    assert kernel.config is not None
    assert "CONFIG_BPF_SYSCALL=y" in kernel.config.read_text().splitlines()
    told = json.loads((kernel.vmlinuz.parent / "provenance.json").read_bytes())
    assert (told["recipe"], told["packages"][0]["sha256"]) == (recipe(ROW), kernel.sha256)
    asked = len(archive.asked)
    assert fetch(ROW, cache=tmp_path / "c", origin=origin) == kernel == cached(ROW, cache=tmp_path / "c")
    assert len(archive.asked) == asked
    assert [p.name for p in (tmp_path / "c" / "store").glob(".part*")] == []


def test_its_types_are_made_from_what_was_compiled(origin: Origin, tmp_path: Path) -> None:
    data = kernel_btf(fetch(ROW, cache=tmp_path / "c", origin=origin))
    assert data is not None
    assert parse_btf(data).by_name("old")
    bare = fetch(replace(ROW, name="bare", btf=False), cache=tmp_path / "c", origin=origin)
    assert not (bare.vmlinuz.parent / "vmlinux.btf").exists()


def test_another_row_or_newer_source_is_another_kernel(archive: DebianArchive, origin: Origin, tmp_path: Path) -> None:
    first = fetch(ROW, cache=tmp_path / "c", origin=origin)
    other = replace(ROW, edits=())
    assert cached(other, cache=tmp_path / "c") is None
    assert fetch(other, cache=tmp_path / "c", origin=origin).vmlinuz.read_text().startswith("has_ring")
    publish(archive, "5.10.10-1")
    assert fetch(other, cache=tmp_path / "c", origin=origin).version == "5.10.9-1"
    assert fetch(other, cache=tmp_path / "c", origin=origin, refresh=True).version == "5.10.10-1"
    assert first.vmlinuz.exists(), "a guest may still run on it"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (replace(ROW, options=("LOST",)), "does not take CONFIG_LOST=y"),
        (replace(ROW, edits=(Edit("changed.c", "has_nothing", ""),)), "changed.c of linux-source-5.10"),
        (replace(ROW, edits=(Edit("Makefile", "\t", ""),)), "Makefile of linux-source-5.10"),
        (replace(ROW, edits=(Edit("vmlinux.c", "int", "!"),)), "make: vmlinux.c:1"),
    ],
)
def test_half_a_kernel_is_none(row: Kind, said: str, origin: Origin, tmp_path: Path) -> None:
    with pytest.raises(SmallUnbuildable) as refused:
        fetch(row, cache=tmp_path / "c", origin=origin)
    assert said in refused.value.message
    assert cached(row, cache=tmp_path / "c") is None
    assert [p for p in (tmp_path / "c" / "store").iterdir() if p.is_dir()] == []


def test_what_is_missing_is_named(origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        small_kernels.shutil, "which", lambda tool: None if tool in ("flex", "pahole") else f"/usr/bin/{tool}"
    )
    with pytest.raises(SmallUnbuildable) as refused:
        fetch(ROW, cache=tmp_path / "c", origin=origin)
    assert refused.value.message == "small:quick: flex, pahole are not on this machine"
    assert "apt-get install flex dwarves" in refused.value.advice
    with pytest.raises(SmallUnbuildable) as refused:
        fetch(replace(ROW, btf=False), cache=tmp_path / "c", origin=origin)
    assert "flex is not" in refused.value.message


def test_the_kinds_are_names_of_kernels(tmp_path: Path) -> None:
    assert {f"small:{name}" for name in KINDS} <= set(kernels.NAMES)
    assert kernels.cached("small:no-bpf", cache=tmp_path) is None
    assert "linux-source-5.10 of bullseye" in kernels.source_of("small:no-btf")[0]
    with pytest.raises(KernelUnknown):
        kernels.cached("small:no-such", cache=tmp_path)


def test_no_kind_asks_for_one_option_twice() -> None:
    for row in KINDS.values():
        asked = [line for line in row.config.splitlines() if line.startswith("CONFIG_")]
        assert len(asked) == len(set(asked)), row.name
        assert ("CONFIG_BPF_SYSCALL=y" in asked) == (row.name != "no-bpf")
        assert not any("KPROBE" in line or "DEBUG_INFO_BTF" in line for line in asked)
    assert kind("small:no-btf").btf
