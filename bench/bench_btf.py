"""How quick btf/ is beside `bpftool gen min_core_btf` and libbpf: first look, warm checks, a matrix, one huge BTF.

CPU times of one core, all from one run. Kernels: the running one, those of the samples and of fetched Debian packages
that are at hand; for the matrix each is parsed anew until there are 30. Objects: ours and those in the binaries of
Debian's libbpf-tools, as far as they have CO-RE relocations; for the matrix they come round until there are 60.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

HOUSE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HOUSE))
sys.path.insert(0, str(HOUSE / "tests" / "btf"))
# ruff: noqa: E402  what is measured, and what the tests gather, is found by the two lines above

from btf_places import SAMPLES, VMLINUX
from judged import own_objects, tools_objects
from libbpf_truth import truth_program

from btf.archive.archive import read_btf_file
from btf.core.minimise import minimise
from btf.core.question import asked_by
from btf.core.relocate import relocate
from btf.format.architecture import architecture
from btf.format.parse import parse_btf
from btf.objects.elf_object import read_object
from fleet.compatibility.check import KernelBtf, check_object

T = TypeVar("T")
OBJECTS, KERNELS = 60, 30
TYPICAL = "execsnoop"  # five relocations, a perf buffer; the object with most has 130
HUGE = "el8_1"  # 27 MB, never deduplicated


def timed(act: Callable[..., T], *given: Any, **options: Any) -> tuple[float, T]:
    """Return how many milliseconds of CPU *act* takes, and what it returns."""
    began = time.process_time()
    found = act(*given, **options)
    return (time.process_time() - began) * 1000, found


def best(act: Callable[..., object], *given: Any) -> float:
    return min(timed(act, *given)[0] for _ in range(5))


def child_cpu(command: list[str | Path]) -> float:
    """Milliseconds of CPU that a process takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1000


def peak_mib() -> float:
    """The most memory this process held, of its own: ``ru_maxrss`` would count what was there before it started."""
    row = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    return int(row.split()[1]) / 1024


def bpftool(btf: Path, obj: Path) -> float:
    return child_cpu(["bpftool", "gen", "min_core_btf", btf, "/dev/null", obj])


def libbpf(btf: Path, objects: Iterable[Path]) -> float:
    """Milliseconds of CPU that libbpf takes to open and relocate *objects*, the kernel's part answered for it."""
    return child_cpu([truth_program(), "--quiet", btf, *objects])


