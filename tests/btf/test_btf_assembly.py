"""Instructions as text, judged by the LLVM disassembler; what this one is too old for, by the words of a newer one."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from embedded import embedded_objects

from btf.objects.assembly import text
from btf.objects.insn import Insn, decode_insns

_LISTED = re.compile(r"^\s+\d+:\t((?:[0-9a-f]{2} ?)+)\t(.*?)(?: <LBB[^>]*>)?$", re.M)


def _disagreements(path: Path) -> tuple[int, list[tuple[str, str]]]:
    """Compare the text of every instruction in the object at *path*: how many, and (ours, theirs) that differ."""
    command = ["llvm-objdump", "-d", "--no-print-imm-hex", path]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [(text(decode_insns(bytes.fromhex(m[1])), 0), m[2].strip()) for m in _LISTED.finditer(listing)]
    return len(rows), [row for row in rows if row[0] != row[1]]


@pytest.mark.parametrize("cpu", ["v1", "v2", "v3"])
@pytest.mark.parametrize("source", ["tracing.bpf.c", "relocations.bpf.c"])
def test_as_the_disassembler_has_it(compile_bpf, source, cpu) -> None:
    count, differ = _disagreements(compile_bpf(source, cpu=cpu))
    assert count > 50 and not differ


def test_the_tools_of_libbpf_as_the_disassembler_has_them(tmp_path) -> None:
    listed = subprocess.run(["dpkg", "-L", "libbpf-tools"], capture_output=True, text=True, check=True).stdout
    total = 0
    for tool in (Path(line) for line in listed.split() if "/sbin/" in line):
        for number, raw in enumerate(embedded_objects(tool.read_bytes())):
            path = tmp_path / f"{tool.name}-{number}.o"
            path.write_bytes(raw)
            count, differ = _disagreements(path)
            total += count
            assert not differ, (tool, differ[:5])
    assert total > 15_000


@pytest.mark.parametrize(
    ("insn", "words"),
    [
        (Insn(0x81, 1, 2, -4, 0), "r1 = *(s32 *)(r2 - 4)"),
        (Insn(0x91, 1, 2, 4, 0), "r1 = *(s8 *)(r2 + 4)"),
        (Insn(0xBF, 1, 2, 8, 0), "r1 = (s8)r2"),
        (Insn(0xBC, 1, 2, 16, 0), "w1 = (s16)w2"),
        (Insn(0xD7, 3, 0, 0, 64), "r3 = bswap64 r3"),
        (Insn(0xDC, 3, 0, 0, 16), "r3 = be16 r3"),
        (Insn(0xD4, 3, 0, 0, 32), "r3 = le32 r3"),
        (Insn(0x3F, 1, 2, 1, 0), "r1 s/= r2"),
        (Insn(0x94, 1, 0, 1, 7), "w1 s%= 7"),
        (Insn(0x06, 0, 0, 0, -5), "gotol -5"),
        (Insn(0xE5, 0, 0, 3, 0), "may_goto +3"),
        (Insn(0x7A, 10, 0, -8, -1), "*(u64 *)(r10 - 8) = -1"),
        (Insn(0xDB, 1, 2, 0, 0x01), "r2 = atomic_fetch_add((u64 *)(r1 + 0), r2)"),
        (Insn(0xC3, 1, 2, 4, 0xE1), "w2 = xchg32_32(r1 + 4, w2)"),
        (Insn(0xDB, 1, 2, 0, 0xF1), "r0 = cmpxchg_64(r1 + 0, r0, r2)"),
        (Insn(0xDB, 1, 2, 8, 0x100), "r1 = load_acquire((u64 *)(r2 + 8))"),
        (Insn(0xC3, 1, 2, 8, 0x110), "store_release((u32 *)(r1 + 8), w2)"),
        (Insn(0xBF, 1, 2, 1, 1), "r1 = addr_space_cast(r2, 1, 0)"),
        (Insn(0x87, 4, 0, 0, 0), "r4 = -r4"),
        (Insn(0xFF, 0, 0, 0, 0), "unknown 0xff"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_newer_instruction_sets_have(insn, words) -> None:
    assert text([insn], 0) == words


def test_a_wide_load_takes_both_slots() -> None:
    slots = [Insn(0x18, 1, 0, 0, 1), Insn(0, 0, 0, 0, 2)]
    assert text(slots, 0) == "r1 = 8589934593 ll"
    assert text(slots[:1], 0) == "r1 = 1 ll"
