"""The agent's BCC child on this kernel, with the nearest headers there are: good enough for a test, not for a fleet."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_host import AgentHost, wait_for
from test_agent_kernel import Realm, in_kernel

from probes.agent import process

pytestmark = pytest.mark.kernel

SOURCE = r"""
struct record { u64 mono_ns; u32 pid; char comm[16]; u8 address[4]; };
BPF_PERF_OUTPUT(events_perf);
BPF_PERCPU_ARRAY(rules, u64, 2);
BPF_ARRAY(wanted, u32, 1);
TRACEPOINT_PROBE(syscalls, sys_enter_getppid)
{
    struct record record = {};
    u32 zero = 0, *pid = wanted.lookup(&zero);
    u64 *count = rules.lookup(&zero);

    record.pid = bpf_get_current_pid_tgid() >> 32;
    if (!pid || *pid != record.pid)
        return 0;
    record.mono_ns = bpf_ktime_get_ns();
    record.address[0] = 192;
    bpf_get_current_comm(record.comm, sizeof(record.comm));
    if (count)
        (*count)++;
    events_perf.perf_submit(args, &record, sizeof(record));
    return 0;
}
"""

ADAPTER = """
import os, struct
COUNTER_MAPS = ("rules",)

def bcc_setup(bpf, config, scope, tag):
    table = bpf["wanted"]
    table[table.Key(0)] = table.Leaf(config["pid"])
    open(os.path.join(config["outside"], tag.replace(":", "_")), "w").close()

def bcc_cleanup(config, scope, tag):
    path = os.path.join(config["outside"], tag.replace(":", "_"))
    if os.path.exists(path):
        os.unlink(path)

def counters(dumps, config):
    key, values = sorted(dumps["rules"])[0]
    return [{"rule_id": 1, "packets": sum(struct.unpack("=Q", value)[0] for value in values)}]

def normalise(raw, clock):
    return dict(raw, ts_ns=raw["mono_ns"] + clock["offset_ns"])
"""

LOOP = "import os, sys, time\nsys.stdin.read()\nwhile True: os.getppid(); time.sleep(0.005)"


@pytest.fixture
def realm(tmp_path: Path) -> Iterator[Realm]:
    made = Realm(tmp_path)
    headers = tmp_path / "headers"
    headers.mkdir()
    near = sorted(Path("/usr/src").glob("linux-headers-*-amd64"))[-1]
    common = near.with_name(near.name.replace("-amd64", "-common"))
    try:
        made.inside("mount", "-t", "overlay", "-o", f"lowerdir={near}:{common}", "none", str(headers))
        made.prefix = (*made.enter, "env", f"BCC_KERNEL_SOURCE={headers}")
        made.python = "/usr/bin/python3"  # the one that has bcc
        yield made
    finally:
        stray = made.close()
    assert stray == [] and made.marks() == []


@pytest.fixture
def caller() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["/usr/bin/python3", "-c", LOOP], stdin=subprocess.PIPE) as made:
        yield made
        made.kill()


def spec(realm: AgentHost, pid: int) -> dict[str, Any]:
    files = {"source": realm.stage(SOURCE.encode()), "adapter": realm.stage(ADAPTER.encode())}
    return realm.spec(variant="bcc", files=files, record="record", config={"pid": pid}, budget={"interval_s": 0.5})


def test_a_bcc_build_runs_like_any_other(realm: Realm, caller: subprocess.Popen[bytes]) -> None:
    realm.applied(spec(realm, caller.pid), 1)
    row = realm.row()
    assert row["state"] == "running" and row["observed"]["alive"] and row["applied"] == 1
    (program,) = row["observed"]["programs"]
    assert program["attached"] == ["tracepoint:syscalls:sys_enter_getppid"]
    kernel = in_kernel(program["id"])
    assert kernel and kernel["tag"] == program["tag"]
    # What its compiler gave back is not collected into huge pages again.
    assert "THP_enabled:\t0" in Path(f"/proc/{realm.child()['pid']}/status").read_text()
    assert caller.stdin
    caller.stdin.close()
    record = wait_for(lambda: realm.records("--limit", "1"))[0]
    assert (record["pid"], record["comm"], record["address"]) == (caller.pid, "python3", "c0000000")
    row = realm.when(lambda row: row["counters"] and row["counters"][0]["packets"] and row["sample"]["events"])
    assert row["sample"]["kernel_percent"] > 0
    assert realm.run("remove", "--program", "sample-trace", "--token", "2")[0] == 0
    wait_for(lambda: not in_kernel(program["id"]))


def test_kill_9_of_the_holder_detaches_bcc_as_well(realm: Realm, caller: subprocess.Popen[bytes]) -> None:
    realm.applied(spec(realm, caller.pid), 1)
    (program,) = realm.row()["observed"]["programs"]
    child = realm.child()
    os.kill(realm.holder()["pid"], signal.SIGKILL)
    wait_for(lambda: not process.alive(child) and not in_kernel(program["id"]))
    assert realm.row()["state"] == "failed" and realm.marks() == []


def test_a_source_that_does_not_compile_is_rejected_with_its_log(realm: Realm) -> None:
    wrong = spec(realm, 1)
    wrong["files"]["source"] = realm.stage(b"int kprobe__none(void *ctx) { return nonsense; }")
    status, answer = realm.run("check", "--spec", "-", stdin=json.dumps(wrong).encode())
    assert (status, answer["code"], answer["stage"]) == (3, "COR-AGT-007", "load")


def test_a_compile_that_wants_too_much_memory_is_ended_and_said(realm: Realm) -> None:
    layers = "".join(
        f"#define L{n} L{n - 1} L{n - 1} L{n - 1} L{n - 1} L{n - 1} L{n - 1} L{n - 1} L{n - 1}\n" for n in range(1, 9)
    )
    greedy = spec(realm, 1)
    source = f"#define L0 x += x * 3;\n{layers}int f(void *ctx) {{ int x = 1; L8 return x; }}"
    greedy["files"]["source"] = realm.stage(source.encode())
    status, answer = realm.run("check", "--spec", "-", stdin=json.dumps(greedy).encode())
    assert (status, answer["code"]) == (3, "COR-AGT-007")
    assert "512 MiB" in answer["message"]


def test_an_apply_does_not_compile_twice_what_was_checked_in_this_boot(
    realm: Realm, caller: subprocess.Popen[bytes]
) -> None:
    wanted = spec(realm, caller.pid)
    checked = realm.folder / "state/programs/sample-trace/checked.json"
    realm.run("check", "--spec", "-", stdin=json.dumps(wanted).encode())
    first = checked.read_bytes()
    realm.applied(wanted, 1)
    assert checked.read_bytes() == first
    other = {**wanted, "files": {**wanted["files"], "source": realm.stage(SOURCE.encode() + b"\n")}, "generation": 2}
    realm.applied(other, 2)
    assert checked.read_bytes() != first


def test_a_host_without_bcc_says_so(realm: Realm) -> None:
    realm.inside("sh", "-c", "mount -t tmpfs none /usr/lib/python3/dist-packages/bcc")
    status, answer = realm.apply(spec(realm, 1), 1)
    assert (status, answer["code"]) == (3, "COR-AGT-007") and "bcc" in answer["message"]
