"""A program that really slows a real service down is stopped by the service gate, at its canary.

Nothing of it breaks a budget: what tells is the service's own users, asked on the canary and on a control at the same
times.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from lab_fleet import LabFleet, eventually

from fleet.lab.hosts import LabHost
from fleet.lab.namespaces import Lab

pytestmark = [pytest.mark.lab, pytest.mark.kernel]

NAMES = ("one", "two", "three")
PORT = 8088
# Each answer asks four hundred times for what `burn` charges for.
SERVICE = f"""
import http.server, os
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        for _ in range(400): os.getppid()
        self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", {PORT}), Answer)
print("ready", flush=True)
server.serve_forever()
"""
POLICY = f"""
waves = ["canaries", "100%"]
control_hosts = 1
canary_bake_s = 1
bake_s = 1

[service]
probe = "http://127.0.0.1:{PORT}/"
every_s = 2
count = 9
rounds = 14
timeout_s = 5
tolerance_percent = 50
"""
GENEROUS = ("--budget", "cpu_percent=6400", "--budget", "ns_per_event=1000000000", "--budget", "loss_percent=100")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[LabFleet]:
    lab = Lab(tmp_path / "lab", number=95, hosts=tuple(LabHost(name, ("tracefs", "securityfs")) for name in NAMES))
    found = LabFleet(lab, tmp_path / "home", patience_s=600.0)
    with ExitStack() as stack:
        stack.callback(lab.down)
        found.run("init")
        found.run("hosts", "import", str(lab.up()))
        for name in NAMES:
            argv = lab.command(found.host(name), [sys.executable, "-c", SERVICE])
            process = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        found.run("hosts", "scan", "--timeout", "20")
        yield found


def test_what_users_of_a_service_feel_halts_a_rollout(fleet: LabFleet, tmp_path: Path) -> None:
    policy = tmp_path / "rollout.toml"
    policy.write_text(POLICY)
    plan = fleet.ask("plan", "burn", "--scope", "netns", "--rollout-policy", str(policy), *GENEROUS)
    fleet.run("rollout", "start", str(plan["id"]), "--yes", code=5)
    rollout = fleet.newest()
    assert fleet.state(rollout) == "HALTED"
    assert "service-latency" in fleet.run("rollout", "status", rollout, "--gate", "0")
    assert sum(fleet.applied(name, "burn") for name in NAMES) == 1, "the control and the next wave never got it"
    fleet.run("rollout", "rollback", rollout, "--yes")
    assert fleet.state(rollout) == "ROLLED_BACK"
    eventually(lambda: not fleet.status("burn"), "it runs nowhere")
