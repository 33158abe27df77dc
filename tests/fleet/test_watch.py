"""``rollout watch`` on real pseudo-terminals of three sizes, and in a log; screens as a terminal emulator shows them.

COROLLOUT_UPDATE_SCREENS=1 writes the goldens anew; read the difference before committing it.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pyte
import pytest
from click.testing import CliRunner
from scripted_hosts import plan_of, prepare
from watched_fleet import START, WAVES, make

from fleet.cli.main import cli
from fleet.cli.watch import Look
from fleet.cli.watch_log import STILL_S, Log
from fleet.record import open_record

FRAME_END = b"\x1b[?25h"
ROOT = Path(__file__).parents[2]
GOLDENS = Path(__file__).parent / "watch_screens"
SIZES = ((40, 20), (80, 24), (200, 50))
# Follows a record whose time stands still, until it is told to end: what a driven rollout looks like.
FOLLOWER = """
import signal, sys
from pathlib import Path
from fleet.cli.watch import Look, face_for, follow
from fleet.record import open_record

ends = []
signal.signal(signal.SIGUSR1, lambda *_: ends.append(1))
with open_record(Path(sys.argv[1])) as record, face_for(sys.stdout, plain=False) as face:
    follow(Look(record, sys.argv[2], lambda: float(sys.argv[3])), face, until=lambda seen: bool(ends))
"""
VERB = "import sys; from fleet.cli.main import run; run(sys.argv[1:])"


class Terminal:
    """A process on a pseudo-terminal, and the screen that an emulator shows of what it writes."""

    def __init__(self, size: tuple[int, int], *words: str) -> None:
        self.screen = pyte.HistoryScreen(*size, history=1000)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.master, slave = pty.openpty()
        self._size(size)
        env = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
        env.pop("NO_COLOR", None)
        command = [sys.executable, "-c", *words]
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True
        )
        os.close(slave)

    def _size(self, size: tuple[int, int]) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))

    def resize(self, size: tuple[int, int]) -> None:
        self.screen.resize(lines=size[1], columns=size[0])
        self._size(size)

    def read(self, wanted: str, timeout_s: float = 30.0) -> None:
        """Read until *wanted* is on the screen, or everything until the process ends with an empty one."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            if wanted and wanted in self.text() and self.raw.endswith(FRAME_END):
                return
            if not select.select([self.master], [], [], 0.1)[0]:
                continue
            try:
                data = os.read(self.master, 65536)
            except OSError:  # the other side is closed
                return
            self.raw += data
            self.stream.feed(data)
        raise AssertionError(f"not seen in {timeout_s:g} s: {wanted!r}\n{self.text()}")

    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip() + "\n"

    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self.master)[3] & termios.ECHO)

    def end(self, number: int = signal.SIGKILL) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.read("")
        return self.process.wait(30)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)


@pytest.fixture
def terminal() -> Iterator[object]:
    made = []

    def begin(size: tuple[int, int], *words: str) -> Terminal:
        made.append(Terminal(size, *words))
        return made[-1]

    yield begin
    for each in made:
        each.close()


def golden(name: str, text: str) -> None:
    path = GOLDENS / f"{name}.txt"
    if os.environ.get("COROLLOUT_UPDATE_SCREENS"):
        path.write_text(text)
    assert text == path.read_text()


def following(home: Path, rollout: str, now: float) -> tuple[str, ...]:
    return FOLLOWER, str(home / "fleet.db"), rollout, str(now)


def watching(home: Path, rollout: str, *more: str) -> tuple[str, ...]:
    return VERB, "--home", str(home), "rollout", "watch", rollout, *more


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("standing", ["baking", "applying"])
def test_a_driven_rollout(tmp_path: Path, terminal, standing: str, size: tuple[int, int]) -> None:
    rollout, now = make(tmp_path, standing)
    shown = terminal(size, *following(tmp_path, rollout, now))
    shown.read("last events" if size[0] > 40 else "hosts")
    golden(f"{standing}.{size[0]}x{size[1]}", shown.text())
    assert not shown.echoes()
    assert shown.end(signal.SIGUSR1) == 0
    assert shown.echoes()
    assert not shown.screen.history.top  # nothing was scrolled away


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_a_rollout_that_ended_stays_on_the_screen_and_its_state_is_the_exit_code(tmp_path, terminal, size) -> None:
    rollout, _ = make(tmp_path, "halted")
    shown = terminal(size, *watching(tmp_path, rollout))
    shown.read("")
    golden(f"halted.{size[0]}x{size[1]}", shown.text())
    assert shown.process.wait(30) == 5
    assert shown.screen.cursor.hidden is False
    assert b"\x1b[2J" not in shown.raw
    assert b"\x1b]0" not in shown.raw  # the hostile detail sets no title


