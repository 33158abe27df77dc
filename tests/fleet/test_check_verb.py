"""``corollout check``: verdict, diagnostics, document and exit code, from files alone."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from btf.archive import Archive
from fleet.cli.main import cli

VMLINUX = Path("/sys/kernel/btf/vmlinux")
HEAD = """
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
char LICENSE[] SEC("license") = "GPL";
struct task_struct { int pid; long no_such_field; } __attribute__((preserve_access_index));
#define TASK ((struct task_struct *)bpf_get_current_task())
"""
FITS = 'SEC("raw_tp/sched_switch") int good(void *c) { return BPF_CORE_READ(TASK, pid); }\n'
GUARDED = """
SEC("raw_tp/sched_switch") int guarded(void *c) {
	if (bpf_core_field_exists(((struct task_struct *)0)->no_such_field)) return BPF_CORE_READ(TASK, no_such_field);
	return 0;
}
"""
POISONED = """
SEC("raw_tp/sched_switch") int bad(void *c)
{
	struct task_struct *task = TASK;
	volatile long value = BPF_CORE_READ(task, no_such_field);

	return value;
}
"""
OPTIONAL = POISONED.replace('SEC("raw', 'SEC("?raw')
UNTELLABLE = 'SEC("raw_tp/never_heard_of_it") int odd(void *c) { return 0; }\n'


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("check")
    texts = {
        "fits": FITS + GUARDED, "poisoned": FITS + POISONED, "optional": FITS + OPTIONAL, "odd": FITS + UNTELLABLE,
    }  # fmt: skip
    made = {}
    for name, text in texts.items():
        source, made[name] = root / f"{name}.bpf.c", root / f"{name}.bpf.o"
        source.write_text(HEAD + text)
        command = ["clang", "-target", "bpf", "-mcpu=v2", "-O2", "-g", "-I/usr/include/x86_64-linux-gnu"]
        subprocess.run([*command, "-c", source, "-o", made[name]], check=True)
    return made


def run(*arguments: object, home: Path | None = None):
    words = [*(("--home", str(home)) if home else ()), "check", *map(str, arguments)]
    return CliRunner().invoke(cli, words, catch_exceptions=False)


def answer(*arguments: object, home: Path | None = None) -> tuple[int, list[dict]]:
    done = run(*arguments, "-o", "json", home=home)
    document = json.loads(done.stdout)
    assert document["schema"] == "corollout.check/1"
    return done.exit_code, document["results"]


def test_what_fits_is_a_yes(objects) -> None:
    code, (result,) = answer(objects["fits"])
    assert code == 0 and result["verdict"] == "fits" and result["evidence"] in ("derived", "claimed")
    assert result["object"] == str(objects["fits"])
    assert result["kernel"]["release"] == os.uname().release and result["kernel"]["arch"] == os.uname().machine
    assert result["kernel"]["btf_sha256"] == hashlib.sha256(VMLINUX.read_bytes()).hexdigest()
    good, guarded = result["programs"]
    assert (good["name"], good["section"], good["verdict"]) == ("good", "raw_tp/sched_switch", "fits")
    assert good["relocations"] == {
        "total": 1, "resolved": 1, "absent": 0, "poisoned": 0, "guarded": 0, "ambiguous": 0, "failed": 0,
    }  # fmt: skip
    assert guarded["verdict"] == "fits" and guarded["reasons"] == []
    assert guarded["relocations"]["absent"] == 1
    assert guarded["relocations"]["poisoned"] == guarded["relocations"]["guarded"] == 1


def test_what_is_poisoned_is_a_no_that_names_the_field(objects) -> None:
    code, (result,) = answer(objects["poisoned"])
    assert code == 3 and result["verdict"] == "refused"
    by_name = {p["name"]: p for p in result["programs"]}
    assert by_name["good"]["verdict"] == "fits"
    assert by_name["bad"]["verdict"] == "refused"
    (reason,) = by_name["bad"]["reasons"]
    assert reason["code"] == "relocation-poisoned" and reason["answer"] == "no"
    assert reason["detail"].startswith("task_struct.no_such_field: no such field")


def test_a_person_sees_the_line(objects) -> None:
    done = run(objects["poisoned"])
    assert done.exit_code == 3
    lines = done.stdout.splitlines()
    assert lines[0].startswith("poisoned.bpf.c:") and "error: task_struct.no_such_field: no such field" in lines[0]
    assert "BPF_CORE_READ(task, no_such_field)" in lines[1] and lines[2].strip() == "|                               ^"
    assert lines[-1].startswith(f"{objects['poisoned']}: refused on {os.uname().release}")


def test_what_an_optional_program_lacks_degrades(objects) -> None:
    code, (result,) = answer(objects["optional"])
    assert code == 0 and result["verdict"] == "degraded"
    bad = next(p for p in result["programs"] if p["name"] == "bad")
    assert bad["optional"] and bad["verdict"] == "refused"
    assert "warning: task_struct.no_such_field" in run(objects["optional"]).stdout


def test_what_no_btf_can_tell_is_neither_yes_nor_no(objects) -> None:
    code, (result,) = answer(objects["odd"])
    assert code == 6 and result["verdict"] == "unknown"
    odd = next(p for p in result["programs"] if p["name"] == "odd")
    assert [(r["answer"], r["code"]) for r in odd["reasons"]] == [("unknown", "raw-tracepoint-unknown")]
    assert "this BTF cannot tell: raw tracepoint never_heard_of_it" in run(objects["odd"]).stdout


def test_every_relocation_on_demand(objects) -> None:
    _, (result,) = answer(objects["fits"], "--relocations")
    rows = [row for p in result["programs"] for row in p["relocations"]["each"]]
    assert [(r["kind"], r["local"], r["outcome"]) for r in rows] == [
        ("byte_off", "task_struct.pid", "value"),
        ("field_exists", "task_struct.no_such_field", "value"),
        ("byte_off", "task_struct.no_such_field", "poisoned"),
    ]
    assert rows[0]["value"] > 0 and rows[1]["value"] == 0 and rows[2]["value"] is None and rows[2]["guarded"]
    assert all(r["insn"] % 8 == 0 for r in rows)
    table = run(objects["fits"], "--relocations").stdout
    assert "byte_off" in table and "poisoned (dead code)" in table


def test_objects_and_kernels_multiply_in_order(objects, tmp_path) -> None:
    other = tmp_path / "5.4.0-1-generic.btf"
    other.write_bytes(VMLINUX.read_bytes())
    code, results = answer(objects["fits"], objects["poisoned"], "--btf", VMLINUX, "--btf", other)
    assert code == 3
    assert [(Path(r["object"]).stem, r["kernel"]["release"]) for r in results] == [
        ("fits.bpf", os.uname().release), ("fits.bpf", "5.4.0-1-generic"),
        ("poisoned.bpf", os.uname().release), ("poisoned.bpf", "5.4.0-1-generic"),
    ]  # fmt: skip


def test_a_kernel_of_the_archive(objects, tmp_path) -> None:
    Archive(tmp_path / "btf").put(VMLINUX.read_bytes(), kernel_id="abc/x86_64", source="test")
    code, (result,) = answer(objects["fits"], "--kernel", "abc/x86_64", home=tmp_path)
    assert code in (0, 6) and result["programs"][0]["relocations"]["resolved"] == 1
    assert {p.name for p in tmp_path.iterdir()} == {"btf"}  # no database is needed or made


@pytest.mark.parametrize(
    ("make", "code", "exit_code"),
    [
        (lambda _: b"hello", "COR-BTF-010", 2),
        (lambda data: data[: len(data) // 2], "COR-BTF-010", 2),
        (lambda _: None, "COR-CLI-020", 2),
    ],
    ids=["no object", "cut off", "absent"],
)
def test_bad_objects_are_one_clear_line(objects, tmp_path, make, code, exit_code) -> None:
    path = tmp_path / "bad.bpf.o"
    data = make(objects["fits"].read_bytes())
    if data is not None:
        path.write_bytes(data)
    done = _command("check", path)
    assert done.returncode == exit_code and done.stdout == ""
    assert done.stderr.startswith(f"{code}: ") and len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize("keep", [0, 20, 5000, 5_000_000])
def test_truncated_btf_is_one_clear_line(objects, tmp_path, keep) -> None:
    path = tmp_path / "cut.btf"
    path.write_bytes(VMLINUX.read_bytes()[:keep])
    done = _command("check", objects["fits"], "--btf", path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("COR-BTF-001: ") and len(done.stderr.splitlines()) == 2


def test_it_needs_neither_database_nor_console(objects) -> None:
    script = (
        "import sys; from fleet.cli.main import cli\n"
        f"cli.main(['check', {str(objects['fits'])!r}], standalone_mode=False)\n"
        "heavy = {'sqlalchemy', 'textual', 'dbos', 'paramiko', 'ansible'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _command(*arguments: object) -> subprocess.CompletedProcess[str]:
    script = "import sys; from fleet.cli.main import run; run(sys.argv[1:])"
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=False
    )
