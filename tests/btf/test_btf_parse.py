"""Parsing BTF: against bpftool's own dump, both byte orders, both headers, and whatever bytes come."""

from __future__ import annotations

import json
import struct
import subprocess
from array import array
from collections.abc import Iterator
from dataclasses import replace

import pytest
from btf_places import SAMPLES
from hypothesis import given, settings
from hypothesis import strategies as st
from judge import BPFTOOL
from judged import KERNELS

from btf.archive.archive import read_btf_file
from btf.format.architecture import architecture
from btf.format.encode import encode_btf
from btf.format.index import essential_name
from btf.format.kinds import (
    Array,
    BtfType,
    Composite,
    Const,
    Datasec,
    DeclTag,
    Enum,
    Enum64,
    Float,
    Func,
    FuncProto,
    Fwd,
    Int,
    Kind,
    Member,
    Ptr,
    Reference,
    Struct,
    Typedef,
    TypeTag,
    Union,
    Unknown,
    Var,
)
from btf.format.parse import BtfMalformed, parse_btf
from btf.format.types import Btf


def _as_bpftool(btf: Btf, type_: BtfType) -> dict:
    """The same type as ``bpftool -j btf dump`` writes it."""
    row: dict = {"id": type_.id, "kind": type_.kind.name, "name": type_.name or "(anon)"}
    match type_:
        case Int():
            encoding = {0: "(none)", 1: "SIGNED", 2: "CHAR", 4: "BOOL"}[type_.encoding]
            row |= {"size": type_.size, "bits_offset": type_.bit_offset, "nr_bits": type_.bits, "encoding": encoding}
        case Array():
            row |= {"type_id": type_.type, "index_type_id": type_.index_type, "nr_elems": type_.length}
        case Composite():
            members = [
                {"name": m.name or "(anon)", "type_id": m.type, "bits_offset": m.bit_offset}
                | ({"bitfield_size": m.bit_size} if m.bit_size else {})
                for m in type_.members
            ]
            row |= {"size": type_.size, "vlen": len(members), "members": members}
        case Enum():
            values = [{"name": name, "val": value} for name, value in type_.values]
            encoding = "SIGNED" if type_.signed else "UNSIGNED"
            row |= {"encoding": encoding, "size": type_.size, "vlen": len(values), "values": values}
        case Fwd():
            row |= {"fwd_kind": "union" if type_.is_union else "struct"}
        case Func():
            row |= {"type_id": type_.type, "linkage": ["static", "global", "extern"][type_.linkage]}
        case FuncProto():
            params = [{"name": name or "(anon)", "type_id": id_} for name, id_ in type_.parameters]
            row |= {"ret_type_id": type_.type, "vlen": len(params), "params": params}
        case Var():
            row |= {"type_id": type_.type, "linkage": ["static", "global", "extern"][type_.linkage]}
        case Datasec():
            rows = [{"type_id": t, "offset": o, "size": s} for t, o, s in type_.variables]
            row |= {"size": type_.size, "vlen": len(rows), "vars": rows}
        case Float():
            row |= {"size": type_.size}
        case DeclTag():
            row |= {"type_id": type_.type, "component_idx": type_.component}
        case Reference():
            row |= {"type_id": type_.type}
    return row


def _bpftools(path) -> Iterator[dict]:
    done = subprocess.run(["bpftool", "-j", "btf", "dump", "file", path], capture_output=True, check=True)
    text, decoder = done.stdout.decode("utf-8", "surrogateescape"), json.JSONDecoder()
    at = text.index("[") + 1
    while text[at] != "]":  # type by type: all at once would take gigabytes
        row, at = decoder.raw_decode(text, at)
        at += text[at] == ","
        for variable in row.get("vars", ()):
            variable.pop("name", None)
        if row["kind"] == "ENUM" and row["encoding"] == "UNSIGNED":
            for value in row["values"]:  # this bpftool stretches them to 64 bits with a sign they do not have
                value["val"] &= 0xFFFFFFFF
        yield row


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda name: name.replace(" ", "-"))
def test_every_type_of_real_kernels_as_bpftool_reads_it(tmp_path, kernel) -> None:
    path = tmp_path / "kernel.btf"
    path.write_bytes(KERNELS[kernel]())
    btf = parse_btf(path.read_bytes())
    for row in _bpftools(path):
        assert _as_bpftool(btf, btf[row["id"]]) == row
        BPFTOOL.types += 1
        last = row["id"]
    assert last == len(btf) - 1
    BPFTOOL.kernels.add(kernel)


