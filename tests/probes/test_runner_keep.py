"""The runner alone, on hosts that have no agent: orders with tokens, its watch, leases, and what it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from children import BURN, DEADLINE_S, RUNNER, SCOPE_HOST, TCP_FLOW, WITH_TRACEFS

pytestmark = pytest.mark.kernel

Event = dict[str, Any]
FLOW = (TCP_FLOW / "core.bpf.o", "--record", "flow_record", "--set", SCOPE_HOST)


def run(*arguments: str | Path) -> tuple[int, list[Event]]:
    command = [*WITH_TRACEFS, str(RUNNER), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


class Kept:
    """One program's folder on a host without an agent."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "tcp-flow"

    def keep(self, token: int, *options: str, what: tuple[Any, ...] = FLOW, build: str = "sha256:a") -> Any:
        order = ("--state", self.folder, "--token", str(token), "--build", build, "--interval", "0.4")
        return run("keep", *what, *order, *options)

    def stop(self, token: int) -> Any:
        return run("stop", "--state", self.folder, "--token", str(token))

    def stands(self) -> Event:
        """The last word on the program: standing and status in one."""
        code, events = run("kept", self.root)
        assert code == 0
        found: Event = {"state": None}
        for event in events[1:]:
            found |= {k: v for k, v in event.items() if not (event["event"] == "standing" and k == "status")}
        return found

    def until(self, **fields: Any) -> Event:
        end = time.monotonic() + DEADLINE_S
        while True:
            found = self.stands()
            if all(found.get(name) == value for name, value in fields.items()):
                return found
            assert time.monotonic() < end, found
            time.sleep(0.05)


def gone(programs: list[Event]) -> bool:
    shown = [subprocess.run(["bpftool", "prog", "show", "id", str(p["id"])], capture_output=True, check=False)
             for p in programs]  # fmt: skip
    return all(done.returncode for done in shown)


def eventually_gone(programs: list[Event]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not gone(programs):
        assert time.monotonic() < end, programs
        time.sleep(0.05)


@pytest.fixture
def kept(tmp_path: Path) -> Any:
    one = Kept(tmp_path / "bare")
    yield one
    one.stop(10**12)


def test_the_caller_gets_the_answer_and_may_go(kept: Kept) -> None:
    code, (ready,) = kept.keep(5)
    assert (code, ready["event"]) == (0, "ready")
    stands = kept.stands()
    assert (stands["state"], stands["alive"], stands["token"], stands["build"]) == ("running", True, 5, "sha256:a")
    assert not gone(ready["programs"])
    assert stands["programs"] == ready["programs"]


def test_the_same_order_again_changes_nothing(kept: Kept) -> None:
    _, (ready,) = kept.keep(5)
    assert kept.keep(5) == (0, [{"event": "kept", "already": True}])
    assert kept.stands()["programs"] == ready["programs"]


def test_an_older_order_is_refused(kept: Kept) -> None:
    kept.keep(5)
    code, (error,) = kept.keep(4, build="sha256:b")
    assert (code, error["stage"], error["errno"]) == (3, "token", "ESTALE")
    code, (error,) = kept.stop(4)
    assert (code, error["errno"]) == (3, "ESTALE")
    assert kept.stands()["alive"]


def test_a_newer_order_takes_the_place_of_what_stood(kept: Kept) -> None:
    _, (first,) = kept.keep(5)
    code, (second,) = kept.keep(6, build="sha256:b")
    assert code == 0
    eventually_gone(first["programs"])
    stands = kept.stands()
    assert (stands["holding"], stands["build"], stands["programs"]) == (6, "sha256:b", second["programs"])


def test_an_order_that_fails_leaves_what_stood(kept: Kept) -> None:
    _, (first,) = kept.keep(5, "--lease", "600")
    code, (error,) = kept.keep(6, what=(kept.root / "nothing.o",), build="sha256:b")
    assert (code, error["stage"]) == (2, "open")
    stands = kept.stands()
    assert (stands["token"], stands["holding"], stands["build"], stands["alive"]) == (6, 5, "sha256:a", True)
    assert stands["lease_expires"] > time.time() + 300
    assert not gone(first["programs"])
    assert kept.keep(6, build="sha256:b")[0] == 0
    assert kept.stands()["holding"] == 6


def test_nobody_renews_the_lease(kept: Kept) -> None:
    _, (ready,) = kept.keep(5, "--lease", "1.5")
    assert run("renew", "--state", kept.folder, "--lease", "3")[1][0]["event"] == "renewed"
    assert kept.until(state="expired", holder=False)["reason"].startswith("COR-AGT-021")
    eventually_gone(ready["programs"])
    assert run("renew", "--state", kept.folder, "--lease", "60")[0] == 3


def test_it_is_measured_and_stopped_when_it_costs_too_much(kept: Kept) -> None:
    _, (ready,) = kept.keep(5, "--budget", "cpu_percent=0,strikes=2", what=(BURN / "core.bpf.o",))
    stands = kept.until(state="tripped", holder=False)
    assert stands["reason"].startswith("COR-AGT-020: cpu_percent")
    assert stands["watchdog"]["last"]["budget"] == "cpu_percent"
    assert stands["sample"]["cpu_percent"] > 0
    eventually_gone(ready["programs"])


def test_within_its_budget_it_goes_on_and_says_what_it_costs(kept: Kept) -> None:
    kept.keep(5, "--budget", "cpu_percent=90,memory_mib=96,loss_percent=1,ns_per_event=1e9,strikes=2")
    end = time.monotonic() + DEADLINE_S
    while "sample" not in (stands := kept.stands()):
        assert time.monotonic() < end
    assert (stands["state"], stands["watchdog"]["state"]) == ("running", "ok")
    assert stands["sample"]["memory_bytes"] > 0
    assert stands["sample"]["window_s"] > 0.3


def test_killed_it_detaches_and_the_same_order_brings_it_back(kept: Kept) -> None:
    _, (ready,) = kept.keep(5)
    os.kill(int((kept.folder / "alive.5").read_text()), signal.SIGKILL)
    eventually_gone(ready["programs"])
    assert not kept.until(holder=False)["alive"]
    code, (again,) = kept.keep(5)
    assert (code, again["event"]) == (0, "ready")
    assert kept.stands()["alive"]


def test_stop_leaves_the_token_and_nothing_else(kept: Kept) -> None:
    _, (ready,) = kept.keep(5)
    assert kept.stop(7) == (0, [{"event": "stopped", "token": 7}])
    assert sorted(p.name for p in kept.folder.iterdir()) == ["lock", "token"]
    eventually_gone(ready["programs"])
    assert kept.stop(7)[0] == 0
    assert kept.keep(6)[0] == 3


@pytest.mark.parametrize(
    "options", [("--lease", "soon"), ("--budget", "speed=1"), ("--budget", "cpu_percent=-1"), ("--interval", "0")]
)
def test_what_makes_no_sense_is_refused_and_nothing_written(kept: Kept, options: tuple[str, ...]) -> None:
    code, (error,) = kept.keep(5, *options)
    assert (code, error["stage"]) == (2, "usage")
    assert not kept.folder.exists()
