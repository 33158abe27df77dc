"""What is judged: every object and every kernel's BTF at hand, by name."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

from btf_places import SAMPLES, VMLINUX
from embedded import embedded_objects

from btf.archive.archive import read_btf_file
from btf.archive.kernel_image import read_kernel_image
from fleet.lab.kernels import fetch

_HOUSE = Path(__file__).parents[2]
CACHE = _HOUSE / ".cache" / "kernels"


def tools_objects(directory: Path) -> dict[str, Path]:
    """Write the distinct objects embedded in the binaries of Debian's ``libbpf-tools`` into *directory*."""
    listed = subprocess.run(["dpkg", "-L", "libbpf-tools"], capture_output=True, text=True, check=True).stdout
    found: dict[str, Path] = {}
    seen = set()
    for line in listed.splitlines():
        binary = Path(line)
        if binary.parent.name != "sbin" or not binary.is_file():
            continue
        for number, data in enumerate(embedded_objects(binary.read_bytes())):
            digest = hashlib.sha256(data).digest()
            if digest not in seen:
                seen.add(digest)
                path = directory / f"{binary.name}-{number}.bpf.o"
                path.write_bytes(data)
                found[f"libbpf-tools {binary.name}"] = path
    return found


def own_objects() -> dict[str, Path]:
    """Return the objects `make build` made of our programs and of those the tests use."""
    paths = sorted([*_HOUSE.glob("probes/programs/*/core.bpf.o"), *_HOUSE.glob("tests/programs/*/core.bpf.o")])
    assert paths, "no objects: run `make build` first"
    return {path.parent.name: path for path in paths}


def _sample(part: str) -> Callable[[], bytes]:
    def read() -> bytes:
        assert SAMPLES.is_dir(), f"the BTF samples are missing: {SAMPLES} is shared beside the project, not part of it"
        return read_btf_file(next(SAMPLES.rglob(f"*{part}*.btf.tar.xz")))

    return read


def _debian(name: str) -> Callable[[], bytes]:
    def read() -> bytes:
        kernel = fetch(name, cache=CACHE)  # what hinders it is the test's failure, in the fetcher's words
        data = read_kernel_image(kernel.vmlinuz.read_bytes()).btf
        assert data, f"{kernel.package} {kernel.version} carries no BTF"
        return data

    return read


KERNELS: dict[str, Callable[[], bytes]] = {
    "running": VMLINUX.read_bytes,
    "bclinux 4.19 x86_64": _sample("bclinux"),
    "kylin 4.19 aarch64": _sample("ky10"),
    "android 5.10 arm64": _sample("a12-5.10"),
    "centos 4.18 aarch64": _sample("el8_1"),  # hundreds of copies of most structs
    "debian 5.10 amd64": _debian("debian:5.10"),
    "debian 6.1 amd64": _debian("debian:6.1"),
    "debian 6.12 amd64": _debian("debian:6.12"),
    "debian sid amd64": _debian("debian:sid"),
    "debian 6.12 arm64": _debian("debian:6.12/arm64"),
    "debian sid s390x": _debian("debian:sid/s390x"),  # big-endian
}
