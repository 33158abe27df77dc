"""Every variant on a real 5.10 kernel, BTF hidden where it must be: same records, same verdicts, BCC with a kprobe.

One full guest under emulation serves all; `make proof` runs this, `make test` does not.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fleet"))
from agent_host import wait_for
from children import RUNNER, TCP_FLOW
from guest_host import PATIENCE_S, GuestAgent, GuestShell, progress
from lab_kernels import CACHE
from net_policy_wire import FOLDER as NET_POLICY
from test_net_policy_kernel import REMOTES, WORLD, packets, verdicts

from btf.core.minimise import minimise
from btf.format.parse import parse_btf
from btf.objects.elf_object import read_object
from fleet.lab.guests import GuestLab, guest
from probes.catalogue import load_catalogue

pytestmark = pytest.mark.proof

HERE = Path(__file__).parent
HIDE_BTF = "mountpoint -q /sys/kernel/btf || mount -t tmpfs -o ro tmpfs /sys/kernel/btf"
VARIANTS = ("core", "core-btf", "bcc", "fallback")
# Of these a variant that cannot tell says so; what two variants tell is the same. Times are each one's own.
TOLD = ("role", "pid", "comm", "netns", "close_reason")
ALIKE = ("saddr", "sport", "daddr", "dport", "family", "tx_bytes", "rx_bytes", "retrans")
KPROBE = b"""
struct record { u64 mono_ns; u32 pid; };
BPF_PERF_OUTPUT(events_perf);
int kprobe__tcp_v4_connect(struct pt_regs *ctx)
{
    struct record record = {};
    record.mono_ns = bpf_ktime_get_ns();
    record.pid = bpf_get_current_pid_tgid() >> 32;
    events_perf.perf_submit(ctx, &record, sizeof(record));
    return 0;
}
"""
KPROBE_ADAPTER = b"def normalise(raw, clock):\n    return dict(raw, ts_ns=raw['mono_ns'] + clock['offset_ns'])\n"
CARRIED = ("files", "kernel", "budget")
CONNECT = "import os,socket; s=socket.socket(); s.connect_ex(('127.0.0.1', 9)); print(os.getpid())"


@dataclass
class Site:
    """The guest, and what is shipped to it."""

    shell: GuestShell
    folder: Path
    btf: bytes  # of its kernel, whole

    def agent(self, name: str) -> GuestAgent:
        (self.folder / name).mkdir(exist_ok=True)
        return GuestAgent(self.folder / name, self.shell, name)

    def minimised(self, program: Path) -> bytes:
        return minimise([read_object((program / "core.bpf.o").read_bytes())], parse_btf(self.btf))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("guest")
    lab = GuestLab(folder / "lab", CACHE, guests=[guest("5.10")])
    lab.up(progress)
    try:
        shell = GuestShell(lab, lab.guests[0])
        for script in ("guest_inside.py", "net_policy_inside.py"):
            shell.put((HERE / script).read_bytes(), f"/root/{script}")
        yield Site(shell, folder, shell.run("cat /sys/kernel/btf/vmlinux"))
    finally:
        lab.down()


def files_of(program: Path, variant: str) -> dict[str, Path]:
    rows = {
        "core": {"object": program / "core.bpf.o", "runner": RUNNER},
        "bcc": {"source": program / "legacy.bcc.c"},
        "fallback": {"module": program / "fallback.py"},
    }
    return {**rows[variant.removesuffix("-btf")], "adapter": program / "adapter.py"}


def by_ends(agent: GuestAgent) -> dict[tuple[Any, ...], dict[str, Any]]:
    return {tuple(r[k] for k in ALIKE[:4]): r for r in agent.record_lines("tcp-flow")}


def test_tcp_flow_gives_the_same_records_in_all_four_variants(site: Site) -> None:
    agents = {}
    for number, variant in enumerate(VARIANTS, start=1):
        agent = agents[variant] = site.agent(variant)
        made = agent.build(variant, files_of(TCP_FLOW, variant), program="tcp-flow")
        if variant != "fallback":
            made["record"] = "flow_record"
        if variant == "core-btf":
            site.shell.run(HIDE_BTF)
            assert agent.run("check", "--spec", "-", stdin=json.dumps({**made, "variant": "core"}).encode())[0] == 3
            small = site.minimised(TCP_FLOW)
            assert len(small) < 2048
            made["btf"] = agent.stage(small)
        made["budget"]["memory_mib"] = load_catalogue()["tcp-flow"].manifest.budget.memory_mib  # as on any host
        progress(f"tcp-flow: applying {variant}")
        agent.applied(made, number)
    progress("tcp-flow: traffic")
    truths = site.shell.ask("python3 guest_inside.py converse")
    wanted = {
        (*(truth[near]), *(truth[far])): (truth[up], truth[down])
        for truth in truths
        for near, far, up, down in (("client", "server", "up", "down"), ("server", "client", "down", "up"))
    }
    seen = {
        v: wait_for(lambda a=a: (r := by_ends(a)) and wanted.keys() <= r.keys() and r, PATIENCE_S)
        for v, a in agents.items()
    }
    for ends, sizes in wanted.items():
        records = {variant: found[ends] for variant, found in seen.items()}
        reference = records["core"]
        assert (reference["tx_bytes"], reference["rx_bytes"]) == sizes
        for variant, record in records.items():
            assert {k: record[k] for k in ALIKE} == {k: reference[k] for k in ALIKE}, (variant, record, reference)
            told = [k for k in TOLD if k in record]
            assert {k: record[k] for k in told} == {k: reference[k] for k in told}, (variant, record, reference)
            if variant != "fallback":
                assert record["fidelity"] == reference["fidelity"]
    for variant, agent in agents.items():
        row = agent.row("tcp-flow")
        assert (row["state"], row["variant"], row["reason"]) == ("running", variant, None), row["sample"]
        assert agent.run("remove", "--program", "tcp-flow", "--token", "9")[0] == 0


def test_a_bcc_build_attaches_a_kprobe(site: Site) -> None:
    site.shell.run(HIDE_BTF)
    agent = site.agent("kprobe")
    made = agent.build("bcc", {}, record="record")
    made["files"] = {"source": agent.stage(KPROBE), "adapter": agent.stage(KPROBE_ADAPTER)}
    progress("kprobe: compiling")
    agent.applied(made, 1)
    (program,) = agent.row()["observed"]["programs"]
    assert program["attached"] == ["kprobe:tcp_v4_connect"]
    pid = int(site.shell.run(f'python3 -c "{CONNECT}"'))
    wait_for(lambda: pid in {record["pid"] for record in agent.record_lines("sample-trace")}, PATIENCE_S)
    assert agent.run("remove", "--program", "sample-trace", "--token", "2")[0] == 0


def test_net_policy_judges_alike_in_all_four_variants(site: Site) -> None:
    site.shell.run(HIDE_BTF)
    site.shell.ask("python3 guest_inside.py wire", list(REMOTES))
    config = {**WORLD, "interface": "cable"}
    rows = {side: packets(side) for side in ("ingress", "egress")}
    allowed = {
        side: {number for number, (action, _) in verdicts(config, side, rows[side]).items() if action == "allow"}
        for side in rows
    }

    def arrived(side: str) -> set[int]:
        question = {"side": side, "rows": rows[side]}
        return set(site.shell.ask("python3 guest_inside.py arrived /root/net_policy_inside.py", question))

    assert {side: len(arrived(side)) for side in rows} == {side: len(rows[side]) for side in rows}
    agent = site.agent("policy")
    for number, variant in enumerate(VARIANTS, start=1):
        made = agent.networking(
            program="net-policy",
            variant=variant,
            generation=number,
            record="net_policy_event",
            scope={"kind": "netns"},
        )
        made.update({k: v for k, v in agent.build(variant, files_of(NET_POLICY, variant)).items() if k in CARRIED})
        made["config"] = config
        if variant == "core-btf":
            made["btf"] = agent.stage(site.minimised(NET_POLICY))
        progress(f"net-policy: applying {variant}")
        agent.applied(made, number)
        assert agent.row("net-policy")["variant"] == variant
        assert {side: arrived(side) for side in rows} == allowed, variant
    assert agent.run("remove", "--program", "net-policy", "--token", "99")[0] == 0
    assert {side: len(arrived(side)) for side in rows} == {side: len(rows[side]) for side in rows}
