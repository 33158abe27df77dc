"""The collector's parts that need no kernel: parsing, tables, the bundle, and the floor of Python 3.6."""

from __future__ import annotations

import ast
import contextlib
import ctypes
import errno
import json
import re
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inventory.collector import (
    bpf_attach,
    bpf_call,
    bpf_tables,
    btf_names,
    bundle,
    document,
    hook_facts,
    kernel_facts,
    machine_facts,
    netlink,
    policy_facts,
)

FOLDER = Path(bundle.__file__).parent


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.py")))
def test_every_file_speaks_python_36(name: str) -> None:
    source = (FOLDER / name).read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 6))
    newer = {"capture_output", "removeprefix", "removesuffix", "fromisoformat", "time_ns", "nullcontext", "dataclasses"}
    used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    used |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.keyword) and n.arg}
    used |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
    assert used & newer == set()
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]
    assert not [n for n in calls if n.func.attr in ("run", "Popen") and any(k.arg == "text" for k in n.keywords)]
    assert "from __future__ import annotations" not in source
    # list[int] and friends in annotations are evaluated on 3.6 and fail there.
    assert not [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.Subscript)
        and isinstance(n.value, ast.Name)
        and n.value.id in ("list", "dict", "tuple", "set")
    ]


def test_the_collector_imports_nothing_but_the_standard_library_and_itself() -> None:
    for name in bundle.MODULES:
        for node in ast.walk(ast.parse((FOLDER / f"{name}.py").read_text())):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                assert module.startswith("inventory.collector") or module.split(".")[0] in sys.stdlib_module_names, (
                    module
                )


def test_the_bundle_holds_every_module_is_ascii_and_small_enough_to_travel() -> None:
    source = bundle.collector_source()
    source.decode("ascii")
    ast.parse(source, feature_version=(3, 6))
    assert {path.stem for path in FOLDER.glob("*.py")} - {"__init__", "bundle"} == set(bundle.MODULES)
    assert len(source) < 150_000
    assert len(bundle.collector_command()) < 100_000  # the kernel's limit for one argument is 128 KB


def test_the_shell_form_uses_no_tool_beyond_the_small_ones() -> None:
    text = (FOLDER / "reduced.sh").read_text()
    for tool in ("awk", "perl", "python3 -c", "xargs", "jq", "[[ ", "function ", "local "):
        assert not [line for line in text.splitlines() if tool in line and not line.lstrip().startswith("#")], tool
    subprocess.run(["dash", "-n", str(FOLDER / "reduced.sh")], check=True)


@pytest.mark.parametrize(
    ("number", "answer"),
    [
        (errno.EPERM, "blocked"),
        (errno.EACCES, "blocked"),
        (errno.ENOENT, "no"),
        (errno.ENOTDIR, "no"),
        (errno.EIO, "unknown"),
        (errno.ENOMEM, "unknown"),
    ],
)
def test_what_an_errno_of_reading_means(number: int, answer: str) -> None:
    assert document.answer_for(number) == answer


def test_a_file_is_read_denied_absent_or_strange(tmp_path: Path) -> None:
    report = document.Report()
    (tmp_path / "number").write_text("42\n")
    (tmp_path / "words").write_text("many words\n")
    assert report.read("a", str(tmp_path / "number"), int) == 42
    report.read("b", str(tmp_path / "words"), int)
    report.read("c", str(tmp_path / "nothing"), int)
    report.read("d", str(tmp_path), int)
    assert [report.facts[n]["answer"] for n in "abcd"] == ["yes", "unknown", "no", "unknown"]
    assert report.facts["c"]["errno"] == "ENOENT"
    assert report.facts["b"]["raw"] == "many words"


def test_errno_524_has_the_kernels_name() -> None:
    assert document.errno_name(524) == "ENOTSUPP"
    assert document.errno_name(errno.EPERM) == "EPERM"


def note(owner: bytes, kind: int, content: bytes) -> bytes:
    def padded(data: bytes) -> bytes:
        return data + b"\0" * (-len(data) % 4)

    return struct.pack("=III", len(owner) + 1, len(content), kind) + padded(owner + b"\0") + padded(content)


