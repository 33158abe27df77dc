"""The torture set: an object for each rule of CO-RE, and two in every instruction set."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from rules import HEAD, MATCHES, RULES, as_type_matches

SOURCES = Path(__file__).parent / "objects"


def slug(name: str) -> str:
    """The name of a rule as one of a file."""
    return name.replace(" ", "_").replace("'", "")


def clang(source: Path, out: Path, *, cpu: str = "v2", big: bool = False) -> None:
    """Compile *source* for BPF."""
    command = ["clang", "-target", "bpfeb" if big else "bpf", f"-mcpu={cpu}", "-O2", "-g", "-Wall", "-Wno-unused"]
    done = subprocess.run(
        [*command, "-I/usr/include/x86_64-linux-gnu", f"-I{SOURCES}", "-c", str(source), "-o", str(out)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def torture_objects(compile_bpf: Callable[..., Path]) -> dict[str, bytes]:
    """Return the bytes of every object by name; *compile_bpf* as the fixture of that name, or :func:`compiler`."""
    found = {name: compile_bpf(f"{slug(name)}.bpf.c", text=HEAD + RULES[name][1]).read_bytes() for name in RULES}
    for name, (_, types, _) in MATCHES.items():
        text = HEAD + types + "PROG(v = bpf_core_type_exists(struct t) + __builtin_preserve_type_info(*t, 1))"
        found[name] = as_type_matches(compile_bpf(f"matches_{slug(name)}.bpf.c", text=text).read_bytes())
    for source in ("relocations.bpf.c", "tracing.bpf.c"):
        found |= {f"{source} {cpu}": compile_bpf(source, cpu=cpu).read_bytes() for cpu in ("v1", "v2", "v3")}
    return found


def compiler(root: Path) -> Callable[..., Path]:
    """compile("x.bpf.c", cpu="v2") → path of the object below *root*; the source may also be given as *text*."""
    made: dict[tuple, Path] = {}

    def compile_(name: str, *, cpu: str = "v2", text: str | None = None, big: bool = False) -> Path:
        key = (name, cpu, text, big)
        if key not in made:
            source = SOURCES / name
            if text is not None:
                source = root / name
                source.write_text(text)
            out = root / f"{len(made)}-{name}.o"
            clang(source, out, cpu=cpu, big=big)
            made[key] = out
        return made[key]

    return compile_
