"""The runner on the running kernel: what it loads, holds, decodes and leaves behind. Nothing here is simulated."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from children import (
    BURN,
    DEADLINE_S,
    RUNNER,
    SCOPE_HOST,
    TCP_FLOW,
    WITH_TRACEFS,
    bpfrun,
    child,
    compile_object,
    hold,
    refusing,
)

pytestmark = pytest.mark.kernel

FLOW = TCP_FLOW / "core.bpf.o"
VMLINUX = Path("/sys/kernel/btf/vmlinux")
# The kernel's BTF is covered in a mount namespace of our own, as on a kernel built without.
WITHOUT_BTF = (
    *WITH_TRACEFS,
    "unshare", "-m", "sh", "-c", 'mount -t tmpfs none /sys/kernel/btf && exec "$@"', "sh",
)  # fmt: skip


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    folder = tmp_path_factory.mktemp("objects")
    return lambda name, **macros: compile_object(name, folder, **macros)


def error_of(result: tuple[int, list[dict[str, Any]]], code: int) -> dict[str, Any]:
    """The one event of a run that must have failed with *code*."""
    assert result[0] == code, result
    assert [event["event"] for event in result[1]] == ["error"]
    return result[1][0]


def program_lives(identifier: int) -> bool:
    shown = subprocess.run(["bpftool", "prog", "show", "id", str(identifier)], capture_output=True, check=False)
    return shown.returncode == 0


def assert_gone(identifiers: list[int]) -> None:
    """The kernel frees programs after a grace period."""
    until = time.monotonic() + DEADLINE_S
    while any(map(program_lives, identifiers)):
        assert time.monotonic() < until, f"still loaded: {identifiers}"
        time.sleep(0.05)


def ids(ready: dict[str, Any]) -> list[int]:
    return [program["id"] for program in ready["programs"]]


def test_version() -> None:
    assert bpfrun("version") == (0, [{"event": "version", "bpfrun": "1", "libbpf": "1.1"}])


@pytest.mark.parametrize(
    "arguments",
    [["verify"], ["hold", "x", "--ms"], ["verify", "x", "--keep"], ["verify", "x", "y"], ["calibrate", "--ms", "0"]],
)
def test_usage_errors_are_said_as_json(arguments: list[str]) -> None:
    assert error_of(bpfrun(*arguments), 2)["stage"] == "usage"


def test_no_verb_is_usage() -> None:
    assert bpfrun("frobnicate") == (2, [])


def test_verify_tells_what_the_kernel_made_of_it() -> None:
    code, (event,) = bpfrun("verify", FLOW)
    assert (code, event["event"]) == (0, "verified")
    flow, perf = event["programs"]
    assert (flow["name"], flow["type"], flow["loaded"]) == ("flow", "tracepoint", True)
    assert flow["section"] == "tracepoint/sock/inet_sock_set_state"
    assert len(bytes.fromhex(flow["tag"])) == 8
    assert flow["jited_bytes"] > 0
    assert 0 < flow["insns"] <= 4096
    assert (perf["name"], perf["loaded"]) == ("flow_perf", False)
    maps = {m["name"]: m for m in event["maps"]}
    assert "events_perf" not in maps
    assert maps["births"]["memory_bytes"] > maps["births"]["max_entries"] * 8
    assert event["took_us"] > 0


def loops(instructions: dict[int, str]) -> bool:
    """True when the control flow has a cycle: the old verifiers' only test, a jump back to another end is no loop."""
    order = sorted(instructions)
    edges: dict[int, list[int]] = {}
    for at, following in zip(order, [*order[1:], None], strict=True):
        text = instructions[at]
        jump = re.search(r"goto ([+-]\d+)", text)
        falls = not text.startswith(("goto", "exit")) and following is not None
        edges[at] = [following] * falls + ([at + 1 + int(jump[1])] if jump else [])  # type: ignore[list-item]
    state: dict[int, str] = {}
    stack = [(order[0], iter(edges[order[0]]))]
    while stack:
        at, rest = stack[-1]
        state[at] = "open"
        step = next(rest, None)
        if step is None:
            state[at] = "closed"
            stack.pop()
        elif state.get(step) == "open":
            return True
        elif step not in state:
            stack.append((step, iter(edges[step])))
    return False


def test_the_loop_finder_finds_loops() -> None:
    assert loops({0: "r0 = 0", 1: "r0 += 1", 2: "if r0 < 5 goto -2", 3: "exit"})
    assert not loops({0: "goto +1", 1: "exit", 2: "r0 = 0", 3: "goto -3"})