def test_the_build_id_is_told_from_the_build_salt() -> None:
    data = note(b"Linux", 256, b"6.1.0 salt") + note(b"GNU", 3, b"\xab" * 20) + note(b"Xen", 6, b"x")
    assert list(kernel_facts.notes(data)) == [
        (b"Linux", 256, b"6.1.0 salt"),
        (b"GNU", 3, b"\xab" * 20),
        (b"Xen", 6, b"x"),
    ]


@given(st.binary(max_size=200))
def test_any_notes_are_read_without_an_error(data: bytes) -> None:
    list(kernel_facts.notes(data))


def test_kconfig_keeps_the_four_cases_apart() -> None:
    options = kernel_facts.parse_kconfig(
        "# banner\nCONFIG_BPF=y\nCONFIG_NET_SCH_INGRESS=m\n# CONFIG_KPROBES is not set\n"
        'CONFIG_LSM="lockdown,bpf"\nCONFIG_FOO=y\n'
    )
    assert options == {
        "CONFIG_BPF": "y",
        "CONFIG_NET_SCH_INGRESS": "m",
        "CONFIG_KPROBES": "n",
        "CONFIG_LSM": "lockdown,bpf",
    }


def test_mountinfo_is_read_with_its_escapes() -> None:
    rows = hook_facts.parse_mountinfo(
        "36 35 98:0 / /mnt\\040one rw,noatime master:1 - tracefs tracefs rw\n"
        "37 35 0:5 /sub /x rw - cgroup2 cgroup2 rw\nbroken\n"
    )
    assert rows == [("/", "/mnt one", "tracefs", "rw"), ("/sub", "/x", "cgroup2", "rw")]


def test_capabilities_have_names_also_those_of_the_future() -> None:
    assert policy_facts.capability_names(1 << 39 | 1 << 21) == ["sys_admin", "bpf"]
    assert policy_facts.capability_names(1 << 50) == ["cap_50"]


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("iptables v1.8.9 (nf_tables)\n", "1.8.9 (nf_tables)"),
        ("iptables v1.4.21", "1.4.21"),
        ("ip utility, iproute2-6.1.0, libbpf 1.1.2", "6.1.0, libbpf 1.1.2"),
        ("tc utility, iproute2-ss170905", None),
        ("ipset v7.17, protocol version: 7", "7.17, protocol version: 7"),
        ("", None),
    ],
)
def test_tool_versions(said: str, version: str | None) -> None:
    assert machine_facts.parse_tool_version(said) == version


def test_helper_numbers_are_those_of_the_kernels_header() -> None:
    """/usr/include/linux/bpf.h numbers helpers by their order; ours must be the same list."""
    text = Path("/usr/include/linux/bpf.h").read_text()
    names = re.findall(
        r"FN\((\w+)\)", text[text.index("#define __BPF_FUNC_MAPPER") : text.index("#define __BPF_ENUM_FN")]
    )
    assert len(names) > 200
    assert bpf_tables.HELPERS[: len(names)] == names


def test_every_row_of_the_probe_tables_is_sound() -> None:
    for names in bpf_tables.HELPERS_OF.values():
        assert not set(names.split()) - set(bpf_tables.HELPERS)
        assert len(names.split()) == len(set(names.split()))
    assert set(bpf_tables.HELPERS_OF) <= set(bpf_tables.PROGRAM_TYPES)
    assert set(bpf_tables.LINK_HOOKS) <= set(bpf_tables.LINK_KINDS)
    assert set(bpf_tables.LINK_HOOKS.values()) <= set(bpf_tables.ATTACH_KINDS)
    assert [row.number for row in bpf_tables.PROGRAM_TYPES.values()] == list(range(1, 33))
    assert [row.number for row in bpf_tables.MAP_TYPES.values()] == list(range(1, 34))
    warned = {"trace_printk", "trace_vprintk", "probe_write_user", "override_return"}
    assert not {n for names in bpf_tables.HELPERS_OF.values() for n in names.split()} & warned


