"""Connections that stay open, over a real sshd: how many logins a rollout costs, and what is never reused."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from own_sshd import start_sshd
from scripted_hosts import ScriptedExecutor, ScriptedHosts, plan_of

from fleet.record import open_record
from fleet.rollout.driving.engine import run_rollout
from fleet.rollout.execute.budget import Budget
from fleet.rollout.execute.kept import Kept
from fleet.rollout.hosts.acts import make_so
from inventory.connect import Completed, Connection, open_connection
from inventory.connect.errors import ConnectionLost, NotBegun
from inventory.host import Host


class Doorman:
    """A port in front of sshd that counts who comes, and can cut everybody off."""

    def __init__(self, port: int) -> None:
        self._inside = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.came = 0
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._admit, daemon=True).start()

    def _admit(self) -> None:
        while True:
            try:
                outer, _ = self._listener.accept()
            except OSError:
                return
            pair = (outer, socket.create_connection(("127.0.0.1", self._inside)))
            with self._lock:
                self.came += 1
                self._pairs.append(pair)
            for one, other in (pair, pair[::-1]):
                threading.Thread(target=self._carry, args=(one, other, pair), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket, pair: tuple[socket.socket, socket.socket]) -> None:
        try:
            while data := one.recv(65536):
                other.sendall(data)
        except OSError:
            pass
        with self._lock:
            if pair in self._pairs:
                self._pairs.remove(pair)
        for side in pair:
            _shut(side)

    def cut(self) -> None:
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            for side in pair:
                _shut(side)
        self.wait(0)

    def wait(self, inside: int) -> None:
        for _ in range(500):
            if len(self._pairs) <= inside:
                return
            threading.Event().wait(0.02)
        raise AssertionError(f"{len(self._pairs)} connections are still open")

    def close(self) -> None:
        self._listener.close()
        self.cut()


def _shut(side: socket.socket) -> None:
    with suppress(OSError):
        side.shutdown(socket.SHUT_RDWR)
    side.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    found = start_sshd(tmp_path_factory.mktemp("sshd"))
    yield found
    found.stop()


@pytest.fixture
def door(server: Any) -> Iterator[Doorman]:
    doorman = Doorman(server.port)
    yield doorman
    doorman.close()


def behind(server: Any, door: Doorman, name: str) -> Host:
    known = server.folder / f"known-{door.port}"
    key = server.known_hosts.read_text().split(maxsplit=1)[1]
    known.write_text(f"[127.0.0.1]:{door.port} {key}")
    host: Host = server.host(name, port=door.port, known_hosts=str(known))
    return host


def use(kept: Kept, host: Host, command: str = "echo here", *, fresh: bool = False) -> bytes:
    def opened() -> Connection:
        return open_connection(host, hosts={}, timeout_s=20)

    with kept.lend(host, {}, opened, fresh=fresh) as connection:
        return connection.run(command).stdout


def test_a_rollout_logs_in_once_and_once_more_to_see_what_it_did(server: Any, door: Doorman, tmp_path: Path) -> None:
    """Probe, stage, check and apply share a login; verify, then the bake's looks, share the second one."""
    names = ["h1", "h2", "h3"]
    hosts = {n: behind(server, door, n) for n in names}
    scripted, budget = ScriptedHosts(tmp_path / "hosts"), Budget()
    logins: list[tuple[str, str, int]] = []

    class Way:
        """A scripted agent behind a real SSH channel for each of its verbs."""

        def __init__(self, host: Host, connection: Connection) -> None:
            self._host, self._connection = host, connection
            self._agent = ScriptedExecutor(scripted, host.name)

        def __getattr__(self, verb: str) -> Any:
            told = self._connection.run("echo $SSH_CONNECTION").stdout.split()
            logins.append((self._host.name, verb, int(told[1])))
            return getattr(self._agent, verb)

    class Opened:
        def __init__(self, host: Host, fresh: bool) -> None:
            self._host, self._stack = host, ExitStack()
            self._fresh = fresh

        def __enter__(self) -> Way:
            def opened() -> Connection:
                return open_connection(self._host, hosts={}, timeout_s=20)

            lending = budget.kept.lend(self._host, {}, opened, fresh=self._fresh)
            return Way(self._host, self._stack.enter_context(lending))

        def __exit__(self, *error: Any) -> None:
            self._stack.__exit__(*error)

    def connect(host: Host, *, fresh: bool = False) -> Any:
        return Opened(host, fresh)

    plan = plan_of(names[:1], names[1:], bake_s=0.5, canary_bake_s=0.5, revert_s=60.0)
    with open_record(tmp_path / "fleet.db", create=True) as record:
        record.import_hosts(hosts.values(), "test")
        record.save_plan(plan)
        rollout = record.create_rollout(plan.id, "ann")
    assert run_rollout(tmp_path, rollout, executor_factory=budget.within(connect, hosts)) == "COMPLETED"
    assert door.came == 2 * len(names)
    for name in names:
        mine = [(verb, port) for host, verb, port in logins if host == name]
        applied = next(i for i, (verb, _) in enumerate(mine) if verb == "apply")
        assert [verb for verb, _ in mine[: applied + 3]] == ["status", "stage", "check", "apply", "status", "confirm"]
        assert len({port for _, port in mine[: applied + 1]}) == 1
        assert len({port for _, port in mine[applied + 1 :]}) == 1, "the looks go over the connection that verified"
        assert mine[applied][1] != mine[applied + 1][1], "what verifies is a new connection"
    budget.kept.close()
    door.wait(0)


