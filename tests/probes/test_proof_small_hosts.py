"""The small kernels as hosts: without bpf() only fallbacks live; without BTF, ours is brought along.

`make proof` runs this, `make test` does not: the kernels are built the first time, some minutes each.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fleet"))
from agent_host import wait_for
from children import TCP_FLOW
from guest_host import PATIENCE_S, GuestAgent, GuestShell, progress
from lab_kernels import CACHE
from net_policy_wire import FOLDER as NET_POLICY
from test_net_policy_kernel import REMOTES, WORLD, packets, verdicts
from test_proof_variants import CARRIED, HERE, by_ends, files_of

from btf.core.minimise import minimise
from btf.format.parse import parse_btf
from btf.objects.elf_object import read_object
from fleet.lab.guests import GuestLab, guest
from fleet.lab.kernel_store import kernel_btf
from fleet.lab.kernels import fetch

pytestmark = pytest.mark.proof

KINDS = ("no-bpf", "no-btf")


@pytest.fixture(scope="module", params=KINDS)
def shell(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuestShell]:
    lab = GuestLab(tmp_path_factory.mktemp("small") / "lab", CACHE, guests=[guest(request.param)])
    lab.up(progress)
    try:
        made = GuestShell(lab, lab.guests[0])
        for script in ("guest_inside.py", "net_policy_inside.py"):
            made.put((HERE / script).read_bytes(), f"/root/{script}")
        yield made
    finally:
        lab.down()


@pytest.fixture
def agent(shell: GuestShell, tmp_path: Path) -> GuestAgent:
    return GuestAgent(tmp_path, shell, "small")


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    return next(name for name in KINDS if name in request.node.callspec.id)


def brought(program: Path) -> bytes:
    """The types that travel to the kernel without any: from its own DWARF, as far as this object asks for them."""
    types = kernel_btf(fetch("small:no-btf", cache=CACHE))
    assert types is not None
    return minimise([read_object((program / "core.bpf.o").read_bytes())], parse_btf(types))


def test_what_is_missing_is_observed_and_refused(agent: GuestAgent, kind: str) -> None:
    facts = json.loads(agent.shell.run(f"python3 {agent.agent} facts"))["facts"]
    there = {name: facts[name]["answer"] for name in ("bpf.syscall", "btf.vmlinux", "bpf.map.ringbuf")}
    assert there == {"bpf.syscall": "yes" if kind == "no-btf" else "no", "btf.vmlinux": "no", "bpf.map.ringbuf": "no"}
    made = agent.build("core", files_of(TCP_FLOW, "core"), program="tcp-flow") | {"record": "flow_record"}
    assert agent.run("check", "--spec", "-", stdin=json.dumps(made).encode())[0] == 3


def test_tcp_flow_tells_what_was_sent(agent: GuestAgent, kind: str) -> None:
    variant = "fallback" if kind == "no-bpf" else "core-btf"
    made = agent.build(variant, files_of(TCP_FLOW, variant), program="tcp-flow")
    if variant == "core-btf":
        small = brought(TCP_FLOW)
        progress(f"tcp-flow: {len(small)} bytes of types travel")
        assert len(small) < 1536
        made |= {"record": "flow_record", "btf": agent.stage(small)}
    agent.applied(made, 1)
    wanted = {}
    for truth in agent.shell.ask("python3 guest_inside.py converse"):
        client, server = tuple(truth["client"]), tuple(truth["server"])
        wanted[(*client, *server)] = (truth["up"], truth["down"])
        wanted[(*server, *client)] = (truth["down"], truth["up"])
    seen = wait_for(lambda: (rows := by_ends(agent)) and wanted.keys() <= rows.keys() and rows, PATIENCE_S)
    assert {ends: (seen[ends]["tx_bytes"], seen[ends]["rx_bytes"]) for ends in wanted} == wanted
    row = agent.row("tcp-flow")
    assert (row["state"], row["variant"]) == ("running", variant)
    assert agent.run("remove", "--program", "tcp-flow", "--token", "9")[0] == 0


@pytest.mark.parametrize("shell", ["no-bpf"], indirect=True)
def test_net_policy_judges_without_bpf(agent: GuestAgent) -> None:
    agent.shell.ask("python3 guest_inside.py wire", list(REMOTES))
    config = {**WORLD, "interface": "cable"}
    made = agent.networking(
        program="net-policy", variant="fallback", record="net_policy_event", scope={"kind": "netns"}
    )
    made |= {k: v for k, v in agent.build("fallback", files_of(NET_POLICY, "fallback")).items() if k in CARRIED}
    agent.applied(made | {"config": config}, 1)
    for side in ("ingress", "egress"):
        rows = packets(side)
        allowed = {n for n, (action, _) in verdicts(config, side, rows).items() if action == "allow"}
        question = {"side": side, "rows": rows}
        assert 0 < len(allowed) < len(rows)
        assert (
            set(agent.shell.ask("python3 guest_inside.py arrived /root/net_policy_inside.py", question)) == allowed
        ), side
    assert agent.run("remove", "--program", "net-policy", "--token", "99")[0] == 0
