"""The programs at hand: each a folder with a manifest, ours and those a user brings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from btf.fault import EXIT_USAGE, Fault
from probes.manifest import LADDER, Manifest, ManifestMalformed, Variant, parse_manifest

OURS = Path(__file__).parent / "programs"
RUNNER = Path(__file__).parent / "runner" / "bpfrun"


class ProgramUnknown(Fault):
    """No program of that name."""

    code = "COR-PRG-002"
    exit = EXIT_USAGE
    remedy = "`corollout programs list` shows what is there; --programs DIR adds a folder of your own."


class ArtefactMissing(Fault):
    """A variant's file is not built."""

    code = "COR-PRG-003"
    remedy = "Run `make build` (needs clang and libbpf-dev), or install the wheel, which carries it."


@dataclass(frozen=True, slots=True)
class Build:
    """A variant's artefacts: what is sent to a host, by role. ``digest`` names the whole."""

    program: str
    variant: str
    digest: str
    files: Mapping[str, Path]  # role → file; roles: object, runner, source, module, adapter
    digests: Mapping[str, str]  # role → SHA-256 of that file, hex


@dataclass(frozen=True, slots=True)
class Program:
    """A program of the catalogue."""

    folder: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """The program's name."""
        return self.manifest.name

    def variant(self, name: str) -> Variant | None:
        """Return the declared variant, or None. ``core-btf`` without a row of its own is ``core`` with other BTF."""
        rows = self.manifest.variants
        return rows.get(name) or (rows.get("core") if name == "core-btf" else None)

    @property
    def ladder(self) -> tuple[str, ...]:
        """The variants this program has, in the order they are tried."""
        return tuple(name for name in LADDER if self.variant(name))

    def build(self, variant: str) -> Build:
        """Collect the artefacts of *variant*, or raise ArtefactMissing."""
        row = self.variant(variant)
        if row is None:
            raise ProgramUnknown(f"{self.name} has no variant {variant}")
        role = {"core": "object", "core-btf": "object", "bcc": "source", "fallback": "module"}[variant]
        files = {role: self.folder / row.file}
        if role == "object":
            files["runner"] = RUNNER
        if self.manifest.adapter:
            files["adapter"] = self.folder / self.manifest.adapter
        digests = {}
        for name, path in files.items():
            try:
                digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()
            except OSError:
                raise ArtefactMissing(f"{self.name} {variant}: {path.name} is not there") from None
        whole = hashlib.sha256(json.dumps([variant, sorted(digests.items())]).encode()).hexdigest()
        return Build(self.name, variant, f"sha256:{whole}", files, digests)


def load_program(folder: Path) -> Program:
    """Read one program folder."""
    path = folder / "program.toml"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ManifestMalformed(f"{path}: {error.strerror}") from None
    return Program(folder, parse_manifest(data, origin=str(path)))


def load_catalogue(extra: Iterable[Path] = ()) -> dict[str, Program]:
    """Return all programs by name: ours, then each folder of the *extra* folders; a second of one name is an error."""
    found: dict[str, Program] = {}
    for root in (OURS, *extra):
        folders = [root] if (root / "program.toml").exists() else sorted(p.parent for p in root.glob("*/program.toml"))
        for folder in folders:
            program = load_program(folder)
            if program.name in found:
                raise ManifestMalformed(f"{folder}: a program named {program.name} is already there")
            found[program.name] = program
    return found


def find_program(name: str, catalogue: Mapping[str, Program]) -> Program:
    """Return the program called *name* or raise ProgramUnknown."""
    try:
        return catalogue[name]
    except KeyError:
        raise ProgramUnknown(f"no program is called {name!r}") from None