def test_every_kind_clang_writes_as_bpftool_reads_it(compile_bpf, tmp_path, btf_bytes) -> None:
    text = """
        #define TAG(x) __attribute__((btf_decl_tag(x)))
        struct later; union both { int a; float f; double TAG("d") d; };
        enum signs { MINUS = -1, PLUS }; enum big { BIG = 0xfffffffffULL };
        typedef int (*call)(struct later *restrict, const volatile char *, ...);
        struct all { int bits : 3, more : 7; call call; union both both; enum signs signs; _Bool flag; int grid[2][3];
                     int __attribute__((btf_type_tag("user"))) *tagged; } TAG("whole");
        int hidden(int a TAG("p")) { return a; }
        struct all all; static enum big big; extern int outside __attribute__((section(".kconfig")));
        int use(void) { return hidden(outside) + big; }
    """
    raw = tmp_path / "kinds.btf"
    raw.write_bytes(btf_bytes("kinds.c", text=text))
    btf = parse_btf(raw.read_bytes())
    assert [_as_bpftool(btf, t) for t in btf[1:]] == list(_bpftools(raw))
    assert {Kind.DECL_TAG, Kind.TYPE_TAG, Kind.FLOAT, Kind.DATASEC, Kind.VAR, Kind.RESTRICT} <= {t.kind for t in btf}


@pytest.mark.parametrize("source", ["kernel_a.c", "kernel_b.c"])
def test_byte_orders_say_the_same(btf_bytes, source) -> None:
    little, big = parse_btf(btf_bytes(source)), parse_btf(btf_bytes(source, big=True))
    assert big.big_endian and not little.big_endian
    strip = [t for t in little if not isinstance(t, Composite)]
    assert strip == [t for t in big if not isinstance(t, Composite)]  # bitfields lie the other way round
    assert [len(t.members) for t in little if isinstance(t, Composite)] == [
        len(t.members) for t in big if isinstance(t, Composite)
    ]


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
word = st.integers(0, (1 << 32) - 1)


@st.composite
def type_lists(draw) -> list[BtfType]:
    count = draw(st.integers(1, 12))
    reference = st.integers(0, count)
    small = st.integers(0, 200)
    members = st.lists(
        st.builds(Member, names | st.just(""), reference, st.integers(0, 1 << 23), st.just(0)), max_size=4
    )
    bitfields = st.lists(st.builds(Member, names, reference, st.integers(0, 1 << 23), st.integers(0, 255)), max_size=4)
    parameters = st.lists(st.tuples(names, reference), max_size=3)
    one = st.one_of(
        st.builds(Int, small, names, small, st.sampled_from([0, 1, 2, 4]), small, small),
        *(st.builds(kind, small, st.just(""), reference) for kind in (Ptr, Const)),
        *(st.builds(kind, small, names, reference) for kind in (Typedef, TypeTag)),
        st.builds(Array, small, st.just(""), reference, reference, word),
        *(st.builds(k, small, names, word, members.map(tuple), st.just(False)) for k in (Struct, Union)),
        st.builds(Struct, small, names, word, bitfields.map(tuple), st.just(True)),
        st.builds(
            Enum, small, names, word, st.just(True),
            st.lists(st.tuples(names, st.integers(-(1 << 31), (1 << 31) - 1)), max_size=3).map(tuple),
        ),
        st.builds(
            Enum64, small, names, word, st.just(False),
            st.lists(st.tuples(names, st.integers(0, (1 << 64) - 1)), max_size=3).map(tuple),
        ),
        st.builds(
            Enum64, small, names, word, st.just(True),
            st.lists(st.tuples(names, st.integers(-(1 << 63), (1 << 63) - 1)), max_size=3).map(tuple),
        ),
        st.builds(Fwd, small, names, st.booleans()),
        st.builds(Func, small, names, reference, st.integers(0, 2)),
        st.builds(FuncProto, small, st.just(""), reference, parameters.map(tuple)),
        st.builds(Var, small, names, reference, st.integers(0, 2)),
        st.builds(Datasec, small, names, word, st.lists(st.tuples(reference, word, word), max_size=3).map(tuple)),
        st.builds(Float, small, names, word),
        st.builds(DeclTag, small, names, reference, st.integers(-1, 100), st.booleans()),
    )  # fmt: skip
    return [replace(draw(one), id=number) for number in range(1, count + 1)]