@pytest.mark.parametrize("path", [FLOW, BURN / "core.bpf.o"], ids=["tcp_flow", "burn"])
def test_our_objects_keep_to_the_low_floor(path: Path) -> None:
    """No global data, no strings in memory, nothing above 4,096 instructions, no loops, no instruction of ISA v3."""

    def shown(*command: str) -> str:
        return subprocess.run([*command, path], capture_output=True, text=True, check=True).stdout

    sections = shown("llvm-readelf", "-S", "-W")
    assert not [word for word in sections.split() if word.startswith((".rodata", ".data", ".bss"))]
    functions = re.split(r"^[0-9a-f]+ <(\w+)>:$", shown("llvm-objdump", "-d", "--no-show-raw-insn"), flags=re.M)[1:]
    bodies = dict(zip(functions[::2], functions[1::2], strict=True))
    starts = [name for name in bodies if not name.startswith("LBB")]
    assert len(starts) == 2
    for start in starts:
        body = "".join(text for name, text in bodies.items() if name == start or name.startswith("LBB"))
        instructions = {int(n): text.strip() for n, text in re.findall(r"^\s*(\d+):\s+(.*)$", body, flags=re.M)}
        assert 0 < len(instructions) <= 4096
        assert not loops(instructions), start
        assert not [text for text in instructions.values() if re.search(r"\bw\d", text)]  # 32-bit registers are ISA v3


def test_a_refused_program_brings_the_verifiers_log(objects: Callable[..., Path]) -> None:
    error = error_of(bpfrun("verify", objects("mixed")), 3)
    assert (error["stage"], error["errno"], error["program"]) == ("load", "EACCES", "unsound")
    assert "map_value_or_null" in error["log"]
    assert len(error["log"]) <= 8192


def test_an_optional_program_may_be_refused(objects: Callable[..., Path]) -> None:
    code, (event,) = bpfrun("verify", objects("mixed"), "--optional", "unsound")
    assert code == 0
    assert {p["name"]: p["loaded"] for p in event["programs"]} == {"sound": True, "unsound": False}


def test_an_optional_program_must_exist(objects: Callable[..., Path]) -> None:
    assert error_of(bpfrun("verify", objects("mixed"), "--optional", "nobody"), 2)["program"] == "nobody"


def test_another_programs_refusal_is_not_excused(objects: Callable[..., Path]) -> None:
    assert error_of(bpfrun("verify", objects("mixed"), "--optional", "sound"), 3)["program"] == "unsound"


# ---- external BTF ----


def test_without_btf_co_re_is_refused() -> None:
    error = error_of(bpfrun("verify", FLOW, inside=WITHOUT_BTF), 3)
    assert error["errno"] == "ESRCH"
    assert "BTF" in error["message"]


def test_external_btf_relocates_as_the_kernels_own(tmp_path: Path) -> None:
    full, small = tmp_path / "full.btf", tmp_path / "small.btf"
    shutil.copyfile(VMLINUX, full)
    subprocess.run(["bpftool", "gen", "min_core_btf", full, small, FLOW], check=True)
    assert small.stat().st_size < 8192
    loaded = [
        bpfrun("verify", FLOW),
        bpfrun("verify", FLOW, "--btf", full, inside=WITHOUT_BTF),
        bpfrun("verify", FLOW, "--btf", small, inside=WITHOUT_BTF),
    ]
    assert [code for code, _ in loaded] == [0, 0, 0]
    assert len({events[0]["programs"][0]["tag"] for _, events in loaded}) == 1  # the same instructions
    with hold(FLOW, "--btf", small, "--record", "flow_record", "--set", SCOPE_HOST, inside=WITHOUT_BTF) as held:
        assert held.wait("ready")["programs"][0]["attached"] == ["tracepoint:sock:inet_sock_set_state"]


def test_btf_of_another_kernel_is_refused_by_what_it_lacks(tmp_path: Path) -> None:
    """BTF minimised for another object has none of this one's types: poisoned, not silently wrong."""
    other = tmp_path / "other.btf"
    subprocess.run(["bpftool", "gen", "min_core_btf", VMLINUX, other, BURN / "core.bpf.o"], check=True)
    error = error_of(bpfrun("verify", FLOW, "--btf", other), 3)
    assert (error["stage"], error["program"]) == ("load", "flow")


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x9f\xeb\x01\x00" + b"\xff" * 60])
def test_a_broken_btf_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.btf"
    path.write_bytes(content)
    error = error_of(bpfrun("verify", FLOW, "--btf", path), 2)
    assert error["stage"] == "btf"
    assert str(path) in error["message"]


