"""``corollout check``: verdict, diagnostics, document and exit code, from files alone."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from btf.archive.archive import Archive
from fleet.cli.main import cli

VMLINUX = Path("/sys/kernel/btf/vmlinux")
SAMPLES = Path(__file__).parents[3] / "shared" / "data" / "btf"
PAGES = Path(__file__).parent / "check_pages"
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
EITHER = GUARDED.replace("return 0;", "return BPF_CORE_READ(TASK, pid);").replace("guarded", "either")
POISONED = """
SEC("raw_tp/sched_switch") int bad(void *c)
{
	struct task_struct *task = TASK;
	volatile long value = BPF_CORE_READ(task, no_such_field);

	return value;
}
"""
DRIFTED = """
struct signal_struct { unsigned char nr_threads; } __attribute__((preserve_access_index));
SEC("raw_tp/sched_process_exit") int drifted(void *c)
{
	return BPF_CORE_READ((struct signal_struct *)TASK, nr_threads);
}
"""
OPTIONAL = POISONED.replace('SEC("raw', 'SEC("?raw')
UNTELLABLE = 'SEC("raw_tp/never_heard_of_it") int odd(void *c) { return 0; }\n'


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("check")
    texts = {
        "fits": FITS + EITHER, "guarded": FITS + GUARDED,
        "poisoned": FITS + POISONED, "optional": FITS + OPTIONAL, "odd": FITS + UNTELLABLE,
        "drifted": DRIFTED,
        "other": "struct task_struct___p { void *tgid; } __attribute__((preserve_access_index));\n"
        'SEC("raw_tp/sched_switch") int other(void *c) '
        "{ return (long)BPF_CORE_READ((struct task_struct___p *)TASK, tgid); }\n",
        "renamed": 'SEC("kprobe/vfs_rea") int renamed(void *c) { return 0; }\n',
        "probed": 'SEC("kprobe/vfs_read") int probed(void *c) { return 0; }\n',
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
    good, either = result["programs"]
    assert (good["name"], good["section"], good["verdict"]) == ("good", "raw_tp/sched_switch", "fits")
    assert good["relocations"] == {
        "total": 1, "resolved": 1, "absent": 0, "poisoned": 0, "guarded": 0, "ambiguous": 0, "failed": 0,
    }  # fmt: skip
    assert either["verdict"] == "fits" and either["reasons"] == [] and either["lost"] == []
    assert either["relocations"]["absent"] == 1
    assert either["relocations"]["poisoned"] == either["relocations"]["guarded"] == 1


def test_what_falls_away_degrades_and_is_named(objects) -> None:
    code, (result,) = answer(objects["guarded"])
    assert code == 0 and result["verdict"] == "degraded"
    good, guarded = result["programs"]
    assert good["verdict"] == "fits" and guarded["verdict"] == "degraded" and guarded["reasons"] == []
    assert guarded["lost"] == ["task_struct.no_such_field"]
    page = run(objects["guarded"]).stdout
    assert "warning: task_struct.no_such_field falls away: no such field" in page and "[lost]" in page
    assert "= the branch at guarded.bpf.c:" in page
    assert "note: " not in run(objects["fits"]).stdout
    every = run(objects["fits"], "--relocations").stdout
    assert "note: task_struct.no_such_field is not read: the branch at fits.bpf.c:" in every


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


def test_what_no_btf_can_tell_is_neither_yes_nor_no(objects, tmp_path) -> None:
    alone = tmp_path / "6.0.0-1.btf"  # the same types without what the running kernel says of itself
    alone.symlink_to(VMLINUX)
    code, (result,) = answer(objects["odd"], "--btf", alone)
    assert code == 6 and result["verdict"] == "unknown"
    odd = next(p for p in result["programs"] if p["name"] == "odd")
    assert [(r["answer"], r["code"]) for r in odd["reasons"]] == [("unknown", "raw-tracepoint-unknown")]
    assert "this BTF cannot tell: raw tracepoint never_heard_of_it" in run(objects["odd"], "--btf", alone).stdout


def test_every_relocation_on_demand(objects) -> None:
    _, (result,) = answer(objects["guarded"], "--relocations")
    rows = [row for p in result["programs"] for row in p["relocations"]["each"]]
    assert [(r["kind"], r["local"], r["outcome"]) for r in rows] == [
        ("byte_off", "task_struct.pid", "value"),
        ("field_exists", "task_struct.no_such_field", "value"),
        ("byte_off", "task_struct.no_such_field", "poisoned"),
    ]
    assert rows[0]["value"] > 0 and rows[1]["value"] == 0 and rows[2]["value"] is None and rows[2]["guarded"]
    assert all(r["insn"] % 8 == 0 for r in rows)
    assert rows[2]["guard"]["kind"] == "field_exists" and rows[2]["guard"]["local"] == "task_struct.no_such_field"
    table = run(objects["guarded"], "--relocations").stdout
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


def test_a_name_that_is_nearly_a_programs_is_told() -> None:
    done = _command("check", "tcp-flwo")
    assert done.returncode == 2 and "did you mean 'tcp-flow'?" in done.stderr


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


def test_a_warning_moves_no_verdict(objects) -> None:
    code, (result,) = answer(objects["drifted"])
    assert code == 0 and result["verdict"] == "fits"
    (warning,) = result["warnings"]
    assert (warning["code"], warning["consequence"]) == ("field-size", "stray read")
    assert (warning["what"], warning["was"], warning["now"]) == ("signal_struct.nr_threads", "unsigned char", "int")
    assert warning["function"] == "drifted" and "BPF_CORE_READ" in warning["line"]["text"]
    page = run(objects["drifted"]).stdout
    assert "warning: relocates, but signal_struct.nr_threads was unsigned char, is int" in page
    assert "= stray read in drifted (raw_tp/sched_process_exit)" in page


def test_copies_of_a_function_are_a_missed_hook(objects, tmp_path) -> None:
    symbols = tmp_path / "System.map"
    symbols.write_text("ffffffff81000000 T vfs_read\nffffffff81000010 t vfs_read.constprop.0\n")
    _, (result,) = answer(objects["probed"], "--btf", VMLINUX, "--symbols", symbols)
    (warning,) = result["warnings"]
    assert (warning["code"], warning["consequence"], warning["what"]) == ("copies", "missed hook", "vfs_read")
    assert warning["now"] == "vfs_read and vfs_read.constprop.0 (for constant arguments)"
    assert "function-absent" not in str(result) and "probed" in str(result["programs"][0])
    symbols.write_text("ffffffff81000010 t vfs_read.isra.0\n")
    code, (result,) = answer(objects["probed"], "--btf", VMLINUX, "--symbols", symbols)
    (reason,) = [r for r in result["programs"][0]["reasons"] if r["code"] == "function-absent"]
    assert code == 3 and "only as vfs_read.isra.0" in reason["detail"] and reason["source"] == "kallsyms"
    several = _command("check", objects["probed"], "--btf", SAMPLES, "--symbols", symbols)
    assert several.returncode == 2 and several.stderr.startswith("COR-CLI-021: a list of functions is of one kernel")


def test_a_field_of_another_kind_is_told_from_none(objects) -> None:
    page = run(objects["other"]).stdout
    assert "error: task_struct___p.tgid: a field of another kind of type [relocation-poisoned]" in page
    assert "      = struct task_struct has tgid as pid_t\n" in page


def test_functions_like_the_one_that_is_not_there(objects) -> None:
    page = run(objects["renamed"]).stdout
    assert "note: like vfs_rea this kernel has: vfs_read" in page and "[near]" in page


def test_the_kernel_it_was_made_for_may_be_given(objects) -> None:
    code, (result,) = answer(objects["fits"], "--built-on", VMLINUX)
    assert code == 0 and result["warnings"] == []


@pytest.mark.parametrize(("name", "exit_code"), [("poisoned", 3), ("drifted", 6)])
def test_a_page_of_four_old_kernels(objects, name, exit_code) -> None:
    """One page for many kernels: what is alike is said once. COROLLOUT_UPDATE_SCREENS=1 writes it anew."""
    done = run(objects[name], "--btf", SAMPLES)
    page = done.stdout.replace(str(objects[name].parent), "OBJECTS")
    golden = PAGES / f"{name}.txt"
    if os.environ.get("COROLLOUT_UPDATE_SCREENS"):
        golden.write_text(page)
    assert page == golden.read_text()
    assert done.exit_code == exit_code


@pytest.mark.parametrize("program", ["tcp-flow", "net-policy"])
def test_our_programs_on_every_kernel_at_hand(program) -> None:
    _, results = answer(program, "--btf", SAMPLES, "--btf", VMLINUX, "--relocations")
    assert len(results) == len(list(SAMPLES.rglob("*.btf.tar.xz"))) + 1 == 5
    for result in results:
        assert result["verdict"] in ("fits", "degraded", "unknown") and result["warnings"] == []
        for each in result["programs"]:
            assert each["relocations"]["total"] == len(each["relocations"]["each"])
            assert all(r["evidence"] and r["answer"] in ("no", "blocked", "unknown") for r in each["reasons"])
    page = run(program, "--btf", SAMPLES, "--btf", VMLINUX).stdout
    assert page.splitlines()[-2].endswith(f"  {program}") and len(page.splitlines()[-2].split()) == 6


def test_a_folder_is_gone_through_in_order(objects, tmp_path) -> None:
    for name in ("6.12.0-1.btf", "6.9.0-1.btf", "5.10.0-1.btf"):
        (tmp_path / name).symlink_to(VMLINUX)
    (tmp_path / "6.10.0-1.btf").write_bytes(b"none")
    (tmp_path / "README").write_text("none either")
    done = _command("check", objects["fits"], "--btf", tmp_path, "-o", "jsonl")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["kernel"]["release"] for row in rows] == ["5.10.0-1", "6.9.0-1", "6.12.0-1"]
    assert {row["schema"] for row in rows} == {"corollout.check/1"}
    assert done.stderr.startswith("COR-BTF-001: ") and done.returncode == 6  # of one it cannot tell
    empty = tmp_path / "empty"
    empty.mkdir()
    done = _command("check", objects["fits"], "--btf", empty)
    assert done.returncode == 2 and done.stderr.startswith(f"COR-CLI-021: {empty}: no .btf or .btf.tar.xz file")


def test_colours_are_for_a_person_who_wants_them(objects) -> None:
    def seen(**environment: str) -> bytes:
        ours, theirs = pty.openpty()
        script = f"from fleet.cli.main import run; run(['check', {str(objects['poisoned'])!r}])"
        env = {**os.environ, "TERM": "xterm", **environment}
        child = subprocess.Popen([sys.executable, "-c", script], stdout=theirs, env=env)
        os.close(theirs)
        text = b""
        try:
            while chunk := os.read(ours, 65536):
                text += chunk
        except OSError:  # the other end is closed
            pass
        assert child.wait() == 3
        os.close(ours)
        return text

    assert b"\x1b[31merror: " in seen(NO_COLOR="")
    assert b"\x1b" not in seen(NO_COLOR="1")
    assert "\x1b" not in run(objects["poisoned"]).stdout


def test_names_from_outside_are_made_printable(objects, tmp_path) -> None:
    hostile = tmp_path / "\x1b[2Jx.bpf.o"
    shutil.copy(objects["poisoned"], hostile)
    assert run(hostile).exit_code == 3 and "\x1b" not in run(hostile).stdout


def test_nobody_needs_no_home_to_check(objects) -> None:
    """Without root, home, database or network; what is imported is imported before root is given up."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = shutil.copy(objects["fits"], folder)
        script = (
            "import os, sys, socket; from fleet.cli.main import cli\n"
            f"words = ['--home', '/nowhere', 'check', {str(path)!r}, '--btf', '/sys/kernel/btf/vmlinux']\n"
            "cli.main(words, standalone_mode=False)\n"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534); os.chdir('/'); os.environ.clear()\n"
            "def refuse(*_): raise AssertionError('a socket')\n"
            "socket.socket = refuse\n"
            "sys.exit(cli.main(words, standalone_mode=False))\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("fits on") == 2


def _command(*arguments: object) -> subprocess.CompletedProcess[str]:
    script = "import sys; from fleet.cli.main import run; run(sys.argv[1:])"
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=False
    )
