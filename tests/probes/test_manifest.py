"""Manifests and the catalogue: strict, helpful, and the ones we ship are right."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btf.fault import Fault
from probes.catalogue import OURS, ArtefactMissing, ProgramUnknown, find_program, load_catalogue, load_program
from probes.manifest import LADDER, MAX_MANIFEST, ManifestMalformed, parse_manifest

GOOD = """
name = "mine"
version = "1"
kind = "tracing"
summary = "what it is for"
adapter = "adapter.py"

[variants.core]
file = "core.bpf.o"

[variants.fallback]
file = "fallback.py"
gaps = ["pid"]

[record]
struct = "event"
"""


def folder(root: Path, name: str = "mine", text: str = GOOD) -> Path:
    path = root / name
    path.mkdir(parents=True)
    (path / "program.toml").write_text(text)
    for file in ("core.bpf.o", "fallback.py", "adapter.py"):
        (path / file).write_bytes(file.encode())
    return path


def test_defaults_are_the_careful_ones() -> None:
    manifest = parse_manifest(GOOD.encode())
    assert (manifest.boot, manifest.fail_mode, manifest.scopes) == ("stay-off", "detach", ("host",))
    assert (manifest.budget.cpu_percent, manifest.budget.strikes) == (1.0, 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("summary =", "sumary ="), "did you mean 'summary'"),
        (('kind = "tracing"', 'kind = "tracking"'), "tracking"),
        (("[variants.core]", "[variants.kore]"), "the ladder is core"),
        (('file = "core.bpf.o"', 'file = "../core.bpf.o"'), "plain file name"),
        (('file = "core.bpf.o"', 'file = ".hidden"'), "plain file name"),
        (('adapter = "adapter.py"', 'adapter = "/etc/passwd"'), "plain file name"),
        (('version = "1"', ""), "version"),
        (('gaps = ["pid"]', 'gap = ["pid"]'), "gap"),
        (('name = "mine"', 'name = "mine'), "line"),
    ],
)
def test_a_wrong_manifest_names_file_and_fault(change: tuple[str, str], said: str) -> None:
    assert change[0] in GOOD
    with pytest.raises(ManifestMalformed, match=r"program\.toml") as raised:
        parse_manifest(GOOD.replace(*change).encode())
    assert said in raised.value.message


def test_a_manifest_without_variants_or_too_large_is_refused() -> None:
    with pytest.raises(ManifestMalformed):
        parse_manifest(GOOD.replace("[variants.core]", "[other]").replace("[variants.fallback]", "[more]").encode())
    with pytest.raises(ManifestMalformed, match="larger"):
        parse_manifest(b"#" * (MAX_MANIFEST + 1))


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda t: t.encode()))
def test_any_bytes_give_a_manifest_or_a_fault(data: bytes) -> None:
    try:
        parse_manifest(data)
    except Fault as fault:
        assert fault.message.isprintable()


def test_the_ladder_is_in_order_and_core_btf_comes_with_core(tmp_path: Path) -> None:
    program = load_program(folder(tmp_path))
    assert program.ladder == ("core", "core-btf", "fallback")
    assert program.variant("core-btf") == program.variant("core")
    assert program.variant("bcc") is None
    assert tuple(LADDER) == ("core", "core-btf", "bcc", "fallback")


def test_a_build_is_named_by_everything_it_is_made_of(tmp_path: Path) -> None:
    program = load_program(folder(tmp_path))
    before = program.build("fallback")
    assert set(before.files) == set(before.digests) == {"module", "adapter"}
    assert before.digest == program.build("fallback").digest
    (program.folder / "adapter.py").write_text("other")
    after = program.build("fallback")
    assert after.digest != before.digest
    assert after.digests["module"] == before.digests["module"]


def test_the_same_object_is_another_build_as_core_btf() -> None:
    program = load_catalogue()["tcp-flow"]
    core, other = program.build("core"), program.build("core-btf")
    assert core.digests == other.digests
    assert core.digest != other.digest


def test_what_is_not_built_is_named(tmp_path: Path) -> None:
    program = load_program(folder(tmp_path))
    (program.folder / "fallback.py").unlink()
    with pytest.raises(ArtefactMissing, match=r"fallback\.py"):
        program.build("fallback")
    with pytest.raises(ProgramUnknown, match="bcc"):
        program.build("bcc")


def test_a_users_folder_joins_the_catalogue_and_names_must_differ(tmp_path: Path) -> None:
    own = folder(tmp_path / "programs")
    assert "mine" in load_catalogue([tmp_path / "programs"])
    assert "mine" in load_catalogue([own])
    shutil.copytree(own, tmp_path / "programs" / "again")
    with pytest.raises(ManifestMalformed, match="already"):
        load_catalogue([tmp_path / "programs"])


def test_an_unknown_program_is_a_fault() -> None:
    with pytest.raises(ProgramUnknown, match="nothing-such"):
        find_program("nothing-such", load_catalogue())


@pytest.mark.parametrize("path", sorted(OURS.glob("*/program.toml")), ids=lambda p: p.parent.name)
def test_ours_are_whole(path: Path) -> None:
    program = load_program(path.parent)
    assert program.name == path.parent.name.replace("_", "-")
    raw: dict[str, Any] = tomllib.loads(path.read_text())
    assert set(raw["variants"]) >= {"core", "bcc", "fallback"}
    for variant in program.ladder:
        assert program.build(variant).digest.startswith("sha256:")
    # What is pinned must not vanish with its agent, and what can cut a host off is undone unless confirmed.
    if program.manifest.kind == "networking":
        assert program.manifest.fail_mode == "static"
        assert program.manifest.revert_s > 0
    else:
        assert program.manifest.lease_s > 0