def test_a_type_may_be_absent_where_the_btf_of_modules_is_out_of_reach(objects: Callable[..., Path]) -> None:
    """Without CAP_SYS_ADMIN no BTF may be walked; what only asks for a type is not refused for that."""
    absent = objects("absent")
    tag = bpfrun("verify", absent)[1][0]["programs"][0]["tag"]
    code, (event,) = bpfrun("verify", absent, inside=("setpriv", "--bounding-set", "-sys_admin"))
    assert code == 0, event
    assert event["programs"][0]["tag"] == tag


# ---- holding ----


def test_hold_answers_orders_and_leaves_nothing() -> None:
    with hold(FLOW, "--record", "flow_record", "--set", SCOPE_HOST) as held:
        ready = held.wait("ready")
        held.order("stats on")
        assert held.wait("done")["command"] == "stats"
        held.order("sample")
        sample = held.wait("sample")
        assert [p["id"] for p in sample["programs"]] == ids(ready)
        assert {"run_cnt", "run_time_ns", "recursion_misses"} <= set(sample["programs"][0])
        assert sample["at_ns"] > 0
        assert sample["self_cpu_ns"] > 0
        held.order("set config 00000000 " + "01" * 16)
        held.wait("done", command="set")
        held.order("dump config")
        assert held.wait("map")["entries"] == [["00000000", ["01" * 16]]]
        held.order("dump lost")
        assert held.wait("map")["entries"] == [["00000000", ["00" * 8] * os.cpu_count()]]
        held.order("quit")
        assert held.rest()[-1] == {"event": "bye"}
    assert held.process.returncode == 0
    assert_gone(ids(ready))


@pytest.mark.parametrize(
    ("order", "errno"),
    [
        ("frobnicate", "EINVAL"), ("stats maybe", "EINVAL"), ("dump nothing", "ENOENT"), ("set config zz 00", "EINVAL"),
        ("set config 01000000 " + "00" * 16, "E2BIG"), ("set config 00", "EINVAL"),
        ("delete births " + "00" * 8, "ENOENT"), ("dump events", "ENOTSUPP"), ("x" * 70_000, "E2BIG"),
    ],
)  # fmt: skip
def test_a_bad_order_gets_one_error_and_changes_nothing(order: str, errno: str) -> None:
    with hold(FLOW, "--set", SCOPE_HOST) as held:
        held.wait("ready")
        held.order(order)
        assert held.wait("error")["errno"] == errno
        held.order("dump config")
        assert held.wait("map")["entries"] == [["00000000", ["00" * 16]]]


def test_it_ends_when_its_parent_is_gone() -> None:
    with hold(FLOW) as held:
        ready = held.wait("ready")
        assert held.process.stdin
        held.process.stdin.close()
        assert held.rest()[-1] == {"event": "bye"}
    assert_gone(ids(ready))


