"""A real sshd for tests: own host key, own configuration, a random port of the loopback interface."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from inventory.host import Host

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")


def keygen(path: Path, kind: str = "ed25519", comment: str = "", passphrase: str = "") -> Path:
    words = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", comment, "-f", str(path)]
    subprocess.run(words, check=True)
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@dataclass
class Sshd:
    """A running sshd and what is needed to reach it."""

    folder: Path
    port: int
    client_key: Path
    known_hosts: Path
    process: subprocess.Popen[bytes]

    def host(self, name: str = "h1", **changes: object) -> Host:
        host = Host(
            name,
            address="127.0.0.1",
            port=self.port,
            key_file=str(self.client_key),
            known_hosts=str(self.known_hosts),
            state_dir=str(self.folder / "state"),
        )
        return replace(host, **changes)  # type: ignore[arg-type]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def start_sshd(folder: Path) -> Sshd:
    assert SSHD, "openssh-server is not installed (make setup does it)"
    folder.mkdir(parents=True, exist_ok=True)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # Debian's sshd wants its privilege separation folder
    host_key, client_key, port = keygen(folder / "host_key"), keygen(folder / "client_key"), free_port()
    shutil.copy(client_key.with_suffix(".pub"), folder / "authorized_keys")
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host_key}\nAuthorizedKeysFile {folder}/authorized_keys\n"
        "AuthenticationMethods publickey\nPermitRootLogin prohibit-password\nStrictModes no\nUsePAM no\nPidFile none\n"
        "PrintMotd no\nMaxSessions 50\nMaxStartups 200\nLogLevel ERROR\nSubsystem sftp internal-sftp\n"
    )
    public = " ".join(host_key.with_suffix(".pub").read_text().split()[:2])
    known_hosts = folder / "known_hosts"
    known_hosts.write_text(f"[127.0.0.1]:{port} {public}\n")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    sshd = Sshd(folder, port, client_key, known_hosts, process)
    for _ in range(200):
        if process.poll() is not None:
            raise AssertionError(f"sshd ended: {(folder / 'log').read_text()}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except ConnectionRefusedError:
            threading.Event().wait(0.02)
        else:
            return sshd
    raise AssertionError("sshd does not listen")
