"""The archive of kernel BTF: by content, by exact build, whole or not at all."""

from __future__ import annotations

import io
import json
import lzma
import tarfile

import pytest
from btf_places import SAMPLES

import btf.archive.archive
from btf.archive.archive import (
    Archive,
    ArchiveDamaged,
    ArchiveMissing,
    ArchiveUnwritable,
    BtfMalformed,
    BtfUnreadable,
    read_btf_file,
    release_of_file,
)

ID = "4f5e0c/x86_64"


@pytest.fixture
def archive(tmp_path) -> Archive:
    return Archive(tmp_path / "btf")


def test_what_goes_in_comes_out(archive, btf_bytes, tmp_path) -> None:
    raw = btf_bytes("kernel_a.c")
    sha256 = archive.put(raw, kernel_id=ID, source="host web1")
    assert archive.get(sha256) == raw and archive.for_kernel(ID) == sha256
    assert archive.btf(sha256) is archive.btf(sha256)
    again = Archive(tmp_path / "btf")
    assert [(e.kernel_id, e.sha256, e.source, e.size) for e in again.list()] == [(ID, sha256, "host web1", len(raw))]


def test_one_content_is_stored_once_for_many_kernels(archive, btf_bytes, tmp_path) -> None:
    raw = btf_bytes("kernel_a.c")
    assert archive.put(raw, kernel_id="one/x", source="a") == archive.put(raw, kernel_id="two/x", source="b")
    assert len(list((tmp_path / "btf").rglob("*.btf.xz"))) == 1 and len(archive.list()) == 2


@pytest.mark.parametrize(
    "near", ["4f5e0c/aarch64", "4f5e0", "4F5E0C/x86_64", "", "../4f5e0c/x86_64", "4f5e0c%2Fx86_64"]
)
def test_a_near_match_is_no_match(archive, btf_bytes, near) -> None:
    archive.put(btf_bytes("kernel_a.c"), kernel_id=ID, source="x")
    assert archive.for_kernel(near) is None


@pytest.mark.parametrize("odd", ["../../escape", "..", ".", "a/b\0c", "x" * 5000, "ü\n"])
def test_an_odd_id_stays_inside(archive, btf_bytes, tmp_path, odd) -> None:
    sha256 = archive.put(btf_bytes("kernel_a.c"), kernel_id=odd, source="x")
    assert archive.for_kernel(odd) == sha256
    assert {p.name for p in tmp_path.iterdir()} == {"btf"}


def test_what_is_no_btf_is_not_stored(archive, tmp_path) -> None:
    with pytest.raises(BtfMalformed):
        archive.put(b"\x9f\xeb\x01", kernel_id=ID, source="x")
    assert not list(tmp_path.rglob("*.xz")) and archive.for_kernel(ID) is None


def test_damage_is_found_not_returned(archive, btf_bytes, tmp_path) -> None:
    sha256 = archive.put(btf_bytes("kernel_a.c"), kernel_id=ID, source="x")
    (path,) = (tmp_path / "btf").rglob("*.btf.xz")
    path.write_bytes(lzma.compress(btf_bytes("kernel_b.c")))
    with pytest.raises(ArchiveDamaged, match="another digest"):
        archive.get(sha256)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ArchiveDamaged):
        archive.get(sha256)
    with pytest.raises(ArchiveMissing):
        archive.get("0" * 64)
    with pytest.raises(ArchiveMissing):
        archive.get("../../etc/passwd")


def test_a_crash_before_the_rename_leaves_the_old(archive, btf_bytes, tmp_path, monkeypatch) -> None:
    sha256 = archive.put(btf_bytes("kernel_a.c"), kernel_id=ID, source="first")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(btf.archive.archive.os, "fsync", full)
    with pytest.raises(ArchiveUnwritable, match="No space left"):
        archive.put(btf_bytes("kernel_b.c"), kernel_id=ID, source="second")
    monkeypatch.undo()
    assert archive.for_kernel(ID) == sha256 and archive.list()[0].source == "first"
    assert not list(tmp_path.rglob(".new-*"))


def test_a_broken_note_is_passed_over(archive, btf_bytes, tmp_path) -> None:
    archive.put(btf_bytes("kernel_a.c"), kernel_id=ID, source="x")
    (tmp_path / "btf" / "kernels" / "broken.json").write_text("{")
    (tmp_path / "btf" / "kernels" / "odd.json").write_text(
        json.dumps({"kernel": "k", "sha256": "x", "source": "", "bytes": 1})
    )
    (note,) = (p for p in (tmp_path / "btf" / "kernels").iterdir() if p.name.startswith("4f5e0c"))
    told = json.loads(note.read_text())
    for number, odd in enumerate(({"at": float("nan")}, {"at": 10**400}, {"bytes": "many"}, {"kernel": 5, "at": None})):
        (note.parent / f"{number}.json").write_text(json.dumps(told | odd))
    (note.parent / "list.json").write_text("[1]")
    assert [e.kernel_id for e in archive.list()] == [ID]


def _tar(path, members: dict[str, bytes]):
    with tarfile.open(path, "w:xz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_every_form_of_btf_file_is_read(compile_bpf, btf_bytes, tmp_path) -> None:
    raw = btf_bytes("kernel_a.c")
    (tmp_path / "raw.btf").write_bytes(raw)
    packed = _tar(tmp_path / "5.4.0-1.el8.x86_64.btf.tar.xz", {"5.4.0-1.el8.x86_64.btf": raw})
    for path in (tmp_path / "raw.btf", packed, compile_bpf("kernel_a.c")):
        assert read_btf_file(path) == raw
    assert release_of_file(packed) == "5.4.0-1.el8.x86_64" and release_of_file(tmp_path / "raw.btf") is None


def test_unusable_files_are_refused(compile_bpf, btf_bytes, tmp_path) -> None:
    empty = _tar(tmp_path / "empty.btf.tar.xz", {"README": b"x"})
    whole = _tar(tmp_path / "whole.btf.tar.xz", {"k.btf": btf_bytes("kernel_a.c")})
    (tmp_path / "cut.btf.tar.xz").write_bytes(whole.read_bytes()[:200])
    (tmp_path / "cut.o").write_bytes(compile_bpf("kernel_a.c").read_bytes()[:400])
    for path in (empty, tmp_path / "cut.btf.tar.xz", tmp_path / "cut.o", tmp_path / "absent", tmp_path):
        with pytest.raises(BtfUnreadable):
            read_btf_file(path)
    with pytest.raises(BtfUnreadable, match="larger than"):
        read_btf_file(compile_bpf("kernel_a.c"), limit=100)


def test_what_unpacks_too_large_is_refused(tmp_path) -> None:
    bomb = _tar(tmp_path / "bomb.btf.tar.xz", {"filler": bytes(4 << 20), "k.btf": bytes(4 << 20)})
    assert bomb.stat().st_size < 10_000
    with pytest.raises(BtfUnreadable):
        read_btf_file(bomb, limit=1 << 20)


def test_a_public_archives_file_is_imported(archive) -> None:
    assert SAMPLES.is_dir(), f"the BTF samples are missing: {SAMPLES} is shared beside the project, not part of it"
    path = next(SAMPLES.rglob("*bclinux*.btf.tar.xz"))
    sha256 = archive.put(read_btf_file(path), kernel_id=ID, source=f"file {path.name}")
    assert archive.btf(sha256).by_name("task_struct")
