"""Fetching kernels: which mirror, which package, whole or nothing, once, and never with a wrong signature."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from debian_archive import DebianArchive
from lab_kernels import CACHE

from btf.archive.kernel_image import ImageUnreadable
from fleet.lab.apt import AptMissing, KeyUnknown, MirrorSilent
from fleet.lab.debian_kernels import SeriesGone, wanted
from fleet.lab.kernel_store import Kernel, KernelUnknown, KernelUnusable, Origin, kernel_btf
from fleet.lab.kernels import cached, fetch
from fleet.lab.mirror import NoMirror, Source, debian_mirror, sources

IMAGE = b"\x01" * (2 << 20)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[DebianArchive]:
    made = DebianArchive(tmp_path / "archive")
    yield made
    made.close()


def publish(archive: DebianArchive, version: str = "6.1.7-1", abi: str = "6.1.0-9", suite: str = "bookworm") -> None:
    """One package that has everything, as up to 6.12."""
    release = f"{abi}-cloud-amd64"
    files = {f"boot/{n}-{release}": n.encode() for n in ("config", "System.map")}
    files |= {f"boot/vmlinuz-{release}": IMAGE, f"lib/modules/{release}/kernel/net/sched/cls_bpf.ko": b"ko"}
    depends = ["initramfs-tools | linux-initramfs-tool", "kmod"]
    archive.publish(
        suite,
        [
            ("linux-image-cloud-amd64", version, [f"linux-image-{release} (= {version})"], {}),
            (f"linux-image-{release}", version, depends, files),
        ],
    )


def publish_in_parts(archive: DebianArchive) -> None:
    """An empty image package that depends on its parts, as from 7.x on."""
    release, version = "7.2.13+deb14-cloud-amd64", "7.2.13-1"
    parts = [f"linux-{part}-{release}" for part in ("base", "binary", "modules")]
    modules = f"usr/lib/modules/{release}"
    archive.publish(
        "sid",
        [
            (
                "linux-image-cloud-amd64",
                version,
                ["linux-base-cloud-amd64", f"linux-image-{release} (= {version})"],
                {},
            ),
            (f"linux-image-{release}", version, ["dracut", *(f"{p} (= {version})" for p in parts)], {}),
            (parts[0], version, [], {f"{modules}/config": b"config", f"{modules}/System.map": b"see -dbg"}),
            (parts[1], version, [parts[0]], {f"{modules}/vmlinuz": IMAGE}),
            (parts[2], version, ["kmod", parts[0]], {f"{modules}/kernel/net/sched/cls_bpf.ko.xz": b"ko"}),
        ],
    )


def origin(archive: DebianArchive) -> Origin:
    return Origin(mirror=archive.mirror, keyring=archive.keyring)


def get(archive: DebianArchive, cache: Path, name: str = "debian:6.1", *, refresh: bool = False) -> Kernel:
    return fetch(name, cache=cache, origin=origin(archive), refresh=refresh)


def debs(archive: DebianArchive) -> list[str]:
    return [path for path in archive.asked if path.endswith(".deb")]


def test_a_kernel_is_fetched_once_and_kept_with_its_origin(archive: DebianArchive, tmp_path: Path) -> None:
    publish(archive)
    kernel = get(archive, tmp_path / "c")
    assert (kernel.release, kernel.arch, kernel.version) == ("6.1.0-9-cloud-amd64", "x86_64", "6.1.7-1")
    assert kernel.vmlinuz.read_bytes() == IMAGE
    assert kernel.config is not None
    assert kernel.config.read_bytes() == b"config"
    assert kernel.modules is not None
    assert (kernel.modules / "kernel/net/sched/cls_bpf.ko").read_bytes() == b"ko"
    told = json.loads((kernel.vmlinuz.parent / "provenance.json").read_bytes())
    assert told["packages"][0]["sha256"] == kernel.sha256
    asked = len(archive.asked)
    assert get(archive, tmp_path / "c") == kernel == cached("debian:6.1", cache=tmp_path / "c")
    assert len(archive.asked) == asked


def test_a_kernel_in_parts_is_put_together(archive: DebianArchive, tmp_path: Path) -> None:
    publish_in_parts(archive)
    kernel = get(archive, tmp_path / "c", "debian:sid")
    assert kernel.release == "7.2.13+deb14-cloud-amd64"
    assert kernel.package == "linux-binary-7.2.13+deb14-cloud-amd64"
    assert kernel.vmlinuz.read_bytes() == IMAGE
    assert kernel.config is not None
    assert kernel.modules is not None
    assert (kernel.modules / "kernel/net/sched/cls_bpf.ko.xz").exists()
    assert not (kernel.vmlinuz.parent / "System.map").exists(), "a pointer to another package is no symbol table"


def test_a_mirror_that_moved_on_is_asked_again(archive: DebianArchive, tmp_path: Path) -> None:
    publish(archive)
    get(archive, tmp_path / "c")
    (tmp_path / "c" / "debian-6.1-amd64").unlink()  # the lists at hand now name a file that the pool no longer has
    for store in (tmp_path / "c" / "store").iterdir():
        store.rename(tmp_path / "elsewhere")
    publish(archive, "6.1.8-1", "6.1.0-10")
    assert get(archive, tmp_path / "c").version == "6.1.8-1"


def test_a_newer_kernel_comes_when_asked_for_only(archive: DebianArchive, tmp_path: Path) -> None:
    publish(archive)
    first = get(archive, tmp_path / "c")
    publish(archive, "6.1.8-1", "6.1.0-10")
    assert get(archive, tmp_path / "c") == first
    assert get(archive, tmp_path / "c", refresh=True).version == "6.1.8-1"
    assert get(archive, tmp_path / "c").version == "6.1.8-1"
    assert first.vmlinuz.exists(), "a guest may still run on it"


def test_a_series_the_suite_no_longer_has_is_refused(archive: DebianArchive, tmp_path: Path) -> None:
    publish(archive, "7.3.1-1", "7.3.1+deb14", "sid")
    with pytest.raises(SeriesGone, match=r"has 7\.3\.1-1, not 7\.2"):
        get(archive, tmp_path / "c", "debian:7.2")
    assert get(archive, tmp_path / "c", "debian:sid").version == "7.3.1-1"


def test_a_wrong_signature_is_refused(archive: DebianArchive, tmp_path: Path) -> None:
    publish(archive)
    other = DebianArchive(tmp_path / "other")
    other.close()
    with pytest.raises(KeyUnknown, match="bookworm"):
        fetch("debian:6.1", cache=tmp_path / "c", origin=Origin(mirror=archive.mirror, keyring=other.keyring))
    assert debs(archive) == []


def test_a_package_that_is_not_what_was_signed_is_refused(archive: DebianArchive, tmp_path: Path) -> None:
    publish(archive)
    deb = next(p for p in (archive.root / "pool").iterdir() if "6.1.0-9" in p.name)
    deb.write_bytes(deb.read_bytes()[:-1] + b"!")
    with pytest.raises(MirrorSilent, match=r"[Hh]ash"):
        get(archive, tmp_path / "c")
    assert cached("debian:6.1", cache=tmp_path / "c") is None
    assert list((tmp_path / "c" / "store").iterdir()) == []


def test_a_mirror_that_does_not_answer_is_said(tmp_path: Path, archive: DebianArchive) -> None:
    archive.close()
    with pytest.raises(MirrorSilent):
        get(archive, tmp_path / "c")


def test_a_package_without_kernel_is_refused(archive: DebianArchive, tmp_path: Path) -> None:
    archive.publish("bookworm", [("linux-image-cloud-amd64", "1", [], {})])
    with pytest.raises(KernelUnusable, match="leads to no kernel package"):
        get(archive, tmp_path / "c")


def test_a_missing_keyring_is_said_before_the_network_is_asked(archive: DebianArchive, tmp_path: Path) -> None:
    with pytest.raises(AptMissing, match="no keyring"):
        fetch("debian:6.1", cache=tmp_path / "c", origin=Origin(archive.mirror, tmp_path / "none"))
    assert archive.asked == []


PROCESS = """
import sys
from pathlib import Path
from fleet.lab.kernel_store import Origin
from fleet.lab.kernels import fetch
print(fetch("debian:6.1", cache=Path(sys.argv[1]), origin=Origin(sys.argv[2], Path(sys.argv[3]))).release)
"""


def start(archive: DebianArchive, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROCESS, str(cache), archive.mirror, str(archive.keyring)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_several_processes_fetch_once(archive: DebianArchive, tmp_path: Path) -> None:
    publish(archive)
    together = [start(archive, tmp_path / "c") for _ in range(4)]
    assert {p.communicate()[0] for p in together} == {"6.1.0-9-cloud-amd64\n"}
    assert len(debs(archive)) == 1


def test_a_killed_fetch_leaves_nothing_that_counts(archive: DebianArchive, tmp_path: Path) -> None:
    publish(archive)
    archive.gate.clear()
    victim = start(archive, tmp_path / "c")
    while not debs(archive):
        assert victim.poll() is None
        time.sleep(0.02)
    victim.kill()
    victim.communicate()
    archive.gate.set()
    assert cached("debian:6.1", cache=tmp_path / "c") is None
    assert get(archive, tmp_path / "c").version == "6.1.7-1"


def test_the_apt_of_this_machine_is_left_alone(archive: DebianArchive, tmp_path: Path) -> None:
    def state() -> list[tuple[str, int]]:
        files = [p for root in ("/var/lib/apt", "/var/cache/apt", "/etc/apt") for p in Path(root).rglob("*")]
        return sorted((str(p), p.lstat().st_mtime_ns) for p in files)

    publish(archive)
    before = state()
    get(archive, tmp_path / "c")
    assert state() == before


@pytest.mark.parametrize("name", ["debian:5.19", "debian:6.1/vax", "debian:", "debian:6.1/amd64/x", "nothing", "../x"])
def test_what_is_no_kernel_is_said(name: str, tmp_path: Path) -> None:
    with pytest.raises(KernelUnknown):
        fetch(name, cache=tmp_path)


def test_names() -> None:
    assert wanted("debian:6.12").name == "debian:6.12"
    assert wanted("debian:6.12/amd64").name == "debian:6.12"
    assert wanted("debian:6.12/s390x").package == "linux-image-s390x"


def test_a_local_image_says_what_it_is(tmp_path: Path) -> None:
    fetched = fetch("debian:5.10", cache=CACHE)
    (tmp_path / "vmlinuz").symlink_to(fetched.vmlinuz)
    (tmp_path / "modules").mkdir()
    kernel = fetch(str(tmp_path / "vmlinuz"), cache=tmp_path / "c")
    assert (kernel.release, kernel.arch) == (fetched.release, "x86_64")
    assert (kernel.modules, kernel.config, kernel.package) == (tmp_path / "modules", None, "")
    assert kernel_btf(kernel) == kernel_btf(fetched) is not None


def test_a_file_that_is_no_kernel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(b"\0" * 4096)
    with pytest.raises(ImageUnreadable):
        fetch(str(tmp_path / "vmlinuz"), cache=tmp_path / "c")


ONE_LINE = """\
# deb http://commented.example/debian bookworm main
deb cdrom:[Debian 12]/ bookworm main
deb [arch=amd64 signed-by=/x.gpg] https://third.example/debian bookworm-thing main
deb https://third.example/linux bookworm stable
deb-src http://mirror.example/debian bookworm main
deb http://security.example/debian-security bookworm-security main
deb [ arch=amd64 ] http://mirror.example/debian/ bookworm main contrib # a remark
"""
PARAGRAPHS = """\
Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: trixie
Components: main

