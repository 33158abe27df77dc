"""A Debian archive of our own for tests: packages made with dpkg-deb, lists signed by a fresh key, on localhost."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files, counts what was asked for, and holds packages back while the gate is shut."""

    asked: list[str]
    gate: threading.Event

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.endswith(".deb"):
            self.gate.wait(60)
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


class DebianArchive:
    """``publish`` makes an archive that has just what it is given; what was there before leaves the pool."""

    def __init__(self, folder: Path) -> None:
        self.root, self.gnupg = folder / "root", folder / "gnupg"
        self.root.mkdir(parents=True)
        self.gnupg.mkdir(mode=0o700)
        self.asked: list[str] = []
        self.published = 0
        self.gate = threading.Event()
        self.gate.set()
        handler = type("Bound", (Handler,), {"asked": self.asked, "gate": self.gate})
        self.server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(handler, directory=str(self.root))
        )
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.mirror = f"http://127.0.0.1:{self.server.server_port}"
        self.keyring = folder / "keyring.gpg"
        self._gpg("--quick-gen-key", "--passphrase", "", "archive@example.org", "rsa2048", "sign", "never")
        self.keyring.write_bytes(self._gpg("--export"))

    def close(self) -> None:
        self.gate.set()
        self.server.shutdown()
        self.server.server_close()
        subprocess.run(["gpgconf", "--homedir", str(self.gnupg), "--kill", "all"], check=False)

    def publish(self, suite: str, packages: Sequence[tuple[str, str, Sequence[str], Mapping[str, bytes]]]) -> None:
        """Publish packages (name, version, depends, files), all of architecture amd64."""
        pool = self.root / "pool"
        pool.mkdir(exist_ok=True)
        for old in pool.iterdir():
            old.unlink()
        lines = []
        for name, version, depends, files in packages:
            deb = self._deb(name, version, depends, files)
            lines.append(
                f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: none\n"
                + (f"Depends: {', '.join(depends)}\n" if depends else "")
                + f"Filename: pool/{deb.name}\nSize: {deb.stat().st_size}\n"
                f"SHA256: {hashlib.sha256(deb.read_bytes()).hexdigest()}\nDescription: test\n"
            )
        index = "\n".join(lines).encode()
        folder = self.root / "dists" / suite
        (folder / "main/binary-amd64").mkdir(parents=True, exist_ok=True)
        (folder / "main/binary-amd64/Packages").write_bytes(index)
        release = (
            f"Suite: {suite}\nCodename: {suite}\nComponents: main\nArchitectures: amd64\n"
            "Date: Wed, 01 Jan 2025 00:00:00 UTC\n"
            f"SHA256:\n {hashlib.sha256(index).hexdigest()} {len(index)} main/binary-amd64/Packages\n"
        )
        (folder / "Release").write_text(release)
        (folder / "InRelease").write_bytes(self._gpg("--clearsign", "--output", "-", str(folder / "Release")))
        # HTTP tells times in seconds, and a test publishes twice within one.
        self.published += 1
        for file in (folder / "InRelease", folder / "main/binary-amd64/Packages"):
            os.utime(file, (1_700_000_000 + self.published,) * 2)

    def _deb(self, name: str, version: str, depends: Sequence[str], files: Mapping[str, bytes]) -> Path:
        tree = self.root.parent / "tree" / name
        (tree / "DEBIAN").mkdir(parents=True, exist_ok=True)
        (tree / "DEBIAN/control").write_text(
            f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: none\nDescription: test\n"
        )
        for path, content in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(content)
        deb = self.root / "pool" / f"{name}_{version}_amd64.deb"
        # Not compressed: a kernel is known by its size, and zeros would shrink to nothing.
        subprocess.run(["dpkg-deb", "-Znone", "--root-owner-group", "-b", tree, deb], check=True, capture_output=True)
        return deb

    def _gpg(self, *arguments: str) -> bytes:
        command = ["gpg", "--homedir", str(self.gnupg), "--batch", "--quiet", "--pinentry-mode", "loopback", *arguments]
        return subprocess.run(command, check=True, capture_output=True).stdout