@settings(max_examples=50, deadline=None)
@given(type_lists(), st.booleans(), st.booleans())
def test_what_is_written_reads_back(types, big_endian, layout) -> None:
    data = encode_btf(types, big_endian=big_endian, layout=layout)
    assert data[4:8] == (32 if layout else 24).to_bytes(4, "big" if big_endian else "little")
    btf = parse_btf(data)
    assert list(btf)[1:] == types
    for type_ in types:
        if type_.name:
            assert type_.id in btf.by_name(type_.name) and type_.id in btf.by_name(type_.name, type_.kind)
            assert type_.id in btf.flavours(essential_name(type_.name))


@settings(max_examples=50, deadline=None)
@given(type_lists(), type_lists(), st.booleans(), st.booleans())
def test_what_is_written_on_a_base_reads_back(types, more, big_endian, layout) -> None:
    """A module's types refer to its base's by the base's numbers, and go on where those end."""
    base = parse_btf(encode_btf(types, big_endian=big_endian))
    own = [replace(type_, id=len(base) + number) for number, type_ in enumerate(more)]
    split = parse_btf(encode_btf(own, big_endian=big_endian, base=base, layout=layout), base=base)
    assert list(split)[1:] == types + own
    for type_ in types + own:
        assert split.kind_of(type_.id) == type_.kind and split.name_of(type_.id) == type_.name
        if type_.name:
            assert type_.id in split.by_name(type_.name) and type_.id in split.flavours(essential_name(type_.name))
        if isinstance(type_, Composite):
            assert [split.member(type_.id, index) for index in range(len(type_.members))] == list(type_.members)
            index = split.members(type_.id)
            for name in {m.name for m in type_.members}:
                places = [number for number, m in enumerate(type_.members) if m.name == name]
                assert index.named[name] == places[0] if name else index.unnamed == tuple(places)


def _look_at_everything(data: bytes) -> None:
    """Whatever is wrong must come out as BtfMalformed, from parsing or from the first look."""
    try:
        btf = parse_btf(data)
        for type_ in btf:
            btf.text(type_.id)
            btf.size_of(type_.id)
            btf.resolve(type_.id)
            btf.by_name(type_.name)
        _ = btf.functions(), btf.pointer_size, architecture(btf)
    except BtfMalformed as fault:
        assert str(fault).startswith("COR-BTF-001")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_are_one_clear_fault(btf_bytes, data) -> None:
    raw = bytearray(btf_bytes("kernel_a.c"))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    _look_at_everything(bytes(raw))


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 64))
def test_any_bytes_are_one_clear_fault(tail, string_length) -> None:
    _look_at_everything(struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(tail), len(tail), string_length) + tail)
    _look_at_everything(tail)


def test_cut_off_anywhere_is_refused_with_a_place(btf_bytes) -> None:
    raw = btf_bytes("kernel_a.c")
    for length in range(len(raw)):
        with pytest.raises(BtfMalformed) as caught:
            parse_btf(raw[:length])
        assert "byte" in caught.value.message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: b.__setitem__(0, 0), "byte 0 is not the magic"),
        (lambda b: b.__setitem__(2, 9), "version 9 at byte 2"),
        (lambda b: b.__setitem__(4, 8), "header length 8 at byte 4"),
        (lambda b: b.__setitem__(31, 0x7F), "kind 127, whose size is not known"),
        (lambda b: b.__setitem__(slice(28, 31), b"\xff\xff\xff"), "type 1 at byte 24"),
        (lambda b: b.__setitem__(-1, 65), "do not start and end with a zero byte"),
    ],
    ids=["magic", "version", "header", "kind", "vlen", "strings"],
)
def test_a_fault_says_where(btf_bytes, change, words) -> None:
    raw = bytearray(btf_bytes("kernel_a.c", text=None))
    struct_first = encode_btf([Struct(1, "s", 4, (Member("m", 0, 0),)), *parse_btf(bytes(raw))[1:]])
    raw = bytearray(struct_first)
    change(raw)
    with pytest.raises(BtfMalformed, match=words):
        parse_btf(bytes(raw))


def test_a_reference_out_of_range_says_where() -> None:
    btf = parse_btf(encode_btf([Ptr(1, "", 77)]))
    with pytest.raises(BtfMalformed, match="type 1 at byte 24 refers to type 77"):
        _ = btf[1]


def test_cycles_end() -> None:
    btf = parse_btf(encode_btf([Typedef(1, "a", 2), Const(2, "", 1), Array(3, "", 3, 0, 2), Ptr(4, "", 4)]))
    with pytest.raises(BtfMalformed, match="refers to itself"):
        btf.resolve(1)
    assert btf.size_of(1) is None and btf.size_of(3) is None
    assert btf.text(4).startswith("…") and btf.text(3).startswith("…")


