"""The whole line on real hosts: real sshds, a real kernel, real netfilter; every claim of the tour, held by a test.

One lab serves all tests in this file, in their order: each leaves hosts without programs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_fleet import LabFleet, eventually, kill_9

from btf.fault import Fault
from fleet.lab.hosts import HOSTS
from fleet.lab.namespaces import Lab

pytestmark = [pytest.mark.lab, pytest.mark.kernel]

CORE, BTF, FALLBACK = ("plain-1", "plain-2"), ("no-btf",), ("seccomp-enosys", "seccomp-eperm")
MANAGED = sorted(CORE + BTF + FALLBACK)
ALONE = "no-python"  # there the runner alone holds tracing programs
POLICY = Path(__file__).parents[2] / "fleet" / "lab" / "policy.yaml"

# What a host shows to someone who wonders whether anything of ours is left on it: rules, sets, qdiscs, pins, processes.
# iptables' own empty built-in chains stay for good once it has run; they are its, and hold nothing.
RESIDUE = (
    "(iptables-save; ip6tables-save) 2>/dev/null | grep -E '^-A|^:[^ ]+ -'; ipset list -n;"
    " tc qdisc show dev eth0 | grep clsact; tc filter show dev eth0 ingress 2>/dev/null;"
    " find /sys/fs/bpf; ps -eo args | grep -E 'agent/|bpfrun' | grep -v grep"
)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabFleet]:
    folder = tmp_path_factory.mktemp("fleet")
    lab = Lab(folder / "lab", number=78, hosts=HOSTS)
    found = LabFleet(lab, folder / "home")
    try:
        inventory = lab.up()
        found.run("init")
        found.run("hosts", "import", str(inventory))
        found.run("hosts", "scan", "--timeout", "3", code=4)
        yield found
    finally:
        lab.down()


@pytest.fixture
def untouched(fleet: LabFleet) -> Iterator[LabFleet]:
    """The fleet, and the promise that a test leaves nothing of ours on any host."""
    before = {name: fleet.shell(name, RESIDUE) for name in (*MANAGED, ALONE)}
    yield fleet
    assert {name: fleet.shell(name, RESIDUE) for name in (*MANAGED, ALONE)} == before


def test_eight_hosts_with_their_truth(fleet: LabFleet) -> None:
    hosts = {h["name"]: h for h in fleet.ask("hosts", "list")["hosts"]}
    assert sorted(hosts) == sorted(h.name for h in HOSTS)
    assert {n for n, h in hosts.items() if h["reach"] == "reachable"} == {*MANAGED, ALONE}
    assert hosts["key-changed"]["reach_code"] == "COR-SSH-012"
    assert hosts["silent"]["reach_code"] == "COR-SSH-002"
    assert [hosts[n]["variants"]["tcp-flow"] for n in MANAGED] == [
        "core-btf", "core", "core", "fallback", "fallback",
    ]  # fmt: skip
    assert hosts[ALONE]["verdicts"] == {"net-policy": "blocked", "tcp-flow": "degraded", "burn": "degraded"}
    for name in FALLBACK:
        facts = {f["name"]: f for f in fleet.ask("hosts", "show", name, "--facts", "bpf.")["facts"]}
        assert facts["bpf.syscall"]["answer"] == "blocked"
        assert "no" not in {f["answer"] for n, f in facts.items() if n.startswith(("bpf.prog.", "bpf.map."))}


def test_explain_says_why(fleet: LabFleet) -> None:
    blocked = fleet.ask("explain", "seccomp-eperm", "tcp-flow")["choice"]
    verdicts = {a["variant"]: a["verdict"] for a in blocked["assessments"]}
    assert verdicts["core"] == verdicts["core-btf"] == "blocked"
    assert blocked["unlocks"][0]["code"] == "allow-bpf-seccomp"
    assert fleet.ask("explain", ALONE, "net-policy", code=3)["choice"]["unlocks"][0]["code"] == "install-python3"
    hidden = fleet.ask("explain", "no-btf", "tcp-flow")["choice"]["assessments"][0]
    assert (hidden["variant"], hidden["verdict"]) == ("core", "blocked")


def test_one_connection_is_the_same_record_on_core_core_btf_and_fallback(untouched: LabFleet) -> None:
    fleet = untouched
    rollout_id = fleet.roll_out("tcp-flow", "--scope", "netns")
    assert fleet.state(rollout_id) == "COMPLETED"
    pairs = [("seccomp-enosys", "plain-1"), ("plain-2", "seccomp-eperm"), ("seccomp-enosys", "no-btf")]
    with fleet.servers("plain-1", "seccomp-eperm", "no-btf"):
        truths = [(c, s, fleet.connect(c, s, 8080)) for c, s in pairs]
    for client, server, truth in truths:
        assert truth["ok"], truth
        here = (truth["saddr"], truth["sport"], truth["daddr"], 8080)
        there = (*here[2:], *here[:2])

        def seen(host: str, ends: tuple[object, ...]) -> list[dict[str, object]]:
            keys = ("saddr", "sport", "daddr", "dport")
            return [r for r in fleet.records(host, "tcp-flow") if tuple(r[k] for k in keys) == ends]

        mine = eventually(lambda c=client, e=here: seen(c, e), f"{client} saw {here}")
        yours = eventually(lambda s=server, e=there: seen(s, e), f"{server} saw {there}")
        assert len(mine) == len(yours) == 1
        assert (mine[0]["tx_bytes"], mine[0]["rx_bytes"]) == (1234, 5000), mine
        assert (yours[0]["tx_bytes"], yours[0]["rx_bytes"]) == (5000, 1234), yours
        assert (mine[0]["role"], yours[0]["role"]) == ("client", "server")
    strangers = {r["saddr"] for r in fleet.records("plain-1", "tcp-flow")} - {fleet.lab.address(fleet.host("plain-1"))}
    assert not strangers, "a host reports only its own network namespace"
    fleet.run("rollout", "rollback", rollout_id, "--yes")
    assert fleet.state(rollout_id) == "ROLLED_BACK"


def test_a_denied_connection_is_denied_and_counted_by_core_and_by_fallback(untouched: LabFleet) -> None:
    fleet = untouched
    servers = ("plain-1", "no-btf", "seccomp-eperm")
    rollout_id = fleet.roll_out("net-policy", "--policy", str(POLICY), "--controller", f"{fleet.lab.gateway}/32")
    with fleet.servers(*servers):
        for server in servers:
            for client in ("plain-2", "seccomp-enosys"):
                assert fleet.connect(client, server, 8080)["ok"], (client, server)
                assert not fleet.connect(client, server, 9090)["ok"], (client, server)

    def counted() -> bool:
        rows = fleet.status("net-policy")
        denied = {
            s: sum(c["packets"] for c in rows[s]["counters"] if c["action"] == "deny" and c["dir"] == "ingress")
            for s in servers
        }
        allowed = {s: sum(c["packets"] for c in rows[s]["counters"] if c["rule_id"] == 1) for s in servers}
        return min(denied.values()) >= 2 and min(allowed.values()) >= 2

    eventually(counted, "every server counts what it denied and what it allowed")
    fleet.run("rollout", "rollback", rollout_id, "--yes")
    with fleet.servers("plain-1"):
        assert fleet.connect("plain-2", "plain-1", 9090)["ok"], "after rollback nothing is denied"


def test_a_policy_that_cuts_its_own_controller_off_reverts_by_itself(untouched: LabFleet) -> None:
    fleet, host = untouched, "plain-1"
    plan = fleet.plan("net-policy", "--where", f"name={host}", "--policy", str(POLICY), "--controller", "192.0.2.0/24")
    fleet.run("rollout", "start", plan, "--yes", code=6)
    rollout_id = fleet.newest()
    shown = fleet.ask("rollout", "status", rollout_id, code=6)
    assert shown["steps"][0]["state"] == "unreachable", "nobody was told that it went well"
    assert shown["rollout"]["state"] == "PAUSED"
    eventually(lambda: "here" in _answer(fleet, host), "the host answers again", within_s=120)
    rows = fleet.ask("status")["programs"]
    assert {r["state"] for r in rows if (r["host"], r["program"]) == (host, "net-policy")} <= {"reverted"}
    fleet.run("rollout", "retry", rollout_id, "--yes", code=5)
    step = fleet.ask("rollout", "status", rollout_id, code=5)["steps"][0]
    assert step["state"] == "failed"
    assert "reverted" in step["detail"] or "COR-AGT-022" in step["detail"]
    eventually(lambda: "here" in _answer(fleet, host), "the host answers again", within_s=120)
    fleet.run("rollout", "rollback", rollout_id, "--yes")


def _answer(fleet: LabFleet, host: str) -> str:
    """What the host says over a new connection, or nothing."""
    try:
        return fleet.shell(host, "echo here")
    except Fault:
        return ""


def test_a_controller_killed_in_wave_1_finishes_when_started_again_and_touches_no_host_twice(
    untouched: LabFleet,
) -> None:
    fleet = untouched
    before = {name: fleet.applied(name, "tcp-flow") for name in MANAGED}
    controller = fleet.start("rollout", "start", fleet.plan("tcp-flow", "--scope", "netns"), "--yes")
    assert controller.stderr is not None
    for line in controller.stderr:
        if "applying" in line and any(name in line for name in ("plain-2", "seccomp-eperm")):
            break  # wave 1: the canaries are plain-1, no-btf and seccomp-enosys
    kill_9(controller)
    rollout_id = fleet.newest()
    assert fleet.state(rollout_id) == "RUNNING"
    fleet.run("rollout", "go", rollout_id)
    assert fleet.state(rollout_id) == "COMPLETED"
    rows = fleet.status("tcp-flow")
    assert {n: r["state"] for n, r in rows.items()} == dict.fromkeys((*MANAGED, ALONE), "running")
    assert {n: rows[n]["applied"] - before[n] for n in MANAGED} == dict.fromkeys(MANAGED, 1)
    history = fleet.ask("rollout", "history", rollout_id)["events"]
    attached = [e["host"] for e in history if e["after"] == "attached"]
    assert sorted(attached) == sorted((*MANAGED, ALONE))
    tokens = {e["host"]: {x["token"] for x in history if x["host"] == e["host"] and x["token"]} for e in history}
    assert all(len(tokens[name]) == 1 for name in (*MANAGED, ALONE)), "a resumed step keeps its fencing token"
    fleet.run("rollout", "rollback", rollout_id, "--yes")


def test_what_somebody_removed_by_hand_is_noticed_and_brought_back(untouched: LabFleet) -> None:
    fleet = untouched
    rollout_id = fleet.roll_out("tcp-flow", "--where", "name=plain-2", "--scope", "netns")
    assert fleet.ask("drift", "--where", "name=plain-2")["rows"] == []
    token = fleet.status("tcp-flow")["plain-2"]["token"]
    agent = "python3 /var/lib/corollout/agent/*.pyz"
    fleet.shell("plain-2", f"{agent} remove --program tcp-flow --token {token + 1}")
    (row,) = fleet.ask("drift", "--where", "name=plain-2", code=3)["rows"]
    assert (row["host"], row["program"], row["kind"]) == ("plain-2", "tcp-flow", "missing")
    planned = fleet.ask("reconcile", "--where", "name=plain-2", "--check", code=3)["rows"]
    assert [(r["host"], r["mend"]) for r in planned] == [("plain-2", "apply core")]
    assert fleet.status("tcp-flow")["plain-2"]["state"] == "stopped"
    fleet.run("reconcile", "--where", "name=plain-2", "--yes")
    assert fleet.status("tcp-flow")["plain-2"]["state"] == "running"
    assert fleet.ask("drift", "--where", "name=plain-2")["rows"] == []
    mended = fleet.newest()
    assert mended != rollout_id
    fleet.run("rollout", "rollback", mended, "--yes")
    fleet.run("rollout", "rollback", rollout_id, "--yes")


def _busy(fleet: LabFleet, name: str) -> str:
    """Start a process on the host that calls getppid() without pause, and return how to end it."""
    program = "import os\nwhile True:\n    os.getppid()"
    fleet.shell(name, f"nohup python3 -c '{program}' >/dev/null 2>&1 & echo $! >/tmp/busy")
    return "kill -9 $(cat /tmp/busy); rm -f /tmp/busy"


def test_a_burning_program_halts_its_rollout(untouched: LabFleet) -> None:
    fleet = untouched
    stop = _busy(fleet, "plain-1")
    try:
        rollout_id = fleet.roll_out("burn", "--where", "name=plain-1", "--scope", "netns", code=5)
    finally:
        fleet.shell("plain-1", stop)
    assert fleet.state(rollout_id) == "HALTED"
    document = fleet.ask("rollout", "status", rollout_id, code=5)
    gate = json.dumps(document["rollout"]["waves"][0]["gate"])
    assert "plain-1" in gate
    fleet.run("rollout", "rollback", rollout_id, "--yes")


def test_a_burning_program_is_stopped_by_its_host_when_the_controller_is_dead(untouched: LabFleet) -> None:
    fleet = untouched
    controller = fleet.start(
        "rollout", "start", fleet.plan("burn", "--where", "name=plain-2", "--scope", "netns"), "--yes"
    )
    assert controller.stderr is not None
    for line in controller.stderr:
        if "attached" in line:
            break
    kill_9(controller)
    stop = _busy(fleet, "plain-2")
    try:
        row = eventually(
            lambda: (r := fleet.status("burn").get("plain-2")) and r["state"] == "tripped" and r, "the watchdog trips"
        )
    finally:
        fleet.shell("plain-2", stop)
    assert "COR-AGT-020" in row["detail"]
    assert not row["observed"]["alive"]
    fleet.run("rollout", "rollback", fleet.newest(), "--yes")


def test_the_report_of_this_fleet(fleet: LabFleet) -> None:
    paths = [Path(r["path"]) for r in fleet.ask("report")["rows"]]
    document = json.loads(next(p for p in paths if p.name == "report.json").read_text())
    assert document["schema"] == "corollout.report/1"
    page = next(p for p in paths if p.name == "index.html").read_text()
    assert "key-changed" in page
    assert "<script" not in page


def test_the_lab_leaves_nothing_when_it_goes(tmp_path: Path) -> None:
    import subprocess

    lab = Lab(tmp_path / "lab", number=79, hosts=HOSTS[:2])

    def traces() -> str:
        command = "ip -o link show; ip netns list; ps -eo args"
        out = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
        return "\n".join(line for line in out.splitlines() if "corolab79" in line or str(tmp_path) in line)

    lab.up()
    assert "corolab79" in traces()
    Lab(tmp_path / "lab", number=79, hosts=HOSTS[:2]).down()  # as another process would
    assert traces() == ""
    lab.down()
