"""Host guests without booting one: what can be asked for, what a guest is told, and that none is left behind.

Those that boot are in ``test_proof_fleet.py``.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from debian_archive import DebianArchive

from fleet.cli.main import cli
from fleet.lab import guest_system, guests, machine
from fleet.lab.guest_system import SYSTEMS, SystemUnbuildable, build, image_path
from fleet.lab.guests import GUESTS, GuestLab, GuestLost, GuestUnknown, guest
from fleet.lab.kernel_store import Kernel, Origin
from fleet.lab.profiles import PROFILES

KERNEL = Kernel("debian:6.1", Path("/nowhere/vmlinuz"), "6.1.0-9-cloud-amd64", "x86_64", version="6.1.7-1")


def test_a_guest_is_a_series_and_a_profile() -> None:
    assert [g.name for g in GUESTS] == ["guest-5.10", "guest-6.1", "guest-6.12"]
    assert guest("6.1") == GUESTS[1]
    hidden = guest("5.10:no-btf")
    assert guest("6.1-systemd") not in GUESTS  # slower to boot than what most ask for
    assert (hidden.name, hidden.profile.hide_btf, hidden.system.headers) == ("guest-5.10-no-btf", True, True)


@pytest.mark.parametrize("text", ["", "4.19", "5.10:", "5.10:nothing", "5.10:unprivileged", "6.1:memlock-64k"])
def test_what_is_no_guest_is_refused(text: str) -> None:
    if text == "5.10:":
        assert guest(text) == guest("5.10")
        return
    with pytest.raises(GuestUnknown):
        guest(text)


def test_every_profile_of_a_whole_host_is_offered() -> None:
    of_processes = {name for name, row in PROFILES.items() if row.user or row.caps is not None}
    for name in set(PROFILES) - of_processes:
        assert guest(f"6.12:{name}").profile is PROFILES[name]
    assert of_processes == {"unprivileged", "capable", "memlock-64k"}


def test_the_command_line_says_what_it_would_start(tmp_path: Path) -> None:
    def ask(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(cli, ["--home", str(tmp_path / "home"), "lab", "guests", *words])
        assert done.exit_code == code, done.output
        return done.output

    rows = json.loads(ask("up", "--check", "-o", "json", "5.10:no-btf", "6.1", "6.1"))["rows"]
    assert [(r["name"], r["kernel"], r["profile"]) for r in rows] == [
        ("guest-5.10-no-btf", "debian:5.10", "no-btf"),
        ("guest-6.1", "debian:6.1", "plain"),
    ]
    assert len(json.loads(ask("up", "--check", "-o", "json"))["rows"]) == len(GUESTS)
    assert json.loads(ask("list", "-o", "json"))["rows"] == []
    assert "nothing is there" in ask("down", "--check")


def test_another_recipe_is_another_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = [system for system in SYSTEMS.values() if not system.disk]
    paths = {image_path(system, KERNEL, cache=tmp_path) for system in own}
    monkeypatch.setattr(guest_system, "PACKAGES", (*guest_system.PACKAGES, "tcpdump"))
    paths |= {image_path(system, KERNEL, cache=tmp_path) for system in own}
    assert len(paths) == 2 * len(own)


def test_a_kernel_of_the_lab_boots_another_guests_root_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = guest("no-bpf")
    assert small not in GUESTS, "it is built, for minutes, only when asked for"
    assert (small.name, small.system.kernel) == ("guest-no-bpf", "small:no-bpf")
    asked: list[tuple[str, str]] = []

    def build_(system: guest_system.System, kernel: Kernel, **_: object) -> Path:
        asked.append((system.kernel, kernel.name))
        raise SystemUnbuildable("enough")

    monkeypatch.setattr(guests, "fetch", lambda name, **_: replace(KERNEL, name=name))
    monkeypatch.setattr(guests, "build", build_)
    with pytest.raises(SystemUnbuildable):
        GuestLab(tmp_path / "lab", tmp_path / "cache", guests=[small]).up()
    assert asked == [("debian:6.12", "debian:6.12")]


def test_a_system_is_built_from_signed_packages_only_and_half_a_one_is_none(tmp_path: Path) -> None:
    archive, other = DebianArchive(tmp_path / "archive"), DebianArchive(tmp_path / "other")
    archive.publish("bookworm", [("base-files", "1", [], {"etc/known": b"yes"})])
    said = {}
    try:
        for keyring in (archive.keyring, other.keyring):
            with pytest.raises(SystemUnbuildable) as refused:
                build(SYSTEMS["6.1"], KERNEL, cache=tmp_path / "cache", origin=Origin(archive.mirror, keyring))
            said[keyring] = refused.value.message
    finally:
        archive.close()
        other.close()
    untrusted = re.compile("NO_PUBKEY|not signed|Missing key|couldn't be verified")
    assert untrusted.search(said[other.keyring])
    assert not untrusted.search(said[archive.keyring]), said  # trusted: that archive only lacks the packages
    assert [p.name for p in (tmp_path / "cache" / "guests").glob("*") if not p.name.endswith(".lock")] == []


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process with an emulator's command line; what it emulates does not matter here."""
    initramfs = tmp_path / "lab" / "guest-6.1" / "initramfs"
    initramfs.parent.mkdir(parents=True)
    words = ["-c", "import time; print('up', flush=True); time.sleep(60)", "-initrd", str(initramfs)]
    with subprocess.Popen(["qemu-system-x86_64", *words], executable=sys.executable, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process
        process.kill()


def test_down_ends_the_guests_of_its_own_folder_whoever_started_them(
    emulator: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    other = GuestLab(tmp_path / "lab2", tmp_path / "cache")
    other.folder.mkdir()
    assert other.standing() == []
    other.down()
    assert emulator.poll() is None
    own = GuestLab(tmp_path / "lab", tmp_path / "cache")
    assert own.standing() == ["guest-6.1"]
    own.down()
    assert emulator.poll() is not None
    assert own.standing() == []
    assert not own.folder.exists()
    own.down()


def test_a_guest_that_ends_is_told_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = GuestLab(tmp_path / "lab", tmp_path / "cache", guests=[guest("6.1")])
    monkeypatch.setattr(guests, "fetch", lambda *_, **__: KERNEL)
    monkeypatch.setattr(guests, "build", lambda *_, **__: tmp_path / "no.ext4")
    with pytest.raises(GuestLost) as lost:
        lab.up()
    assert "guest-6.1 ended" in lost.value.message
    assert "no.ext4" in lost.value.message  # the emulator's own complaint
    assert machine.standing(lab.folder) == []
    assert list(lab.folder.iterdir()) != []  # to be read