def test_a_long_header_and_its_layout_skip_what_is_new() -> None:
    known = [Int(1, "int", 4, 1, 0, 32), Ptr(3, "", 1)]
    strings = b"\0int\0new\0"
    number = 25  # one word after the common three, and two words per element
    words = array("I", [1, 1 << 24, 4, 1 << 24 | 32, 5, number << 24 | 2, 0, 7, 1, 2, 3, 4, 0, 2 << 24, 1])
    layout = b"".join(struct.pack("<BBH", 4, 8, 0) if k == number else bytes(4) for k in range(number + 1))
    body = words.tobytes()
    header = struct.pack(
        "<HBBIIIIIII", 0xEB9F, 1, 0, 32, 0, len(body), len(body), len(strings), len(body) + len(strings), len(layout)
    )
    btf = parse_btf(header + body + strings + layout)
    assert [btf[1], btf[3]] == known
    assert btf[2] == Unknown(2, "new", number)
    with pytest.raises(BtfMalformed, match=f"type 2 at byte {24 + 16} is of kind {number}, whose size"):
        parse_btf(struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(body), len(body), len(strings)) + body + strings)


@pytest.mark.parametrize(("kind", "words"), [(0, "kind 0, which no record has"), (21, r"kind 21 \(LOC_PROTO\), whose")])
def test_a_kind_that_is_new_is_told_from_one_that_is_none(kind, words) -> None:
    body = array("I", [0, kind << 24, 0]).tobytes()
    with pytest.raises(BtfMalformed, match=words):
        parse_btf(struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(body), len(body), 1) + body + b"\0")


def test_a_modules_btf_stands_on_the_kernels() -> None:
    base = parse_btf(encode_btf([Int(1, "int", 4, 1, 0, 32), Struct(2, "s", 4, (Member("m", 1, 0),))]))
    words = array("I", [base.string_end + 0, 8 << 24, 2, 1, 4 << 24, 0])  # typedef of s; struct called as the base says
    strings = b"module_s\0"
    data = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(words) * 4, len(words) * 4, len(strings))
    module = parse_btf(data + words.tobytes() + strings, base=base)
    assert module[3] == Typedef(3, "module_s", 2) and module[2] is base[2]
    assert module.by_name("module_s") == [3] and module.by_name("s") == [2] and module.by_name("int") == [1, 4]
    assert module.text(3) == "module_s" and module.size_of(3) == 4


@pytest.mark.parametrize(
    ("name", "essential"),
    [
        ("a", "a"), ("a___b", "a"), ("a___b___c", "a___b"), ("a____b", "a____b"), ("___b", "___b"), ("a___", "a___"),
        ("a__b", "a__b"), ("a___b____c", "a"), ("_a___b", "_a"),
    ],
)  # fmt: skip
def test_essential_names(name, essential) -> None:
    assert essential_name(name) == essential


def test_questions_to_the_running_kernel(vmlinux) -> None:
    assert vmlinux.enum_values("bpf_prog_type")["BPF_PROG_TYPE_XDP"] == 6
    assert vmlinux.enum_values("no_such_enum") == {}
    assert "tcp_v4_connect" in vmlinux.functions() and "no_such_function" not in vmlinux.functions()
    (task,) = vmlinux.by_name("task_struct", Kind.STRUCT)
    fields = {m.name: vmlinux.text(m.type) for m in vmlinux[task].members}
    assert fields["comm"] == "char[16]" and fields["real_parent"] == "struct task_struct *"
    assert architecture(vmlinux) == "x86_64"


def test_real_kernels_of_the_sample_folder() -> None:
    assert SAMPLES.is_dir(), f"the BTF samples are missing: {SAMPLES} is shared beside the project, not part of it"
    found = {path.name: parse_btf(read_btf_file(path)) for path in sorted(SAMPLES.rglob("*.btf.tar.xz"))}
    arches = {name: architecture(btf) for name, btf in found.items()}
    assert set(arches.values()) == {"x86_64", "aarch64"}
    for btf in found.values():
        assert btf.by_name("task_struct", Kind.STRUCT) and btf.enum_values("bpf_map_type")
    kabi = next(btf for name, btf in found.items() if "el8_1" in name)
    assert len(kabi.by_name("task_struct", Kind.STRUCT)) > 300  # not deduplicated
