"""Asking a service on a host: real sockets and commands; what is not allowed is refused before anything is asked."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from probes.agent.ask import NotAllowed, ask
from probes.agent.faults import Usage
from probes.agent.main import main


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/slow":
            time.sleep(0.05)
        self.send_response(500 if self.path == "/broken" else 200)
        self.end_headers()
        if self.path == "/endless":
            for _ in range(1000):
                try:
                    self.wfile.write(b"x")
                except OSError:
                    return
                time.sleep(0.01)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def asked(root: Path, probe: str, count: int = 3, timeout_s: float = 1.0, **more: Any) -> dict[str, Any]:
    return ask(str(root), {"probe": probe, "count": count, "timeout_s": timeout_s, **more})


def test_a_connection_is_timed_and_a_closed_port_is_an_error(tmp_path: Path, port: int) -> None:
    answer = asked(tmp_path, f"tcp:127.0.0.1:{port}", 5)
    assert (answer["asked"], answer["errors"], answer["trouble"]) == (5, 0, None)
    assert len(answer["latencies_us"]) == 5
    assert all(v > 0 for v in answer["latencies_us"])
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        answer = asked(tmp_path, f"tcp:127.0.0.1:{closed.getsockname()[1]}")
    assert (answer["asked"], answer["errors"], answer["latencies_us"]) == (3, 3, [])
    assert "refused" in answer["trouble"]


def test_http_counts_what_is_no_good_answer(tmp_path: Path, port: int) -> None:
    assert asked(tmp_path, f"http://127.0.0.1:{port}/health")["errors"] == 0
    assert asked(tmp_path, f"http://localhost:{port}")["errors"] == 0
    broken = asked(tmp_path, f"http://127.0.0.1:{port}/broken")
    assert (broken["errors"], broken["trouble"]) == (3, "status 500")
    slow = asked(tmp_path, f"http://127.0.0.1:{port}/slow")
    assert min(slow["latencies_us"]) >= 50_000


def test_an_answer_that_never_ends_is_an_error_in_bounded_time(tmp_path: Path, port: int) -> None:
    answer = asked(tmp_path, f"http://127.0.0.1:{port}/endless", 1, timeout_s=0.2)
    assert (answer["errors"], answer["latencies_us"]) == (1, [])


@pytest.mark.parametrize("where", ["tcp:192.0.2.1:80", "http://192.0.2.1/", "tcp:[2001:db8::1]:80", "tcp:0.0.0.0:80"])
def test_other_addresses_only_where_the_hosts_policy_names_them(tmp_path: Path, where: str) -> None:
    with pytest.raises(NotAllowed):
        asked(tmp_path, where)
    (tmp_path / "policy.json").write_text(json.dumps({"ask": {"addresses": ["198.51.100.0/24", "nonsense", 7]}}))
    with pytest.raises(NotAllowed):
        asked(tmp_path, where)
    (tmp_path / "policy.json").write_text(json.dumps({"ask": {"addresses": ["0.0.0.0/0", "::/0"]}}))
    assert asked(tmp_path, where, 1, timeout_s=0.05)["asked"] == 1


def test_a_command_runs_only_word_for_word_as_the_host_allows(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "import sys; sys.exit(0)"]
    question = {"probe": f"exec:{words[0]}", "arguments": words[1:]}
    with pytest.raises(NotAllowed):
        asked(tmp_path, **question)
    (tmp_path / "policy.json").write_text(json.dumps({"ask": {"commands": [words]}}))
    assert asked(tmp_path, count=1, timeout_s=20.0, **question)["errors"] == 0
    with pytest.raises(NotAllowed):
        asked(tmp_path, question["probe"], arguments=["-c", "import sys; sys.exit(1)"])


def test_a_command_that_fails_or_hangs_is_an_error(tmp_path: Path) -> None:
    fails, hangs = ["/bin/false"], ["/bin/sleep", "60"]
    (tmp_path / "policy.json").write_text(json.dumps({"ask": {"commands": [fails, hangs]}}))
    assert asked(tmp_path, "exec:/bin/false", 1)["trouble"] == "exit status 1"
    assert asked(tmp_path, "exec:/bin/sleep", 1, timeout_s=0.1, arguments=["60"])["errors"] == 1


@pytest.mark.parametrize(
    "question",
    [
        None,
        [],
        {},
        {"count": 0},
        {"count": 1001},
        {"count": True},
        {"timeout_s": 31},
        {"probe": 5},
        {"probe": "tcp:localhost.evil:1"},
        {"probe": "tcp:127.0.0.1:99999"},
        {"probe": "tcp:999.1.1.1:80"},
        {"probe": "http://127.0.0.1:1/ x"},
        {"probe": "http://127.0.0.1:1/\r\nX: y"},
        {"probe": "exec:relative"},
        {"probe": "exec:/bin/true", "arguments": [5]},
    ],
)
def test_a_question_that_makes_no_sense_is_refused(tmp_path: Path, question: Any) -> None:
    if question:
        question = {"probe": "tcp:127.0.0.1:1", "count": 1, "timeout_s": 1, **question}
    with pytest.raises(Usage):
        ask(str(tmp_path), question)


def test_the_verb(tmp_path: Path, port: int, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "question"
    file.write_text(json.dumps({"probe": f"tcp:127.0.0.1:{port}", "count": 2, "timeout_s": 1}))
    assert main(["ask", "--question", str(file), "--state", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["asked"] == 2
    file.write_text("{")
    assert main(["ask", "--question", str(file), "--state", str(tmp_path)]) == 2