def test_it_ends_when_nobody_reads() -> None:
    command = [*map(str, WITH_TRACEFS), str(RUNNER), "hold", str(FLOW)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin
    assert process.stdout
    ready = json.loads(process.stdout.readline())
    process.stdout.close()
    process.stdin.write("sample\n")
    process.stdin.flush()
    assert process.wait(DEADLINE_S) == 0 or process.returncode == 1
    process.stdin.close()
    assert_gone(ids(ready))


def test_kill_leaves_nothing() -> None:
    with hold(FLOW) as held:
        ready = held.wait("ready")
        assert all(map(program_lives, ids(ready)))
        held.process.kill()
    assert_gone(ids(ready))


def test_without_links_a_descriptor_holds_the_program() -> None:
    """Before Linux 5.15 a tracepoint has no link: the attachment lives by the perf event's descriptor."""
    words = [*WITH_TRACEFS, RUNNER, "hold", BURN / "core.bpf.o", "--record", "burn_record", "--set", SCOPE_HOST]
    with child(refusing("BPF_LINK_CREATE", words)) as held:
        ready = held.wait("ready")
        assert ready["programs"][0]["attached"] == ["tracepoint:syscalls:sys_enter_getppid"]
        os.getppid()
        while held.wait("record")["data"]["pid"] != os.getpid():
            pass
        held.order("quit")
        held.rest()
    assert_gone(ids(ready))


@pytest.mark.parametrize(
    ("arguments", "stage"),
    [
        (["--record", "nothing"], "record"), (["--set", "config"], "set"), (["--set", "nothing:00=00"], "set"),
        (["--set", "config:00000000=00"], "set"), (["--fill", "config=/nonexistent"], "fill"),
        (["--attach", "flow=tc:lo:ingress"], "attach"), (["--attach", "nonsense"], "attach"),
        (["--pin", "/tmp/not-a-bpffs"], "pin"),
    ],
)  # fmt: skip
def test_a_hold_that_cannot_be_is_refused_whole(arguments: list[str], stage: str) -> None:
    error = error_of(bpfrun("hold", FLOW, *arguments, inside=WITH_TRACEFS), 2)
    assert error["stage"] == stage
    assert not Path("/tmp/not-a-bpffs").exists()


def test_fill_reads_a_file_and_names_the_line_it_cannot(tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    rows.write_text("# a comment\n\n00000000 " + "ab" * 16 + "\n")
    with hold(FLOW, "--fill", f"config={rows}") as held:
        held.wait("ready")
        held.order("dump config")
        assert held.wait("map")["entries"] == [["00000000", ["ab" * 16]]]
    rows.write_text("00000000 " + "ab" * 16 + "\n00000000\n")
    assert "line 2" in error_of(bpfrun("hold", FLOW, "--fill", f"config={rows}", inside=WITH_TRACEFS), 2)["message"]


# ---- records ----


def test_every_shape_is_decoded(objects: Callable[..., Path]) -> None:
    with hold(objects("decode"), "--record", "every_shape") as held:
        held.wait("ready")
        os.getppid()
        record = held.wait("record")["data"]
    assert record == {
        "big": 0xFEDCBA9876543210,
        "negative": -5_000_000_000,
        "typedefed": 4_000_000_000,
        "colour": -7,
        "three": 5,
        "minus_two": -2,
        "bytes": "de0000ad",
        "text": '"\\\n\x1bé\N{REPLACEMENT CHARACTER}z',
        "full": "ffff",
        "numbers": [1, 0, 65535],
        "inner": {"low": 255, "minus": -1},
        "list": [{"low": 0, "minus": 0}, {"low": 9, "minus": 0}],
        "either": 2,
        "other": 0x0102,
        "named": "01020304",
        "truth": 1,
    }


@pytest.fixture
def one_cpu() -> Iterator[None]:
    """Stay on one processor: perf buffers, what they hold and what they lost, are each processor's own."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.usefixtures("one_cpu")
@pytest.mark.parametrize("transport", ["RING", "PERF"])
def test_what_does_not_fit_is_counted(objects: Callable[..., Path], transport: str) -> None:
    """The runner is stopped while its buffer overflows. Nothing may vanish: records + lost = events."""
    path = objects("storm", TRANSPORT=transport)
    events = 6_000
    only_us = "config:00000000=" + "00" * 8 + os.getpid().to_bytes(4, "little").hex() + "00" * 4
    with hold(path, "--record", "storm_record", "--set", only_us) as held:
        held.wait("ready")
        held.process.send_signal(signal.SIGSTOP)
        for _ in range(events):
            os.getppid()
        held.process.send_signal(signal.SIGCONT)
        held.order("dump config")
        held.wait("map")
        for _ in range(10):  # the perf buffer tells of its losses with the next record
            os.getppid()
        said = held.end()
    records = [event["data"]["number"] for event in said if event["event"] == "record"]
    lost = sum(event["count"] for event in said if event["event"] == "lost")
    assert lost > 0
    assert len(records) + lost == events + 10
    assert records[-1] == events + 10


def test_calibration_measures_what_is_there() -> None:
    code, (event,) = bpfrun("calibrate", "--ms", "20", inside=WITH_TRACEFS)
    assert (code, event["event"]) == (0, "calibration")
    kinds = {"raw_tracepoint", "tracepoint", "tp_btf", "fentry", "kprobe", "uprobe", "tc"}
    assert set(event["attach_ns"]) | set(event["absent"]) - {"stats"} == kinds
    assert not set(event["attach_ns"]) & set(event["absent"])
    assert {"raw_tracepoint", "tracepoint", "tc"} <= set(event["attach_ns"])
    assert set(event["errors"]) == set(event["absent"]) - {"stats"}
    assert event["floor_ns"] > 0
    assert "tracepoint" in bpfrun("calibrate", "--ms", "1")[1][0]["absent"]  # no tracefs: absent, and no failure
