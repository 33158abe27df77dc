"""Processor time of the controlling side for one and the same change, and for learning what hosts are, side by side.

Ways: ours (a whole rollout of two waves with record, journal, verify-load and gate; and the bare executor),
ansible-playbook and pyinfra (copy the same agent and artefact, start it with the same command). All go to one sshd on
the loopback interface under many host names, each with a state directory of its own: real logins and channels, one
machine. What a host does is not counted, nor is Ansible's background ssh (it outlives the play). The program is a
fallback that sleeps. pyinfra lives in an environment of its own.

Usage: ``bench_ways.py [HOSTS] [--pyinfra PATH] [--only-ours] [--only change|scan]``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "inventory"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from own_sshd import Sshd, start_sshd

from bench.bare_plan import bare_plan
from fleet.record import open_record
from fleet.rollout.driving.engine import run_rollout
from fleet.rollout.execute.artefacts import Artefacts
from fleet.rollout.execute.budget import Budget
from fleet.rollout.execute.ssh import agent_executors, agent_zipapp
from fleet.rollout.planning.plan import Plan
from fleet.rollout.planning.settings import WaveSettings
from inventory.collect import scan
from inventory.connect import open_connection
from inventory.host import Host

AT_ONCE = 20
PROGRAM = "bench-trace"
SOURCE = b"""
def run(context):
    context.ready({"hooks": []})
    while not context.stopping(5.0):
        pass

def remove(context):
    pass
"""
TASKS = """\
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.file: {path: "{{ state }}/agent", state: directory, mode: "0700"}
    - ansible.builtin.file: {path: "{{ state }}/artefacts", state: directory, mode: "0700"}
    - ansible.builtin.copy: {src: AGENT, dest: "{{ state }}/agent/agent.pyz", mode: "0600"}
    - ansible.builtin.copy: {src: MODULE, dest: "{{ state }}/artefacts/DIGEST", mode: "0600"}
    - ansible.builtin.command:
        cmd: python3 {{ state }}/agent/agent.pyz --state {{ state }} apply --spec - --token 1
        stdin: "{{ lookup('ansible.builtin.file', spec) }}"
"""
DEPLOY = """\
from pyinfra import host
from pyinfra.operations import files, server

state = host.data.state
files.directory(path=f"{state}/agent", mode="700")
files.directory(path=f"{state}/artefacts", mode="700")
files.put(src="AGENT", dest=f"{state}/agent/agent.pyz")
files.put(src="MODULE", dest=f"{state}/artefacts/DIGEST")
files.put(src=host.data.spec, dest=f"{state}/spec.json")
server.shell(commands=[f"python3 {state}/agent/agent.pyz --state {state} apply --spec - --token 1 < {state}/spec.json"])
"""


class Ground:
    """Hosts that are one sshd, in one folder; each way has state directories of its own."""

    def __init__(self, folder: Path, server: Sshd, count: int) -> None:
        self.folder, self.server = folder, server
        self.names = [f"h{n}" for n in range(count)]
        self.artefacts = Artefacts(folder / "artefacts")
        self.module = self.artefacts.put(SOURCE)

    def host(self, name: str, way: str) -> Host:
        return self.server.host(name, state_dir=str(self.folder / way / name))

    def hosts(self, way: str) -> dict[str, Host]:
        return {name: self.host(name, way) for name in self.names}

    def plan(self) -> Plan:
        settings = WaveSettings(samples=1, breaches=1, canary_bake_s=0.5, bake_s=0.5, parallel=AT_ONCE)
        waves = (self.names[:1], self.names[1:])
        return bare_plan(PROGRAM, "fallback", {"module": self.module}, waves, settings)


def timed(command: Sequence[str], **options: Any) -> tuple[float, float]:
    """Run *command*; returns processor seconds of it and of the children it waited for, and the wall's seconds."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
    )
    assert process.stdout
    told = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        print(f"    ended with {process.returncode}: {told.decode(errors='replace')[-1500:]}")
    return used.ru_utime + used.ru_stime, time.perf_counter() - began


def ours(ground: Ground, verb: str) -> None:
    """What the child process of this bench does."""
    way = f"ours-{verb}"
    hosts, budget = ground.hosts(way), Budget(per_zone=AT_ONCE)
    connect = budget.within(agent_executors(hosts, ground.artefacts, kept=budget.kept), hosts)
    if verb == "scan":
        found = list(scan(hosts.values(), connect=lambda h: open_connection(h, hosts=hosts), parallel=AT_ONCE))
        assert all(outcome.facts for outcome in found), [outcome.fault for outcome in found]
    elif verb == "rollout":
        state = run_rollout(ground.folder, f"{PROGRAM}-1", executor_factory=connect)
        assert state == "COMPLETED", state
    elif verb == "executor":
        plan = ground.plan()

        def one(name: str) -> None:
            with connect(hosts[name]) as executor:
                executor.stage(plan.spec(name))
                executor.apply(plan.spec(name), 1)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(one, ground.names))


def tidy(ground: Ground) -> None:
    """Stop whatever was started, everywhere."""
    for way in ("ours-rollout", "ours-executor", "ansible", "pyinfra"):
        for name in ground.names:
            state = ground.folder / way / name
            for agent in (state / "agent").glob("*.pyz"):
                words = [
                    sys.executable,
                    str(agent),
                    "--state",
                    str(state),
                    "remove",
                    "--program",
                    PROGRAM,
                    "--token",
                    str(2**50),
                ]
                subprocess.run(words, capture_output=True, check=False)
                break


