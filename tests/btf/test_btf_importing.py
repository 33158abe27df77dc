"""Bringing BTF into the archive: whose it is, what it came in, and that one bad file holds no other."""

from __future__ import annotations

import io
import lzma
import os
import struct
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import kernel_images as make
import pytest
from btf_places import SAMPLES, VMLINUX
from kernel_modules import module, split_btf
from test_btf_kernel_image import KERNEL, OTHER

from btf.archive.archive import Archive, ArchiveContradicts, Entry, KernelName
from btf.archive.btf_file import read_btf_file
from btf.archive.importing import Importer, files_under
from btf.archive.module import ModuleForeign, ModuleMalformed, parse_module, read_module
from btf.archive.near_misses import near_misses
from btf.format.parse import BtfMalformed, parse_btf

ID = f"{make.BUILD_ID.hex()}/x86_64"


@pytest.fixture
def archive(tmp_path) -> Archive:
    return Archive(tmp_path / "archive", clock=lambda: 1234.5)


@pytest.fixture(scope="module")
def kernel(btf_bytes) -> bytes:
    return btf_bytes("kernel.c", text=KERNEL)


@pytest.fixture(scope="module")
def other(btf_bytes) -> bytes:
    return btf_bytes(
        "other.c", text=OTHER.replace("struct list_head {", "struct earlier { int e; } early;\nstruct list_head {")
    )