def test_instructions_are_laid_out_as_the_kernel_reads_them() -> None:
    assert bpf_call.returns(1) == bytes.fromhex("b7000000010000009500000000000000")
    assert bpf_call.insn(0x18, 1, 2, 0, 7) == bytes.fromhex("1821000007000000")


def test_a_denial_is_asked_about_again_only_while_memory_could_be_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was closed gives its memory back late; on a host that denies everything, no answer waits for that twice."""
    answers: list[int] = []  # of the kernel, next first; what is not said is denied

    def syscall(*_: object) -> int:
        asked.append(1)
        error = answers.pop(0) if answers else errno.EPERM
        ctypes.set_errno(error)
        return -1 if error else 7

    def tries() -> int:
        del asked[:]
        kernel.bpf(bpf_call.PROG_LOAD, b"\0" * 8)
        return len(asked)

    kernel, asked = bpf_call.Kernel(), list[int]()
    monkeypatch.setattr(kernel, "_libc", SimpleNamespace(syscall=syscall))
    monkeypatch.setattr(bpf_call.time, "sleep", lambda pause: None)
    assert tries() == 1, "memory is no limit here"
    kernel.crowded = True
    assert [tries(), tries(), tries()] == [4, 1, 1]
    answers = [errno.EINVAL]
    assert [tries(), tries()] == [1, 1], "another refusal made nothing either"
    answers = [0]
    assert [tries(), tries(), tries()] == [1, 4, 1], "what was made may be closed by now"


def test_the_entry_point_of_this_python_is_where_readelf_says(tmp_path: Path) -> None:
    head = Path("/proc/self/exe").read_bytes()[:65536]
    lines = subprocess.run(
        ["readelf", "-hlW", str(Path("/proc/self/exe").resolve())], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    entry = next(int(line.split()[-1], 16) for line in lines if "Entry point address" in line)
    loads = [[int(f, 16) for f in line.split()[1:6]] for line in lines if line.strip().startswith("LOAD")]
    offset, address = next((o, a) for o, a, _, size, _ in loads if a <= entry < a + size)
    assert bpf_attach.entry_offset(head) == entry - address + offset


@given(st.binary(max_size=100).map(lambda tail: b"\x7fELF\x02\x01" + tail))
def test_no_file_that_is_none_has_an_entry_point(head: bytes) -> None:
    with pytest.raises((ValueError, struct.error)):
        bpf_attach.entry_offset(head)


def test_names_are_found_in_a_real_kernels_btf() -> None:
    """Against bpftool's own numbering of this kernel's BTF."""
    data = Path("/sys/kernel/btf/vmlinux").read_bytes()
    found = btf_names.find_ids(data, (("btf_trace_sched_process_exit", btf_names.TYPEDEF), ("nothing_like_it", 12)))
    dump = subprocess.run(
        ["bpftool", "btf", "dump", "file", "/sys/kernel/btf/vmlinux"], capture_output=True, text=True, check=True
    ).stdout
    line = next(line for line in dump.splitlines() if "TYPEDEF 'btf_trace_sched_process_exit'" in line)
    assert found == {"btf_trace_sched_process_exit": int(line[1 : line.index("]")])}


@given(st.binary(max_size=200))
def test_any_bytes_are_searched_without_more_than_a_struct_error(data: bytes) -> None:
    with contextlib.suppress(struct.error):
        btf_names.find_ids(b"\x9f\xeb\x01\x00" + data, (("int", 1),))


@given(st.lists(st.tuples(st.integers(1, 100), st.binary(max_size=20)), max_size=6))
def test_netlink_attributes_come_back(pairs: list[tuple[int, bytes]]) -> None:
    data = b"".join(netlink.attribute(kind, payload) for kind, payload in pairs)
    assert netlink.attributes(data) == dict(pairs)


@given(st.binary(max_size=100))
def test_any_netlink_payload_is_read_without_an_error(data: bytes) -> None:
    netlink.attributes(data)


def test_a_document_is_one_line_of_ascii_json() -> None:
    report = document.Report()
    report.yes("x", "ü\n\x1b", "s")
    line = document.encode(report.document(1.5, 7))
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line)["facts"]["x"]["value"] == "ü\n\x1b"