def test_a_kept_connection_that_was_cut_is_replaced(server: Any, door: Doorman) -> None:
    kept, host = Kept(), behind(server, door, "h1")
    assert use(kept, host) == use(kept, host) == b"here\n"
    assert door.came == 1
    door.cut()
    assert use(kept, host) == b"here\n"
    assert door.came == 2
    kept.close()
    door.wait(0)


def test_nothing_is_sent_twice_and_what_failed_is_never_lent_again(server: Any, door: Doorman, tmp_path: Path) -> None:
    kept, host, mark = Kept(), behind(server, door, "h1"), tmp_path / "ran"
    use(kept, host)
    threading.Thread(target=lambda: (_wait_for(mark), door.cut()), daemon=True).start()
    with pytest.raises(ConnectionLost) as caught:
        use(kept, host, f"echo ran >> {mark}; sleep 30")
    assert not isinstance(caught.value, NotBegun), "it did begin, so it is unknown"
    assert mark.read_text() == "ran\n"
    assert door.came == 1
    with pytest.raises(ZeroDivisionError), kept.lend(host, {}, lambda: open_connection(host, hosts={}, timeout_s=20)):
        1 / 0  # noqa: B018 - any fault will do
    door.wait(0)
    assert use(kept, host) == b"here\n"
    assert door.came == 3
    kept.close()


def _wait_for(path: Path) -> None:
    for _ in range(1000):
        if path.exists():
            return
        threading.Event().wait(0.02)


def test_so_many_are_open_at_most(server: Any, door: Doorman) -> None:
    kept = Kept(most=3)
    for n in range(8):
        use(kept, behind(server, door, f"h{n}"))
        door.wait(3)  # the far end of one that was closed may take a moment
    assert door.came == 8
    assert use(kept, behind(server, door, "h7")) == b"here\n"
    assert door.came == 8
    kept.close()
    door.wait(0)


def test_what_nobody_uses_is_closed_after_a_while(server: Any, door: Doorman) -> None:
    use(Kept(idle_s=0.2), behind(server, door, "h1"))
    door.wait(0)


class Fake:
    """A connection that counts how many of its kind are open."""

    open = 0

    def __init__(self) -> None:
        Fake.open += 1
        self.closed = False

    def run(self, command: str, **_: Any) -> Completed:
        return Completed(0, b"", b"")

    def close(self) -> None:
        Fake.open -= not self.closed
        self.closed = True

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def test_a_jump_host_carries_no_more_than_its_budget_kept_or_lent() -> None:
    inside = {f"h{n}": Host(f"h{n}", jump="bastion") for n in range(10)}
    hosts, kept, Fake.open = {"bastion": Host("bastion"), **inside}, Kept(per_jump=4), 0
    with ExitStack() as stack:
        for n in range(3):
            stack.enter_context(kept.lend(inside[f"h{n}"], hosts, Fake))
        for n in range(3, 10):
            with kept.lend(inside[f"h{n}"], hosts, Fake):
                assert Fake.open == 4
    with kept.lend(Host("other"), hosts, Fake):
        assert Fake.open == 5, "what goes another way has room"
    kept.close()
    assert Fake.open == 0


def test_one_that_is_reached_otherwise_now_is_connected_anew() -> None:
    kept, host, Fake.open = Kept(), Host("h1", address="192.0.2.1"), 0
    with kept.lend(host, {}, Fake) as first:
        pass
    with kept.lend(replace(host, address="192.0.2.2"), {}, Fake) as second:
        assert second.connection is not first.connection  # type: ignore[attr-defined]
        assert first.connection.closed  # type: ignore[attr-defined]
    kept.close()


def test_an_unknown_outcome_is_asked_over_a_new_connection(tmp_path: Path) -> None:
    """The apply goes over whatever is open; the question what came of it does not."""
    asked: list[bool] = []
    scripted = ScriptedHosts(tmp_path, {"h1": {"drop": 1}})

    class Work:
        stop = threading.Event()

        class clock:  # noqa: N801 - stands for the work's field
            wait = staticmethod(lambda *_: None)

        @staticmethod
        def connect(host: Host, *, fresh: bool = False) -> Any:
            asked.append(fresh)
            return scripted.connect(host, fresh=fresh)

    spec = plan_of(["h1"]).spec("h1")
    answer: Any = make_so(Work, Host("h1"), spec, 7, known=True)  # type: ignore[arg-type]
    assert asked == [False, True]
    assert answer["applied"] == 1