def ansible(ground: Ground, verb: str) -> tuple[float, float]:
    folder, server = ground.folder, ground.server
    lines = [
        f"{name} ansible_host=127.0.0.1 ansible_port={server.port} ansible_user=root "
        f"ansible_ssh_private_key_file={server.client_key} ansible_python_interpreter={sys.executable} "
        f"state={folder}/ansible/{name} spec={folder}/spec/{name}.json"
        for name in ground.names
    ]
    (folder / "inventory").write_text("\n".join(lines) + "\n")
    (folder / "play.yml").write_text(filled(ground, TASKS))
    environment = {
        **os.environ, "ANSIBLE_PIPELINING": "True", "ANSIBLE_FORKS": str(AT_ONCE), "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_SSH_ARGS": f"-o ControlMaster=auto -o ControlPersist=60s -o UserKnownHostsFile={server.known_hosts}",
        "ANSIBLE_GATHERING": "explicit", "ANSIBLE_HOME": str(folder / "ansible-home"),
    }  # fmt: skip
    bin_ = Path(sys.executable).parent
    if verb == "scan":
        command = [str(bin_ / "ansible"), "-i", str(folder / "inventory"), "all", "-m", "ansible.builtin.setup"]
    else:
        command = [str(bin_ / "ansible-playbook"), "-i", str(folder / "inventory"), str(folder / "play.yml")]
    return timed(command, env=environment, cwd=folder)


def pyinfra(ground: Ground, verb: str, program: str) -> tuple[float, float]:
    folder, server = ground.folder, ground.server
    data = [
        (name, {
            "ssh_hostname": "127.0.0.1", "ssh_port": server.port, "ssh_user": "root", "ssh_key": str(server.client_key),
            "ssh_known_hosts_file": str(server.known_hosts), "state": f"{folder}/pyinfra/{name}",
            "spec": f"{folder}/spec/{name}.json",
        })
        for name in ground.names
    ]  # fmt: skip
    (folder / "inventory.py").write_text(f"fleet = {data!r}\n")
    (folder / "deploy.py").write_text(filled(ground, DEPLOY))
    wanted = [
        "fact",
        "server.Kernel",
        "server.KernelVersion",
        "server.LinuxDistribution",
        "hardware.Cpus",
        "server.Mounts",
    ]
    command = [program, "-y", "--parallel", str(AT_ONCE), str(folder / "inventory.py")]
    return timed([*command, *(wanted if verb == "scan" else [str(folder / "deploy.py")])], cwd=folder)


def filled(ground: Ground, text: str) -> str:
    values = {
        "AGENT": ground.folder / "agent.pyz",
        "MODULE": ground.folder / "artefacts" / ground.module,
        "DIGEST": ground.module,
    }
    for word, value in values.items():
        text = text.replace(word, str(value))
    return text


def prepared(ground: Ground) -> None:
    plan = ground.plan()
    with open_record(ground.folder / "fleet.db", create=True) as record:
        record.import_hosts(ground.hosts("ours-rollout").values(), "bench")
        record.save_plan(plan)
        record.create_rollout(plan.id, "bench")
    (ground.folder / "agent.pyz").write_bytes(agent_zipapp()[0])
    (ground.folder / "spec").mkdir()
    for name in ground.names:
        (ground.folder / "spec" / f"{name}.json").write_text(json.dumps(plan.spec(name)))


def main(count: int, program: str, *, alone: bool, only: str) -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what was compiled stays compiled, for every way
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is stopped all the same
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = start_sshd(folder / "sshd")
        ground = Ground(folder, server, count)
        prepared(ground)
        again = [sys.executable, __file__, "--child", name, str(count), str(server.port)]
        load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"
        print(f"{count} host names of one sshd, {AT_ONCE} at a time; {load}", flush=True)
        try:
            rows = [("nothing: start and import", "", lambda: timed([*again, "start"]))]
            rows += [("change: whole rollout", "change", lambda: timed([*again, "rollout"]))]
            if not alone:
                rows += [
                    ("change: executor alone", "change", lambda: timed([*again, "executor"])),
                    ("change: ansible-playbook", "change", lambda: ansible(ground, "change")),
                    ("change: pyinfra", "change", lambda: pyinfra(ground, "change", program)),
                    ("scan: corollout", "scan", lambda: timed([*again, "scan"])),
                    ("scan: ansible -m setup", "scan", lambda: ansible(ground, "scan")),
                    ("scan: pyinfra, 5 facts", "scan", lambda: pyinfra(ground, "scan", program)),
                ]
            for title, verb, run in rows:
                if only and verb and verb != only:
                    continue
                cpu, wall = run()
                print(
                    f"  {title:28} {1000 * cpu / count:8.1f} ms CPU/host   {cpu:7.2f} s CPU, {wall:7.1f} s wall",
                    flush=True,
                )
        finally:
            tidy(ground)
            server.stop()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        where = Path(sys.argv[2])
        found = Sshd(
            where / "sshd", int(sys.argv[4]), where / "sshd" / "client_key", where / "sshd" / "known_hosts", None
        )  # type: ignore[arg-type]
        ours(Ground(where, found, int(sys.argv[3])), sys.argv[5])
    else:
        own = sys.argv[sys.argv.index("--pyinfra") + 1] if "--pyinfra" in sys.argv else "pyinfra"
        part = sys.argv[sys.argv.index("--only") + 1] if "--only" in sys.argv else ""
        hosts = int(sys.argv[1]) if sys.argv[1:2] and sys.argv[1].isdigit() else 30
        main(hosts, own, alone="--only-ours" in sys.argv, only=part)