def tar(path: Path, members: dict[str, bytes | str], *, kind: bytes = tarfile.SYMTYPE) -> Path:
    """A packed tar; a member whose content is text is a link (or another *kind*) to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:xz", format=tarfile.GNU_FORMAT) as out:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(data, str):
                info.type, info.linkname = kind, data
                out.addfile(info)
            else:
                info.size = len(data)
                out.addfile(info, io.BytesIO(data))
    return path


def outcomes(archive: Archive, *paths: Path, **options) -> list[tuple[str, str]]:
    importer = Importer(archive, **options)
    return [(b.path.name, b.fault.code if b.fault else b.outcome) for b in map(importer.bring, files_under(paths))]


def test_a_kernel_image_names_itself(archive, kernel, tmp_path) -> None:
    path = tmp_path / "vmlinuz-6.9.1-test"
    path.write_bytes(make.bzimage(make.pack(make.vmlinux(kernel), "zstd")))
    assert outcomes(archive, path) == [(path.name, "added")]
    (entry,) = archive.list()
    assert (entry.kernel_id, entry.how, entry.source, entry.at, entry.size) == (
        ID, "image", "image vmlinuz-6.9.1-test", 1234.5, len(kernel),
    )  # fmt: skip
    assert entry.name == KernelName(make.RELEASE, make.VERSION, "x86_64") and entry.exact
    assert archive.get(entry.sha256) == kernel and archive.for_kernel(ID) == entry.sha256
    assert outcomes(archive, path) == [(path.name, "already")]


def test_the_running_kernel_is_a_host(archive) -> None:
    assert outcomes(archive, VMLINUX) == [("vmlinux", "added")]
    (entry,) = archive.list()
    assert entry.how == "host" and entry.name.release == os.uname().release and entry.name.version == os.uname().version
    assert archive.get(entry.sha256) == VMLINUX.read_bytes()


def test_a_btfhub_tree_is_known_by_name_only_and_serves_no_build(archive, kernel, tmp_path) -> None:
    tree = tmp_path / "hub"
    tar(tree / "ubuntu/20.04/x86_64/5.4.0-92-generic.btf.tar.xz", {"5.4.0-92-generic.btf": kernel})
    tar(tree / "ubuntu/18.04/x86_64/5.4.0-92-generic.btf.tar.xz", {"./5.4.0-92-generic.btf": kernel})
    (tree / "ubuntu/README.md").write_text("not BTF")
    bad = tree / "debian/10/x86_64/4.19.0-18-amd64.btf.tar.xz"
    tar(bad, {"4.19.0-18-amd64.btf": kernel})
    bad.write_bytes(bad.read_bytes()[:99])
    assert sorted(outcomes(archive, tree)) == [
        ("4.19.0-18-amd64.btf.tar.xz", "COR-BTF-023"),
        ("5.4.0-92-generic.btf.tar.xz", "added"), ("5.4.0-92-generic.btf.tar.xz", "added"),
    ]  # fmt: skip
    first, second = archive.list()
    assert first.kernel_id == "name-ubuntu-18.04-5.4.0-92-generic/x86_64" and first.how == "btfhub"
    assert not first.exact and second.name.distribution == "ubuntu 20.04" and first.sha256 == second.sha256
    # Interrupted and started again, what is there is not done again, and what was mended is.
    tar(bad, {"4.19.0-18-amd64.btf": kernel})
    assert sorted(o for _, o in outcomes(archive, tree)) == ["added", "already", "already"]
    # A host of that release is another matter.
    assert archive.for_kernel(ID) is None


def test_the_samples_are_imported_as_they_are(archive) -> None:
    assert SAMPLES.is_dir(), f"the BTF samples are missing: {SAMPLES} is shared beside the project, not part of it"
    small = [p for p in files_under([SAMPLES]) if "centos" not in p.parts and "android" not in p.parts]
    assert [o for _, o in outcomes(archive, *small)] == ["added"] * len(small) and len(small) >= 2
    assert {e.name.distribution for e in archive.list()} == {"bclinux 21.10U3", "kylin V10"}


def test_a_person_may_give_btf_to_a_build(archive, kernel, tmp_path) -> None:
    path = tar(tmp_path / "ubuntu/20.04/x86_64/5.4.0-92-generic.btf.tar.xz", {"k.btf": kernel})
    assert outcomes(archive, path, kernel_id=ID) == [(path.name, "added")]
    (entry,) = archive.list()
    assert entry.exact and entry.how == "file" and archive.for_kernel(ID) == entry.sha256


def test_what_a_kernel_said_itself_is_not_replaced(archive, kernel, other, tmp_path) -> None:
    image, hand = tmp_path / "vmlinuz", tmp_path / "by-hand.btf"
    image.write_bytes(make.vmlinux(kernel))
    hand.write_bytes(other)
    assert outcomes(archive, image) == [("vmlinuz", "added")]
    assert outcomes(archive, hand, kernel_id=ID) == [("by-hand.btf", "COR-BTF-026")]
    with pytest.raises(ArchiveContradicts, match="from image vmlinuz"):
        archive.put(other, kernel_id=ID, source="host web1", how="host")
    assert archive.get(archive.for_kernel(ID)) == kernel
    # The other way round the kernel's word counts more, and the same content by a lesser word changes nothing.
    archive.put(other, kernel_id="2/x", source="file x", how="file")
    with pytest.raises(ArchiveContradicts, match="from file x"):
        archive.put(kernel, kernel_id="2/x", source="somebody", how="btfhub")
    archive.put(kernel, kernel_id="2/x", source="host web1", how="host")
    archive.put(kernel, kernel_id="2/x", source="file x", how="file")
    assert archive.entry("2/x").source == "host web1" and archive.get(archive.for_kernel("2/x")) == kernel


def test_with_check_nothing_is_kept(archive, kernel, tmp_path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/aa_my_mod.ko").write_bytes(module(split_btf(kernel, "f")))
    (tmp_path / "in/vmlinuz").write_bytes(make.vmlinux(kernel))
    (tmp_path / "in/zz_my_mod.ko").write_bytes(module(split_btf(kernel, "f")))
    found = outcomes(archive, tmp_path / "in", check=True)
    assert found == [("aa_my_mod.ko", "COR-BTF-024"), ("vmlinuz", "added"), ("zz_my_mod.ko", "added")]
    assert not (tmp_path / "archive").exists()


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("vmlinuz", b"", "COR-BTF-030"),
        ("vmlinuz", make.bzimage(b"\x1f\x8b\x08" + b"x" * 50), "COR-BTF-031"),
        ("vmlinuz", make.vmlinux(None), "COR-BTF-029"),
        ("what.btf", b"hello", "COR-BTF-001"),
        ("my.ko", b"hello", "COR-BTF-024"),
        ("my.ko", module(None), "COR-BTF-029"),
        ("my.ko.xz", lzma.compress(module(None))[:50], "COR-BTF-031"),
        ("my.ko", module(b"x", **{".BTF.base": b"y"}), "COR-BTF-025"),
        ("my.ko", module(b"x", name="../../etc/cron.d/x"), "COR-BTF-025"),
        ("my.ko", module(b"x", release="5.5.5"), "COR-BTF-024"),
    ],
)
def test_bad_files_are_told_by_code_and_leave_nothing(archive, tmp_path, name, data, code) -> None:
    (tmp_path / name).write_bytes(data)
    assert outcomes(archive, tmp_path / name) == [(name, code)]
    assert not (tmp_path / "archive").exists()


def test_btf_that_nobody_names_is_refused_by_name(archive, kernel, tmp_path) -> None:
    (tmp_path / "what.btf").write_bytes(kernel)
    (tmp_path / "what").write_bytes(kernel)
    (tmp_path / "bare.elf").write_bytes(make.elf({".BTF": kernel}))
    for name in ("what.btf", "what", "bare.elf"):
        assert outcomes(archive, tmp_path / name) == [(name, "COR-BTF-027")]
    for name in ("what.btf", "what", "bare.elf"):
        assert outcomes(archive, tmp_path / name, kernel_id="k/x") in ([(name, "added")], [(name, "already")])


def test_folder_and_content_must_agree(archive, tmp_path) -> None:
    path = next(SAMPLES.rglob("*ky10*.btf.tar.xz"))
    wrong = tmp_path / "kylin/V10/x86_64" / path.name
    wrong.parent.mkdir(parents=True)
    wrong.write_bytes(path.read_bytes())
    assert outcomes(archive, wrong) == [(wrong.name, "COR-BTF-028")]
    image = tmp_path / "vmlinuz"
    image.write_bytes(make.vmlinux(read_btf_file(path)))
    assert outcomes(archive, image, kernel_id="another/x86_64") == [("vmlinuz", "COR-BTF-028")]


def test_a_tar_leads_nowhere(archive, kernel, tmp_path) -> None:
    outside = tmp_path / "outside.btf"
    outside.write_bytes(kernel)
    place = tmp_path / "t/5.5.5-1.btf.tar.xz"
    for number, members in enumerate(
        (
            {"5.5.5-1.btf": str(outside)},  # a link out
            {"../../../escape.btf": b"not BTF"},
            {"/etc/escape.btf": b"not BTF"},
            {"a.btf": kernel, "b.btf": kernel},
        )
    ):
        ((_, outcome),) = outcomes(archive, tar(place, members))
        assert outcome in ("COR-BTF-023", "COR-BTF-001"), number
    tar(place, {"5.5.5-1.btf": "null"}, kind=tarfile.CHRTYPE)
    assert outcomes(archive, place) == [(place.name, "COR-BTF-023")]
    # Beside a link the file counts; its name says nothing about where it goes.
    tar(place, {"l.btf": str(outside), "/abs/../5.5.5-1.btf": kernel})
    assert outcomes(archive, place) == [(place.name, "added")]
    assert not list(tmp_path.rglob("*escape*")) and not Path("/etc/escape.btf").exists()
    assert [p.name for p in archive._kernels.iterdir()] == ["name-5%2E5%2E5-1%2Funknown.json"]


def test_a_tar_with_a_wrong_sum_or_too_many_members_is_refused(archive, kernel, tmp_path) -> None:
    place = tmp_path / "5.5.5-1.btf.tar.xz"
    tar(place, {f"{n}": b"" for n in range(300)} | {"k.btf": kernel})
    assert outcomes(archive, place) == [(place.name, "COR-BTF-023")]
    whole = bytearray(lzma.decompress(tar(place, {"k.btf": kernel}).read_bytes()))
    whole[130] ^= 1  # in the size
    place.write_bytes(lzma.compress(whole))
    assert outcomes(archive, place) == [(place.name, "COR-BTF-023")]


KILLED = """
import sys
from pathlib import Path
from btf.archive.archive import Archive
from btf.archive.importing import Importer, files_under
importer = Importer(Archive(Path(sys.argv[1])))
for path in files_under([Path(sys.argv[2])]):
    print(importer.bring(path).outcome, flush=True)
