"""tc filters on real interfaces: replaced in one step, kept or released, and never somebody else's."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from children import RUNNER, Child, bpfrun, child, compile_object
from namespaces import Namespace, pair

pytestmark = pytest.mark.kernel


ECHO_PORT = 7007


@pytest.fixture(scope="module")
def sides() -> Iterator[tuple[Namespace, Namespace]]:
    with pair() as made, made[1].call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as echo:
        echo.bind((made[1].v4, ECHO_PORT))

        def answer() -> None:
            with contextlib.suppress(OSError):
                while data := echo.recvfrom(16):
                    if data[0] == b"end":
                        return
                    echo.sendto(*data)

        thread = threading.Thread(target=answer)
        thread.start()
        yield made
        made[1].call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)).sendto(b"end", (made[1].v4, ECHO_PORT))
        thread.join()


@pytest.fixture(scope="module")
def gates(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("gates")
    return {number: compile_object("gate", folder, GENERATION=str(number)) for number in (1, 100)}


@pytest.fixture
def place(sides: tuple[Namespace, Namespace], tmp_path: Path) -> Iterator[Place]:
    """A mount namespace with a bpffs that several runners share, in the left network namespace."""
    mounted = tmp_path / "bpf"
    mounted.mkdir()
    script = f"mount -t bpf none {mounted} && echo mounted && exec sleep infinity"
    keeper = subprocess.Popen(["unshare", "-m", "sh", "-c", script], stdout=subprocess.PIPE, text=True)
    assert keeper.stdout
    assert keeper.stdout.readline() == "mounted\n"
    made = Place(sides[0], sides[1], mounted, keeper.pid)
    try:
        yield made
    finally:
        made.tc("qdisc", "del", "dev", "eth0", "clsact", check=False)
        keeper.kill()
        keeper.wait()
        keeper.stdout.close()


class Place:
    def __init__(self, here: Namespace, there: Namespace, bpffs: Path, keeper: int) -> None:
        self.here, self.there, self.bpffs = here, there, bpffs
        self.pin = bpffs / "gate"
        self.inside = ["nsenter", f"--net={here.path}", f"--mount=/proc/{keeper}/ns/mnt"]

    def hold(self, gate: Path, *words: str | Path) -> contextlib.AbstractContextManager[Child]:
        return child([*self.inside, RUNNER, "hold", gate, *words])

    def run(self, *words: str | Path) -> tuple[int, list[dict[str, Any]]]:
        return bpfrun(*words, inside=self.inside)

    def tc(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(
            ["ip", "netns", "exec", self.here.name, "tc", *words], capture_output=True, text=True, check=check
        )
        return done.stdout

    def filters(self, direction: str = "ingress") -> str:
        return self.tc("filter", "show", "dev", "eth0", direction)

    def clsact(self) -> bool:
        return "clsact" in self.tc("qdisc", "show", "dev", "eth0")

    def ping(self, count: int = 1) -> bool:
        """Send *count* datagrams to the echo on the other side; True when all came back."""
        with self.here.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
            client.settimeout(0.3)
            try:
                for _ in range(count):
                    client.sendto(b"?", (self.there.v4, ECHO_PORT))
                    client.recv(16)
            except TimeoutError:
                return False
        return True


STRANGE = ("bpf", "bytecode", "1,6 0 0 0")  # a classic BPF filter, of somebody else
IN, OUT = "gate_in=tc:eth0:ingress", "gate_out=tc:eth0:egress"


def attach(*words: str) -> list[str]:
    return [item for word in words for item in ("--attach", word)]


def hits(held: Child, slot: int) -> int:
    held.order("dump hits")
    values = dict(held.wait("map")["entries"])
    return sum(int.from_bytes(bytes.fromhex(v), "little") for v in values[slot.to_bytes(4, "little").hex()])


def test_both_directions_are_attached_and_released(place: Place, gates: dict[int, Path]) -> None:
    with place.hold(gates[1], *attach(IN, OUT)) as held:
        ready = held.wait("ready")
        attached = {program["name"]: program["attached"] for program in ready["programs"]}
        assert attached == {"gate_in": ["tc:eth0:ingress"], "gate_out": ["tc:eth0:egress"], "stranger": []}
        assert place.ping(3)
        assert hits(held, 0) >= 3
        assert hits(held, 1) >= 3
        shown = place.filters()
        assert "direct-action" in shown
        assert "pref 192" in shown
        held.order("set dropping 00000000 01000000")
        held.wait("done")
        assert not place.ping()
        held.end()
    assert place.ping()
    assert not place.clsact()  # we made it, nobody else uses it


def test_a_new_holder_replaces_and_the_old_one_leaves_it_alone(place: Place, gates: dict[int, Path]) -> None:
    words = [*attach(IN), "--pin", place.pin]
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(place.hold(gates[1], *words))
        old.wait("ready")
        new = stack.enter_context(place.hold(gates[100], *words))
        identifier = new.wait("ready")["programs"][0]["id"]
        assert place.filters().count("direct-action") == 1
        place.ping(2)
        assert hits(new, 0) >= 200
        old.end()
        assert place.filters().count("direct-action") == 1  # still the new one
        (event,) = place.run("pins", place.pin)[1]
        assert {p["name"]: p["id"] for p in event["programs"]}["gate_in"] == identifier
        assert event["filters"] == [{"interface": "eth0", "direction": "ingress", "program_id": identifier}]
        new.end()
    assert place.filters() == ""
    assert not place.clsact()
    assert place.run("pins", place.pin)[1] == [{"event": "pins", "programs": [], "maps": [], "filters": []}]


def test_no_packet_slips_through_a_replacement(place: Place, gates: dict[int, Path]) -> None:
    """Both generations drop. Were there a moment without a filter, some of the flood would be answered."""
    drop = ["--set", "dropping:00000000=01000000", *attach(IN), "--pin", place.pin, "--keep"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(place.hold(gates[1], *drop)).wait("ready")
        client = stack.enter_context(place.here.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
        client.setblocking(False)
        done = threading.Event()

        def flood() -> None:
            while not done.is_set():
                with contextlib.suppress(BlockingIOError):
                    client.sendto(b"?", (place.there.v4, ECHO_PORT))

        sender = threading.Thread(target=flood)
        sender.start()
        for number in (100, 1, 100, 1):
            with place.hold(gates[number], *drop) as held:
                held.wait("ready")
                held.end()
        done.set()
        sender.join()
        with pytest.raises(BlockingIOError):
            client.recv(16)
    assert place.run("detach", "--pin", place.pin, *attach(IN))[0] == 0


def test_kept_it_stays_until_detached(place: Place, gates: dict[int, Path]) -> None:
    words = ["--set", "dropping:00000000=01000000", *attach(IN, OUT), "--pin", place.pin, "--keep"]
    with place.hold(gates[1], *words) as held:
        ready = held.wait("ready")
        held.process.kill()
    assert not place.ping()  # fail static: the policy outlives its holder
    (pins,) = place.run("pins", place.pin)[1]
    assert {(p["name"], p["id"], p["tag"]) for p in pins["programs"]} == {
        (p["name"], p["id"], p["tag"]) for p in ready["programs"]
    }
    assert len(pins["filters"]) == 2
    code, (dump,) = place.run("dump", place.pin / "maps/dropping")
    assert (code, dump["map"], dump["entries"]) == (0, "dropping", [["00000000", ["01000000"]]])
    code, (done,) = place.run("detach", "--pin", place.pin, *attach(IN, OUT))
    assert code == 0
    assert {"tc:eth0:ingress", "tc:eth0:egress", "pin:gate_in", "pin:dropping"} <= set(done["removed"])
    assert place.ping()
    assert not place.clsact()
    assert place.run("detach", "--pin", place.pin, *attach(IN, OUT)) == (0, [{"event": "detached", "removed": []}])
    assert place.run("detach", *attach("gate_in=tc:gone0:ingress"))[1][0]["removed"] == []


def test_somebody_elses_qdisc_and_filters_stay(place: Place, gates: dict[int, Path]) -> None:
    place.tc("qdisc", "add", "dev", "eth0", "clsact")
    place.tc("filter", "add", "dev", "eth0", "ingress", "pref", "7", *STRANGE)
    with place.hold(gates[1], *attach(IN)) as held:
        held.wait("ready")
        held.end()
    assert place.clsact()
    assert "pref 7 " in place.filters()


def test_a_filter_added_to_our_qdisc_saves_it(place: Place, gates: dict[int, Path]) -> None:
    with place.hold(gates[1], *attach(IN)) as held:
        held.wait("ready")
        place.tc("filter", "add", "dev", "eth0", "egress", "pref", "7", *STRANGE)
        held.end()
    assert "pref 7 " in place.filters("egress")


def test_another_program_in_our_place_is_not_touched(place: Place, gates: dict[int, Path]) -> None:
    with place.hold(gates[1], *attach("stranger=tc:eth0:ingress")) as stranger:
        stranger.wait("ready")
        before = place.filters()
        code, (error,) = place.run("hold", gates[1], *attach(OUT, IN))
        assert (code, error["stage"], error["errno"], error["program"]) == (3, "attach", "EEXIST", "gate_in")
        assert place.filters() == before
        assert place.filters("egress") == ""  # what went before was undone
        assert place.run("detach", *attach(IN))[1][0]["removed"] == []
        assert place.filters() == before


def test_a_failed_replacement_puts_the_old_one_back(place: Place, gates: dict[int, Path]) -> None:
    with place.hold(gates[1], *attach(IN)) as held:
        held.wait("ready")
        before = place.filters()
        code, (error,) = place.run("hold", gates[100], *attach(IN, "gate_out=tc:gone0:egress"))
        assert (code, error["errno"]) == (3, "ENODEV")
        after = place.filters()
        assert [word for word in before.split() if word.startswith("tag")] == [
            word for word in after.split() if word.startswith("tag")
        ]
        place.ping(2)
        assert hits(held, 0) > 0


def test_pins_need_a_bpffs_and_everything_is_undone(place: Place, gates: dict[int, Path], tmp_path: Path) -> None:
    code, (error,) = place.run("hold", gates[1], *attach(IN), "--pin", tmp_path / "plain", "--keep")
    assert (code, error["stage"]) == (2, "pin")
    assert not (tmp_path / "plain").exists()
    assert not place.clsact()