Types: deb deb-src
# a remark
URIs: http://mirror.example/debian
 http://second.example/debian
Suites: trixie trixie-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 URIs: http://key.example
"""


@pytest.mark.parametrize(("file", "text"), [("one.list", ONE_LINE), ("debian.sources", PARAGRAPHS)])
def test_the_mirror_of_this_machine_is_read_in_both_forms(file: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / file).write_text(text)
    (tmp_path / "sources.list.d" / "ignored.save").write_text("deb http://saved.example/debian sid main\n")
    assert debian_mirror(tmp_path) == "http://mirror.example/debian"


def test_paragraphs_are_read_whole(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "debian.sources").write_text(PARAGRAPHS)
    suites = ("trixie", "trixie-updates")
    assert sources(tmp_path) == [
        Source("http://mirror.example/debian", suites, ("main",)),
        Source("http://second.example/debian", suites, ("main",)),
    ]


def test_a_machine_without_debian_must_be_told(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text("deb http://archive.example/ubuntu noble main\n")
    with pytest.raises(NoMirror):
        debian_mirror(tmp_path)


def test_an_ordinary_user_can_fetch(archive: DebianArchive) -> None:
    publish(archive)
    become = "import os\nif os.getuid() == 0:\n    os.setgid(65534)\n    os.setuid(65534)\n"
    program = PROCESS.replace("print(", become + "print(")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        keyring = Path(folder) / "keyring.gpg"
        keyring.write_bytes(archive.keyring.read_bytes())
        command = [sys.executable, "-c", program, f"{folder}/c", archive.mirror, str(keyring)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        assert done.stdout == "6.1.0-9-cloud-amd64\n", done.stderr