"""


def test_an_import_that_is_killed_is_whole_as_far_as_it_came(kernel, tmp_path) -> None:
    for number in range(200):
        (tmp_path / f"6.1.{number}-1.btf").write_bytes(kernel + bytes([number]) * 9)  # each of its own content
    root = tmp_path / "archive"
    command = [sys.executable, "-c", KILLED, root, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as importing:
        assert importing.stdout is not None
        for _ in range(20):
            assert importing.stdout.readline() == "added\n"
        importing.kill()
    entries = Archive(root).list()
    assert 20 <= len(entries) < 200
    for entry in entries:
        assert len(Archive(root).get(entry.sha256)) == entry.size
    again = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert again.count("already") == len(entries) and again.count("added") == 200 - len(entries)


def test_what_a_killed_writer_left_goes_after_a_day(archive, kernel, tmp_path) -> None:
    archive.put(kernel, kernel_id=ID, source="x")
    fresh, old = (next((tmp_path / "archive/objects").iterdir()) / name for name in (".new-1", ".new-2"))
    for path, age in ((fresh, 10), (old, 90_000)):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age,) * 2)
    Importer(Archive(tmp_path / "archive"), check=True)
    assert old.exists()
    Importer(Archive(tmp_path / "archive"))
    assert fresh.exists() and not old.exists() and Archive(tmp_path / "archive").entry(ID)


def test_folders_are_walked_without_following_links(archive, kernel, tmp_path) -> None:
    (tmp_path / "away").mkdir()
    (tmp_path / "away/6.1.0.btf").write_bytes(kernel)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/6.2.0.btf").symlink_to(tmp_path / "away/6.1.0.btf")
    (tmp_path / "in/folder").symlink_to(tmp_path / "away")
    (tmp_path / "in/6.3.0.btf").write_bytes(kernel)
    os.mkfifo(tmp_path / "in/6.4.0.btf")
    assert outcomes(archive, tmp_path / "in") == [("6.3.0.btf", "added")]


def test_a_module_stands_on_exactly_its_kernel(archive, kernel, other, tmp_path) -> None:
    image, ko = tmp_path / "vmlinuz", tmp_path / "my-mod.ko.xz"
    image.write_bytes(make.vmlinux(kernel))
    ko.write_bytes(lzma.compress(module(split_btf(kernel, "my_function"))))
    assert outcomes(archive, image, ko, ko) == [("vmlinuz", "added"), (ko.name, "added"), (ko.name, "already")]
    base = archive.for_kernel(ID)
    (entry,) = archive.modules(base)
    assert (entry.module, entry.base, entry.source) == ("my_mod", base, "file my-mod.ko.xz")
    btf = archive.module_btf(entry)
    assert btf.by_name("my_function") and btf.by_name("task_struct") and len(btf) == len(parse_btf(kernel)) + 3
    # Of two kernels of one release it finds its own; of another's it says so.
    second = tmp_path / "vmlinux-second"
    second.write_bytes(make.vmlinux(other).replace(make.BUILD_ID, b"2" * 20))
    theirs = tmp_path / "their_mod.ko"
    theirs.write_bytes(module(split_btf(other, "f"), name="their_mod"))
    assert outcomes(archive, theirs) == [(theirs.name, "COR-BTF-024")]
    assert outcomes(archive, second, theirs) == [("vmlinux-second", "added"), (theirs.name, "added")]
    assert [m.module for m in archive.modules(base)] == ["my_mod"]
    assert outcomes(archive, theirs, kernel_id=ID) == [(theirs.name, "COR-BTF-024")]
    assert outcomes(archive, ko, kernel_id="nobody/x") == [(ko.name, "COR-BTF-024")]


def test_a_foreign_module_is_told_by_its_names_and_its_functions(kernel, btf_bytes) -> None:
    found = read_module(module(split_btf(kernel, "f")), name="x")
    assert found.name == "my_mod" and found.release == make.RELEASE
    assert parse_module(found, parse_btf(kernel)).by_name("f")
    # One with as many types, of which one has a longer name; and one with the same names and a pointer more.
    with pytest.raises(ModuleForeign, match="names do not start where"):
        parse_module(found, parse_btf(btf_bytes("renamed.c", text=OTHER)))
    header, start, size, strings = struct.unpack_from("<IIII", kernel, 4)
    end = header + start + size
    longer = kernel[:end] + struct.pack("<III", 0, 2 << 24, 1) + kernel[end:]
    longer = longer[:4] + struct.pack("<IIII", header, start, size + 12, strings + 12) + longer[20:]
    with pytest.raises(ModuleForeign, match="function f has no prototype"):
        parse_module(found, parse_btf(longer))
    with pytest.raises(ModuleMalformed, match="no name of a module"):
        read_module(split_btf(kernel, "f"), name="a/b")


def test_a_module_may_have_no_name_of_its_own(kernel) -> None:
    base = parse_btf(kernel)
    types = struct.pack("<III", 0, 13 << 24, 0)
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), 0)
    btf = parse_module(read_module(head + types, name="bare"), base)
    assert len(btf) == len(base) + 1
    with pytest.raises(BtfMalformed):
        parse_btf(head + types)


def test_near_misses_are_named() -> None:
    def entry(kernel_id: str, *name: str):
        return Entry(kernel_id, "0" * 64, "x", 1, name=KernelName(*name))

    entries = [
        entry("aa/x86_64", "5.4.0-92-generic", "#103-Ubuntu SMP", "x86_64"),
        entry("bb/x86_64", "5.4.0-92-aws", "#1", "x86_64"),
        entry("cc/aarch64", "5.4.0-92-generic", "#103-Ubuntu SMP", "aarch64"),
        entry("name-ubuntu-20.04-5.4.0-92-generic/x86_64", "5.4.0-92-generic", "", "x86_64", "ubuntu 20.04"),
        entry("dd/x86_64", "6.1.0-1", "#1", "x86_64"),
        entry("ee/x86_64", "5.4.0-92-generic", "#104-Ubuntu SMP", "x86_64"),
    ]
    assert near_misses(entries, KernelName("5.4.0-92-generic", "#104-Ubuntu SMP", "x86_64")) == [
        "5.4.0-92-generic #103-Ubuntu, not #104-Ubuntu",
        "5.4.0-92-generic of ubuntu 20.04 by name only, which is not proof of the same build",
        "5.4.0-92-generic of another build (ee/x86_64)",
        "5.4.0-92-aws, not 5.4.0-92-generic",
    ]
