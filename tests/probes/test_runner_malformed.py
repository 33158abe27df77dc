"""Broken objects: whatever the bytes, the runner says one clear thing and ends by itself.

Mutations are drawn from a fixed seed, so a failure can be repeated; the interesting places are aimed at.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from children import TCP_FLOW, bpfrun

pytestmark = pytest.mark.kernel

OBJECT = (TCP_FLOW / "core.bpf.o").read_bytes
SEED = 20_261_122
ROUNDS = 120
HEADER = 64


def sections(data: bytes) -> dict[str, tuple[int, int, int]]:
    """Name → (offset of its header, offset of its bytes, size)."""
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    rows = [struct.unpack_from("<IIQQQQ", data, table + size * i) for i in range(count)]
    strings = rows[names][4]
    found = {}
    for number, row in enumerate(rows):
        end = data.index(b"\0", strings + row[0])
        found[data[strings + row[0] : end].decode()] = (table + size * number, row[4], row[5])
    return found


def mutations(data: bytes) -> Iterator[tuple[str, bytes]]:
    chance = random.Random(SEED)
    places = {name: (at, size) for name, (_, at, size) in sections(data).items() if size}
    headers = {name: at for name, (at, _, _) in sections(data).items()}
    for number in range(ROUNDS):
        changed = bytearray(data)
        kind = number % 4
        if kind == 0:
            cut = chance.randrange(len(data))
            yield f"cut at {cut}", data[:cut]
            continue
        if kind == 1:
            name = chance.choice([n for n in places if n in (".BTF", ".BTF.ext", ".maps", ".symtab", ".strtab")])
            at, size = places[name]
        elif kind == 2:
            name, size = chance.choice(list(headers.items()))[0], 64
            at = headers[name]
        else:
            name, at, size = "ELF header", 0, HEADER
        for _ in range(chance.choice((1, 4, 32))):
            changed[at + chance.randrange(size)] = chance.choice((0, 1, 0x7F, 0xFF, chance.randrange(256)))
        yield f"{name} (round {number})", bytes(changed)


def test_every_broken_object_gets_one_clear_answer(tmp_path: Path) -> None:
    refused = 0
    for what, data in mutations(OBJECT()):
        path = tmp_path / "broken.bpf.o"
        path.write_bytes(data)
        code, events = bpfrun("verify", path)
        assert len(events) == 1, what
        (event,) = events
        if event["event"] == "verified":  # bytes nobody reads
            assert code == 0, what
            continue
        refused += 1
        assert code in (2, 3), what
        assert event["event"] == "error", what
        assert event["stage"] in ("open", "load", "map", "btf"), what
        assert event["message"].strip(), what
        assert event["errno"].startswith("E"), what
    assert refused > ROUNDS // 3


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x7fELF",
        b"not an object at all\n" * 100,
        b"\x7fELF\x02\x01\x01" + b"\0" * 57,
        b"\x7fELF\x01\x01\x01" + b"\xff" * 200,
    ],
    ids=["empty", "magic only", "text", "hollow", "32-bit noise"],
)
def test_what_is_no_object_is_refused_at_open(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "none.bpf.o"
    path.write_bytes(data)
    code, events = bpfrun("verify", path)
    assert code == 2
    assert [(event["event"], event["stage"]) for event in events] == [("error", "open")]


def test_a_folder_a_missing_file_and_a_giant_are_refused(tmp_path: Path) -> None:
    giant = tmp_path / "giant"
    with giant.open("wb") as file:
        file.truncate(1 << 30)  # sparse
    for path in (tmp_path, tmp_path / "absent", giant):
        code, (event,) = bpfrun("verify", path)
        assert (code, event["stage"]) == (2, "open")
        assert str(path) in event["message"]


def test_the_object_of_another_machine_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "host.o"
    path.write_bytes(Path("/bin/true").read_bytes())
    code, (event,) = bpfrun("verify", path)
    assert (code, event["stage"]) == (2, "open")