def gather(directory: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Write what is measured into *directory*: objects and kernels' BTF, by name."""
    relocating = {}
    for name, path in {**own_objects(), **tools_objects(directory)}.items():
        if read_object(path.read_bytes()).relocations:
            relocating[name.removeprefix("libbpf-tools ")] = path
    kernels = {"running": directory / "running.btf"}
    kernels["running"].write_bytes(VMLINUX.read_bytes())
    for sample in sorted(SAMPLES.rglob("*.btf.tar.xz")):
        kernels[sample.name] = directory / f"{sample.name}.btf"
        kernels[sample.name].write_bytes(read_btf_file(sample))
    store = Path(os.environ.get("COROLLOUT_KERNELS", HOUSE / ".cache/kernels")) / "store"
    kernels |= {path.parent.name: path for path in sorted(store.glob("*/vmlinux.btf")) if path.stat().st_size}
    return relocating, kernels


def first_look(objects: dict[str, Path], kernel: Path) -> dict[str, float]:
    data, obj = kernel.read_bytes(), read_object(objects[TYPICAL].read_bytes())
    rows = []
    for _ in range(5):
        parsed, btf = timed(parse_btf, data)
        indexed, _ = timed(btf.by_name, "task_struct")
        checked, _ = timed(check_object, TYPICAL, obj, KernelBtf(btf, "0"))
        rows.append((parsed, indexed, checked))
    parsed, indexed, checked = (min(column) for column in zip(*rows, strict=True))
    return {
        "BTF, MB": len(data) / 1e6,
        "parse": parsed,
        "index of names": indexed,
        "parse + index": parsed + indexed,
        "first check": checked,
        "all of it": parsed + indexed + checked,
        "bpftool gen min_core_btf": min(bpftool(kernel, objects[TYPICAL]) for _ in range(5)),
        "libbpf, open + relocate": min(libbpf(kernel, [objects[TYPICAL]]) for _ in range(5)),
        "peak memory, MiB": peak_mib(),
    }


def warm(objects: dict[str, Path], kernel: Path, every: int = 4) -> dict[str, float]:
    """Check objects on a kernel that has answered for all others, for the first time and again."""
    read = {name: read_object(path.read_bytes()) for name, path in objects.items()}
    for obj in read.values():
        asked_by(obj)
    new, again, alone = [], [], []
    known = None
    for name in list(read)[::every]:
        del known  # one kernel at a time
        known = KernelBtf(parse_btf(kernel.read_bytes()), "0")
        for other, obj in read.items():
            if other != name:
                check_object(other, obj, known)
        new.append(timed(check_object, name, read[name], known)[0])
        again.append(best(check_object, name, read[name], known))
        alone.append(best(relocate, read[name], known.btf))
    return {
        "objects measured": len(new),
        "first check of an object, median": statistics.median(new),
        "first check of an object, worst": max(new),
        "check again, median": statistics.median(again),
        "check again, worst": max(again),
        "relocation of it, median": statistics.median(alone),
        "relocation of it, worst": max(alone),
        "peak memory, MiB": peak_mib(),
    }


def matrix(objects: dict[str, Path], kernels: dict[str, Path], machine: str = "") -> dict[str, float]:
    """Every object on every kernel (of one *machine*), kernel by kernel, in one process."""
    names = list(itertools.islice(itertools.cycle(objects), OBJECTS))
    usual = [path for name, path in kernels.items() if HUGE not in name]
    if machine:
        usual = [path for path in usual if architecture(parse_btf(path.read_bytes())) == machine]
    paths = list(itertools.islice(itertools.cycle(usual), KERNELS))

    def check_all() -> int:
        relocations = 0
        read = [(name, read_object(objects[name].read_bytes())) for name in names]
        for path in paths:
            known = KernelBtf(parse_btf(path.read_bytes()), "0")
            relocations += sum(len(check_object(name, obj, known).relocations) for name, obj in read)
        return relocations

    ours, relocations = timed(check_all)
    peak = peak_mib()
    # A sample of the other two: every kernel with every tenth object, each object on one more kernel.
    pairs = [(path, objects[names[(7 * i) % len(names)]]) for i, path in enumerate(paths)]
    theirs = sum(bpftool(*pair) for pair in pairs) / len(pairs) * OBJECTS * KERNELS
    libbpfs = sum(libbpf(path, [objects[name] for name in names]) for path in usual) / len(usual) * KERNELS
    return {
        "objects": len(names),
        "distinct objects": len(set(names)),
        "kernels, each parsed anew": len(paths),
        "distinct kernels": len(usual),
        "relocations": relocations,
        "ours, s": ours / 1000,
        "bpftool, s": theirs / 1000,
        "bpftool runs timed": len(pairs),
        "libbpf, s": libbpfs / 1000,
        "times as quick as bpftool": theirs / ours,
        "times as quick as libbpf": libbpfs / ours,
        "peak memory, MiB": peak,
    }


def huge(objects: dict[str, Path], kernel: Path) -> dict[str, float]:
    parsed, btf = timed(parse_btf, kernel.read_bytes())
    indexed, copies = timed(btf.by_name, "task_struct")
    obj = read_object(objects[TYPICAL].read_bytes())
    first = timed(check_object, TYPICAL, obj, KernelBtf(btf, "0"))[0]
    minimising, small = timed(minimise, [obj], btf)
    with tempfile.NamedTemporaryFile() as out:
        tool = ["bpftool", "gen", "min_core_btf", kernel, out.name, objects[TYPICAL]]
        theirs = child_cpu(tool)
        size = Path(out.name).stat().st_size
    types = len(btf)
    del btf  # warm() has its own
    return {
        "BTF, MB": kernel.stat().st_size / 1e6,
        "types": types,
        "copies of task_struct": len(copies),
        "parse + index": parsed + indexed,
        "first check": first,
        "minimise": minimising,
        "bpftool gen min_core_btf": theirs,
        "minimised, bytes": len(small),
        "minimised by bpftool, bytes": size,
        **warm(objects, kernel, every=14),
    }


def main() -> None:
    if len(sys.argv) > 1:  # one part, in a process of its own, so that its peak of memory is its own
        part, directory = sys.argv[1], Path(sys.argv[2])
        objects, kernels = ({n: Path(p) for n, p in row.items()} for row in json.loads((directory / "all").read_text()))
        huge_one = next((path for name, path in kernels.items() if HUGE in name), None)
        parts: dict[str, Callable[[], dict[str, float]]] = {
            "first": lambda: first_look(objects, kernels["running"]),
            "warm": lambda: warm(objects, kernels["running"]),
            "matrix": lambda: matrix(objects, kernels, platform.machine()),
            "mixed": lambda: matrix(objects, kernels),
            "huge": lambda: huge(objects, huge_one) if huge_one else {},
        }
        print(json.dumps(parts[part]()))
        return
    with tempfile.TemporaryDirectory() as name:
        objects, kernels = gather(Path(name))
        listed = [{n: str(p) for n, p in row.items()} for row in (objects, kernels)]
        (Path(name) / "all").write_text(json.dumps(listed))
        for part, title in (
            ("first", f"a BTF never seen, and {TYPICAL} on it"),
            ("warm", "objects on a kernel that has answered for others"),
            ("matrix", f"{OBJECTS} objects × {KERNELS} kernels of the architecture they were built for"),
            ("mixed", f"{OBJECTS} objects × {KERNELS} kernels of all architectures at hand"),
            ("huge", "a BTF that was never deduplicated"),
        ):
            done = subprocess.run([sys.executable, __file__, part, name], stdout=subprocess.PIPE, check=True)
            print(f"{title} (ms of CPU where nothing else is said)")
            for row, value in json.loads(done.stdout).items():
                print(f"    {row:<40}{value:>12,.{0 if value == int(value) else 2}f}")


if __name__ == "__main__":
    main()
