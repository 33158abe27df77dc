"""Guests of another architecture without booting one: what they are made of, and what is said when that cannot be had.

Those that boot are in ``test_proof_arm64.py``.
"""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from fleet.lab import foreign
from fleet.lab.foreign import FOREIGN, ForeignUnbuildable, base, bases
from fleet.lab.initramfs import Base, GuestUnbuildable
from fleet.lab.kernel_store import Kernel, KernelUnknown
from fleet.lab.machine import EMULATORS, command
from fleet.lab.profiles import PROFILES
from fleet.lab.proof import prove

KERNEL = Kernel("debian:6.12/arm64", Path("/nowhere/vmlinuz"), "6.12.0-9-cloud-arm64", "aarch64")
ROW = FOREIGN["aarch64"]


def test_an_architecture_without_a_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KernelUnknown) as refused:
        base("m68k", cache=tmp_path)
    assert "aarch64" in refused.value.advice


def test_a_missing_compiler_is_named_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FOREIGN, "aarch64", replace(ROW, compiler="no-such-gcc"))
    monkeypatch.setattr(foreign, "apt_of", lambda *_, **__: pytest.fail("it fetches"))
    with pytest.raises(ForeignUnbuildable, match="no-such-gcc is not on this machine") as refused:
        base("aarch64", cache=tmp_path)
    assert "gcc-aarch64-linux-gnu" in refused.value.advice


def test_only_other_architectures_are_made(tmp_path: Path) -> None:
    assert bases([replace(KERNEL, arch=os.uname().machine)], cache=tmp_path) == {}


def test_a_kernel_that_no_guest_was_made_for_is_told_before_any_boots() -> None:
    with pytest.raises(GuestUnbuildable, match="aarch64"):
        next(prove([], [KERNEL], [PROFILES["plain"]]))


def test_python_comes_with_what_it_is_linked_with_and_without_what_nobody_imports(tmp_path: Path) -> None:
    kept = {
        "usr/bin/python3.11": "interpreter",
        "lib/aarch64-linux-gnu/ld-linux-aarch64.so.1": "loader",
        "lib/aarch64-linux-gnu/libc.so.6": "libc",
        "usr/lib/aarch64-linux-gnu/libffi.so.8": "ffi",
        "usr/lib/python3.11/json/__init__.py": "json",
        "usr/lib/python3.11/lib-dynload/_ctypes.cpython-311-aarch64-linux-gnu.so": "ctypes",
    }
    idle = {
        "lib/aarch64-linux-gnu/libnsl.so.1": "",
        "usr/lib/aarch64-linux-gnu/libbpf.a": "",
        "usr/lib/python3.11/asyncio/events.py": "",
        "usr/lib/python3.11/lib-dynload/_testcapi.cpython-311-aarch64-linux-gnu.so": "",
        "usr/lib/python3.11/LICENSE.txt": "",
    }
    for name, text in (kept | idle).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    loader = tmp_path / "lib/ld-linux-aarch64.so.1"
    loader.symlink_to("aarch64-linux-gnu/ld-linux-aarch64.so.1")
    found = foreign._python(ROW, tmp_path)
    links = {name: entry.data.decode() for name, entry in found.items() if stat.S_ISLNK(entry.mode)}
    files = {name: entry.data.decode() for name, entry in found.items() if not stat.S_ISLNK(entry.mode)}
    assert files == kept
    assert links == {
        "usr/bin/python3": "python3.11",
        "lib/ld-linux-aarch64.so.1": "aarch64-linux-gnu/ld-linux-aarch64.so.1",
    }


@pytest.mark.parametrize("arch", EMULATORS)
def test_every_machine_has_two_ports(arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.lab.machine.shutil.which", lambda name: f"/usr/bin/{name}")
    ports = [tmp_path / "console", tmp_path / "report"]
    words = command(replace(KERNEL, arch=arch), tmp_path / "initramfs", ports, memory_mib=64)
    said = " ".join(words)
    assert f"console={EMULATORS[arch].console} " in said
    assert said.index(f"file:{ports[0]}") < said.index(f"path={ports[1]}" if arch == "aarch64" else f"file:{ports[1]}")
    assert ("no_timer_check" in said) == (arch == "x86_64")


def test_what_a_guest_starts_with_reports_to_its_own_second_port() -> None:
    made = {arch: foreign.assemble(arch, b"busybox", b"runner", {}) for arch in EMULATORS}
    assert all(isinstance(one, Base) and len(one.runner) == 64 for one in made.values())
    for arch, row in EMULATORS.items():
        assert f">/dev/{row.report} 2>&1".encode() in made[arch].archive