def test_it_redraws_in_place_only_what_changed_and_survives_a_resize(tmp_path: Path, terminal) -> None:
    rollout, now = make(tmp_path, "baking")
    shown = terminal((80, 24), *following(tmp_path, rollout, now))
    shown.read("last events")
    frames = shown.raw.count(b"\x1b[?25l")
    time.sleep(1.0)
    assert frames == shown.raw.count(b"\x1b[?25l")  # nothing changed, nothing was written
    with open_record(tmp_path / "fleet.db", now=lambda: now) as record:
        record.set_rollout_state(rollout, "PAUSED", verb="pause", actor="bob", reason="asked: by bob")
    shown.read("asked: by bob")
    assert shown.text().count("hosts ") == 1
    shown.resize((40, 20))
    shown.read("asked: by bob")
    time.sleep(0.7)
    shown.resize((60, 22))
    shown.read("asked: by bob")
    time.sleep(0.7)
    shown.read("last events")
    assert shown.text().count("asked: by bob") <= 2  # the reason and the event
    assert shown.text().startswith("tcp-flow-1")
    assert all(len(line) < 60 for line in shown.text().splitlines())
    shown.end(signal.SIGUSR1)


def test_ended_by_a_signal_the_terminal_is_as_it_was(tmp_path: Path, terminal) -> None:
    rollout, _ = make(tmp_path, "baking")
    with open_record(tmp_path / "fleet.db", now=time.time) as record:
        record.release_rollout(rollout, record.rollout(rollout).controller)
    shown = terminal((80, 24), *watching(tmp_path, rollout))
    shown.read("hosts")
    assert shown.end(signal.SIGTERM) == 130
    assert shown.echoes()


@pytest.mark.parametrize(("standing", "code"), [("halted", 5), ("completed", 0)])
def test_a_log_has_one_line_per_change_and_no_control_characters(tmp_path: Path, standing: str, code: int) -> None:
    rollout, _ = make(tmp_path, standing)
    done = CliRunner().invoke(cli, ["--home", str(tmp_path), "rollout", "watch", rollout])
    assert done.exit_code == code
    lines = done.stdout.splitlines()
    assert all(re.match(r"2027-01-15T\d\d:\d\d:\d\dZ tcp-flow-1 [a-z-]+( |$)", line) for line in lines[:-1])
    assert all(line.isprintable() for line in lines)
    assert re.search(rf" end state={standing.upper()} exit={code}\b", lines[-1])
    if standing == "halted":
        kept = [line for line in lines if "edge" not in line]
        golden("halted.log", "\n".join([*kept[:-1], re.sub(r"^\S+", "NOW", kept[-1])]) + "\n")


def test_plain_on_a_terminal_is_the_log(tmp_path: Path, terminal) -> None:
    rollout, _ = make(tmp_path, "halted")
    shown = terminal((200, 50), *watching(tmp_path, rollout, "--plain"))
    shown.read("")
    assert b"\x1b" not in shown.raw
    assert b" end state=HALTED exit=5" in shown.raw


def test_while_nothing_changes_a_heartbeat_comes_every_half_minute_and_no_oftener(tmp_path: Path) -> None:
    rollout, now = make(tmp_path, "baking")
    at = [now]
    out = io.StringIO()
    with open_record(tmp_path / "fleet.db") as record:
        look, face = Look(record, rollout, lambda: at[0]), Log(out)
        for _ in range(121):
            face.show(*look.look())
            at[0] += 1.0
    beats = [line for line in out.getvalue().splitlines() if " still " in line]
    assert len(beats) == 120 / STILL_S
    assert "state=BAKING wave=1 phase=bake left_s=100 " in beats[0]
    assert "failed:1,unreachable:1" in beats[0]


def test_nobody_drives_an_active_rollout_is_told_after_a_while(tmp_path: Path) -> None:
    rollout, _ = make(tmp_path, "planned")
    done = CliRunner().invoke(cli, ["--home", str(tmp_path), "rollout", "watch", rollout])
    assert done.exit_code == 130
    assert " create " in done.stdout


def test_the_fixture_is_as_large_as_it_says() -> None:
    assert (START, sum(map(len, WAVES))) == (1_800_000_000.0, 100)


DRIVER = """
import sys
from pathlib import Path
from scripted_hosts import ScriptedHosts
from fleet.rollout.driving.engine import run_rollout

home = Path(sys.argv[1])
print(run_rollout(home, sys.argv[2], executor_factory=ScriptedHosts(home / "hosts").connect))
"""


def test_another_process_is_followed_from_its_start_to_its_end(tmp_path: Path) -> None:
    with open_record(tmp_path / "fleet.db", create=True) as record:
        rollout = prepare(record, plan_of(["a"], ["b", "c"], bake_s=0.5, canary_bake_s=0.5))
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'fleet'}"}
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path), rollout], env=env, stdout=subprocess.PIPE)
    try:
        until = time.monotonic() + 60
        with open_record(tmp_path / "fleet.db") as record:
            while record.rollout(rollout).controller is None and time.monotonic() < until:
                time.sleep(0.05)
        done = CliRunner().invoke(cli, ["--home", str(tmp_path), "rollout", "watch", rollout, "--timeout", "90"])
    finally:
        out, _ = driver.communicate(timeout=60)
    assert out == b"COMPLETED\n"
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert " end state=COMPLETED exit=0" in lines[-1]
    assert sorted(line.split(" ")[3] for line in lines if " apply " in line) == ["host=a", "host=b", "host=c"]
    assert sum("from=baking to=passed" in line for line in lines) == 2
