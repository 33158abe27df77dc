"""``corollout check`` on kernel images: what is installed and boots next is answered before it boots."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import kernel_images as make
import pytest
from click.testing import CliRunner

from fleet.cli.main import cli

VMLINUX = Path("/sys/kernel/btf/vmlinux")
OBJECT = Path(__file__).parents[2] / "probes/programs/tcp_flow/core.bpf.o"
CONFIG = "CONFIG_BPF_SYSCALL=y\nCONFIG_DEBUG_INFO_BTF=y\n"


@pytest.fixture(scope="module")
def image() -> bytes:
    return make.bzimage(make.pack(make.vmlinux(VMLINUX.read_bytes()), "lz4"))


def run(*arguments: object):
    return CliRunner().invoke(cli, ["check", str(OBJECT), *map(str, arguments)])


def test_an_image_is_named_and_said_to_be_the_next_boot(image, tmp_path) -> None:
    path = tmp_path / "vmlinuz-6.9.1-test"
    path.write_bytes(image)
    done = run("--image", path)
    assert f"{OBJECT}: fits on next boot: 6.9.1-test (x86_64) — " in done.stdout
    assert "next boot" not in run().stdout
    (result,) = json.loads(run("--image", path, "-o", "json").stdout)["results"]
    (here,) = json.loads(run("-o", "json").stdout)["results"]
    assert result["kernel"] == {
        "release": "6.9.1-test", "arch": "x86_64", "build_id": make.BUILD_ID.hex(), "next_boot": True,
        "btf_sha256": here["kernel"]["btf_sha256"],
    }  # fmt: skip
    assert here["kernel"]["next_boot"] is False and here["kernel"]["release"] == os.uname().release
    assert result["programs"] == here["programs"]


def test_kconfig_beside_the_image_counts(image, tmp_path) -> None:
    path = tmp_path / "vmlinuz-6.9.1-test"
    path.write_bytes(image)
    (tmp_path / "config-6.9.1-test").write_text(
        CONFIG + "# CONFIG_BPF_EVENTS is not set\n# CONFIG_TRACEPOINTS is not set\n"
    )
    (without,) = json.loads(run("--image", path, "-o", "json").stdout)["results"]
    assert without["verdict"] == "refused"
    (tmp_path / "config-6.9.1-test").write_text(CONFIG + "CONFIG_BPF_EVENTS=y\nCONFIG_TRACEPOINTS=y\n")
    assert run("--image", path).exit_code == 0


def test_every_installed_kernel_once_by_release(image, tmp_path) -> None:
    boot, modules = tmp_path / "boot", tmp_path / "usr/lib/modules/6.10.0-test"
    boot.mkdir()
    modules.mkdir(parents=True)
    other = make.vmlinux(VMLINUX.read_bytes()).replace(b"6.9.1-test", b"6.10.0-tst").replace(make.BUILD_ID, b"B" * 20)
    (boot / "vmlinuz-6.9.1-test").write_bytes(image)
    (boot / "vmlinuz-6.9.1-again").write_bytes(image)
    (modules / "vmlinuz").write_bytes(gzip.compress(other, 1))

    def releases() -> list[tuple[str, bool, str]]:
        results = json.loads(run("--installed", "--root", tmp_path, "-o", "json").stdout)["results"]
        return [(r["kernel"]["release"], r["kernel"]["next_boot"], r["verdict"]) for r in results]

    both = [("6.9.1-test", True, "fits"), ("6.10.0-tst", True, "fits")]
    assert releases() == both and run("--installed", "--root", tmp_path).exit_code == 0
    # One without BTF is named, holds no other, and is no yes.
    (boot / "vmlinuz-6.8.0-bare").write_bytes(make.vmlinux(None).replace(make.BUILD_ID, b"C" * 20))
    done = run("--installed", "--root", tmp_path)
    assert done.exit_code == 6 and "6.8.0-bare: no .BTF section" in done.stderr and releases() == both


@pytest.mark.parametrize("data", [b"", b"hello" * 99, make.bzimage(b"nothing")])
def test_what_is_no_kernel_is_refused(data, tmp_path) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(data)
    done = run("--image", path)
    assert done.exception is not None and done.exception.code == "COR-BTF-030"
    empty = run("--installed", "--root", tmp_path)
    assert empty.exception is not None and empty.exception.code == "COR-CLI-021"
