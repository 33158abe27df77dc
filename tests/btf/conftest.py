"""Fixtures are C, compiled as they are needed; libbpf itself is asked through ctypes what it makes of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from btf_places import VMLINUX
from elftools.elf.elffile import ELFFile
from judge import BPFTOOL, INVENTED, REAL, REWRITTEN, TORTURE
from libbpf_truth import version
from torture import compiler

from btf.format.parse import parse_btf
from btf.format.types import Btf


@pytest.fixture(scope="session")
def compile_bpf(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """compile_bpf("x.bpf.c", cpu="v2") → path of the object; the source may also be given as *text*."""
    return compiler(tmp_path_factory.mktemp("objects"))


@pytest.fixture(scope="session")
def btf_bytes(compile_bpf: Callable[..., Path]) -> Callable[..., bytes]:
    """btf_bytes("kernel_a.c") → the .BTF section clang writes for it."""

    def section(name: str, **options: object) -> bytes:
        with io.BytesIO(compile_bpf(name, **options).read_bytes()) as file:
            return ELFFile(file).get_section_by_name(".BTF").data()

    return section


@pytest.fixture(scope="session")
def vmlinux_bytes() -> bytes:
    assert VMLINUX.exists(), "these tests compare with the running kernel, which must show its BTF"
    return VMLINUX.read_bytes()


@pytest.fixture(scope="session")
def vmlinux(vmlinux_bytes: bytes) -> Btf:
    return parse_btf(vmlinux_bytes)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = [tally.summary() for tally in (REAL, TORTURE, INVENTED) if tally.relocations] + list(BPFTOOL.summary())
    lines += [
        f"not read by this libbpf, compared as written anew without the kinds it does not know: {name}"
        for name in REWRITTEN
    ]
    if lines:
        terminalreporter.section(f"libbpf and bpftool as judges: {version()}")
    for line in lines:
        terminalreporter.write_line(line)
