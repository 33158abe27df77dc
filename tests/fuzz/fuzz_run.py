"""The long run, ``make fuzz``: every target in a process of its own, guided by coverage where atheris can be had.

    fuzz_run.py [--inputs N] [--seconds S] [--target NAME]… [--jobs N] [--seed N] [--blind] [--list]

N inputs in all are shared among the targets; corpus, counts and findings stay under ``.cache/fuzz/NAME`` and the next
run goes on from there. Ends with a table, and with 1 when anything was found.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "fuzz"
_FLUSH = 500  # inputs between two writes of the counts
_C_TIMEOUT_S = 300  # of the clock: a hang inside C code, which the bound on CPU cannot interrupt


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1_000_000, help="how many, all targets together")
    parser.add_argument("--seconds", type=float, default=0, help="stop after so long, all targets together")
    parser.add_argument("--target", action="append", default=[], help="only this one; may be repeated")
    parser.add_argument("--jobs", type=int, default=1, help="how many targets at the same time")
    parser.add_argument(
        "--seed", type=int, default=0, help="of chance; another run with another seed sees other inputs"
    )
    parser.add_argument("--blind", action="store_true", help="by chance alone, without coverage")
    parser.add_argument("--list", action="store_true", help="name the targets")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "btf")]
    blind = options.blind
    if not blind and importlib.util.find_spec("atheris") is None:
        print("fuzz: atheris is not installed (it is built for CPython 3.11 to 3.13 on x86-64 Linux): without coverage")
        blind = True
    if options.child:
        _child(options.child, options.inputs, options.seconds, options.seed, blind=blind)
    from fuzz_targets import TARGETS

    names = [t.name for t in TARGETS]
    if options.list:
        print("\n".join(names))
        return 0
    if unknown := set(options.target) - set(names):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; --list names them")
    wanted = [name for name in names if name in options.target or not options.target]

    def run(number: int, name: str) -> dict:
        share = options.inputs // len(wanted) + (number < options.inputs % len(wanted))
        row = _one(name, share, options.jobs * options.seconds / len(wanted), options.seed, blind=blind)
        print(_line(row), flush=True)
        return row

    with ThreadPoolExecutor(options.jobs) as pool:
        rows = list(pool.map(run, *zip(*enumerate(wanted), strict=True)))
    print(_line({key: sum(row[key] for row in rows) for key in rows[0] if key != "name"} | {"name": "all"}))
    return 1 if any(row["findings"] for row in rows) else 0


def _one(name: str, inputs: int, seconds: float, seed: int, *, blind: bool) -> dict:
    """Run one target in a child; return its row of the table."""
    folder = CACHE / name
    kept = folder / "findings"
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    before = set(kept.glob("*")) if kept.is_dir() else set()
    command = [
        sys.executable,
        __file__,
        "--child",
        name,
        f"--inputs={inputs}",
        f"--seconds={seconds}",
        f"--seed={seed}",
    ]
    (folder / "counts.json").unlink(missing_ok=True)
    with (folder / "log").open("wb") as log:
        start = time.monotonic()
        done = subprocess.run([*command, *["--blind"] * blind], stdout=log, stderr=log, check=False)
        took = time.monotonic() - start
    try:
        counts = json.loads((folder / "counts.json").read_text())
    except OSError:
        counts = {}
    findings = counts.get("findings", 0)
    if done.returncode:  # killed from outside the interpreter: a crash or a hang in C code
        findings += 1
        print(f"fuzz: {name} ended with {done.returncode}: {folder / 'log'}")
    for path in sorted(set(kept.glob("*.txt")) - before) if kept.is_dir() else ():
        print(f"fuzz: {name}: {path.with_suffix('')}: {path.read_text().splitlines()[0]}")
    total = folder / "total.json"
    ever = json.loads(total.read_text()) if total.exists() else 0
    from fuzz_judge import write_whole

    write_whole(total, ever + counts.get("inputs", 0))
    corpus = sum(1 for _ in (folder / "corpus").iterdir())
    return {
        "name": name, "inputs": counts.get("inputs", 0), "parsed": counts.get("parsed", 0),
        "refused": counts.get("refused", 0), "findings": findings, "corpus": corpus,
        "ever": ever + counts.get("inputs", 0), "seconds": round(took),
    }  # fmt: skip


def _line(row: dict) -> str:
    words = " ".join(f"{row[key]:>9,} {key}" for key in ("inputs", "parsed", "refused", "findings", "corpus", "ever"))
    return f"{row['name']:<22}{words} {row['seconds']:>6} s"


def _child(name: str, inputs: int, seconds: float, seed: int, *, blind: bool) -> None:
    """Fuzz one target until *inputs* or *seconds* are used up, and end the process."""
    if not blind:
        import atheris

        with atheris.instrument_imports(include=["btf"], enable_loader_override=False):
            from fuzz_judge import Judge, by_chance, write_whole
            from fuzz_targets import TARGETS
    else:
        from fuzz_judge import Judge, by_chance, write_whole
        from fuzz_targets import TARGETS
    from fuzz_limits import bound_memory

    folder = CACHE / name
    target = next(t for t in TARGETS if t.name == name)
    judge = Judge(target, folder / "findings")
    end = time.monotonic() + seconds if seconds else float("inf")

    def one(data: bytes) -> None:
        judge.judge(data)
        done = judge.counts["inputs"]
        last = done >= inputs or time.monotonic() > end
        if last or done % _FLUSH == 0:
            write_whole(folder / "counts.json", judge.counts)
        if last:
            sys.stdout.flush()
            os._exit(0)  # libFuzzer's own end would write nothing

    if blind:
        bound_memory()
        for data in by_chance(target, seed):
            one(data)
    for number, data in enumerate(target.seeds()):
        (folder / "corpus" / f"seed-{number}").write_bytes(data)

    longest = 3 * max(map(len, target.seeds())) // 2

    def mutate(data: bytes, max_size: int, chance: int) -> bytes:
        rng = Random(chance)
        # Mostly damage that keeps the form and is short, for many short inputs find more than a few long ones;
        # and some of libFuzzer's own, which knows what comparisons looked for.
        for _ in range(4):
            changed = target.mutate(data, rng)
            if len(changed) <= max_size and rng.random() < 0.8:
                return changed
        return atheris.Mutate(data, max_size)

    command = [
        "fuzz", f"-artifact_prefix={folder}/findings/", f"-timeout={_C_TIMEOUT_S}", "-rss_limit_mb=0", "-verbosity=1",
        f"-max_len={longest}", f"-seed={seed + 1}", "-len_control=0", "-mutate_depth=1",
        str(folder / "corpus"),
    ]  # fmt: skip
    (folder / "findings").mkdir(exist_ok=True)
    atheris.Setup(command, one, custom_mutator=mutate)
    bound_memory()
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
