"""What the builds of a program are made of, read once before any host is looked at."""

from __future__ import annotations

from functools import partial

from btf.relocate import relocate

from btf.elf_object import read_object
from btf.fault import Fault
from fleet.compatibility.choose import Material
from fleet.compatibility.requirements import infer
from probes.catalogue import Program


def materials_of(program: Program) -> dict[str, Material]:
    """Read what each variant of *program* is built of: its requirements inferred, its relocations ready to resolve."""

    found: dict[str, Material] = {}
    for variant in program.ladder:
        try:
            build = program.build(variant)
        except Fault as fault:
            found[variant] = Material(missing=fault.message)
            continue
        if "object" not in build.files:
            found[variant] = Material(build.digest)
            continue
        obj = read_object(build.files["object"].read_bytes())
        resolve = (partial(relocate, obj)) if obj.relocations else None
        found[variant] = Material(build.digest, infer(obj), resolve)
    return found
