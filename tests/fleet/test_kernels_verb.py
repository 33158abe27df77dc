"""``corollout kernels``: the archive alone, from files, and together with a record."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import kernel_images as make
import pytest
from click.testing import CliRunner
from kernel_modules import module, split_btf

from btf.archive.archive import Archive
from btf.format.parse import parse_btf
from fleet.cli.kernel_sources import loaded_modules
from fleet.cli.main import cli
from fleet.record import open_record
from fleet.survey import decide
from inventory.collect import ScanOutcome
from inventory.facts import Answer, Fact, Facts
from inventory.host import Host
from probes.catalogue import load_catalogue

VMLINUX = Path("/sys/kernel/btf/vmlinux")
ID = f"{make.BUILD_ID.hex()}/x86_64"
OBJECT = Path(__file__).parents[2] / "probes/programs/tcp_flow/core.bpf.o"


def run(home: Path, *arguments: object):
    done = CliRunner().invoke(cli, ["--home", str(home), "kernels", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def fault(home: Path, *arguments: object) -> str:
    done = CliRunner().invoke(cli, ["--home", str(home), "kernels", *map(str, arguments)])
    assert done.exception is not None and done.stdout == ""
    return str(getattr(done.exception, "code", done.exception))


def document(home: Path, *arguments: object) -> dict:
    done = run(home, *arguments, "-o", "json")
    return {"exit": done.exit_code, **json.loads(done.stdout)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kernel image, a module of it, and BTF in a public archive's folders; the BTF is the running kernel's."""
    root = tmp_path_factory.mktemp("files")
    btf = VMLINUX.read_bytes()
    (root / "vmlinuz-6.9.1-test").write_bytes(make.bzimage(make.pack(make.vmlinux(btf), "lz4")))
    (root / "zz_my_mod.ko").write_bytes(module(split_btf(btf, "my_function")))
    hub = root / "hub/ubuntu/20.04/x86_64"
    hub.mkdir(parents=True)
    (hub / "6.9.1-test.btf").write_bytes(btf)
    command = ["tar", "-cJf", "6.9.1-test.btf.tar.xz", "6.9.1-test.btf"]
    subprocess.run(command, cwd=hub, check=True, env={"XZ_OPT": "-0", "PATH": "/usr/bin:/bin"})
    (hub / "6.9.1-test.btf").unlink()
    return root


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_all_of_it_works_without_a_record(files, home) -> None:
    assert document(home, "list")["kernels"] == [] and not home.exists()
    brought = document(home, "import", files)
    assert brought["schema"] == "corollout.kernels-import/1" and brought["exit"] == 0
    assert [(Path(f["file"]).name, f["outcome"], f["kernel"]) for f in brought["files"]] == [
        ("vmlinuz-6.9.1-test", "added", ID), ("zz_my_mod.ko", "added", ID),
        ("6.9.1-test.btf.tar.xz", "added", "name-ubuntu-20.04-6.9.1-test/x86_64"),
    ]  # fmt: skip
    named, exact = sorted(document(home, "list")["kernels"], key=lambda row: not row["id"].startswith("name-"))
    assert (exact["id"], exact["release"], exact["version"], exact["how"]) == (ID, make.RELEASE, make.VERSION, "image")
    assert exact["hosts"] is None and exact["exact"] and not named["exact"] and named["os"] == "ubuntu 20.04"
    shown = document(home, "show", ID[:12])
    assert shown["schema"] == "corollout.kernel/1" and [m["module"] for m in shown["modules"]] == ["my_mod"]
    assert {p["program"]: p["verdict"] for p in shown["programs"]}["tcp-flow"] == "fits" and shown["hosts"] == []
    text = run(home, "show", ID).stdout
    assert "from image vmlinuz-6.9.1-test" in text and "modules: my_mod" in text and "tcp-flow" in text
    assert {p.name for p in home.iterdir()} == {"btf"}


MODULE_OBJECT = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
char LICENSE[] SEC("license") = "GPL";
struct only_in_my_mod {} __attribute__((preserve_access_index));
SEC("raw_tp/sched_switch") int asks(void *c) { return bpf_core_type_exists(struct only_in_my_mod); }
"""


def test_types_of_a_module_count_where_it_is_loaded(home, tmp_path) -> None:
    source, obj = tmp_path / "m.bpf.c", tmp_path / "m.bpf.o"
    source.write_text(MODULE_OBJECT)
    command = ["clang", "-target", "bpf", "-mcpu=v2", "-O2", "-g", "-I/usr/include/x86_64-linux-gnu", "-c"]
    subprocess.run([*command, source, "-o", obj], check=True)
    btf = VMLINUX.read_bytes()
    (tmp_path / "vmlinux").write_bytes(make.vmlinux(btf))
    own = split_btf(btf, "only_in_my_mod")
    (tmp_path / "my-mod.ko").write_bytes(module(named_struct(own)))
    assert run(home, "import", tmp_path / "vmlinux", tmp_path / "my-mod.ko").exit_code == 0

    def asked(*options: str) -> int:
        words = ["--home", str(home), "check", str(obj), "--kernel", ID, "--relocations", "-o", "json", *options]
        (result,) = json.loads(CliRunner().invoke(cli, words).stdout)["results"]
        return result["programs"][0]["relocations"]["each"][0]["value"]

    assert (asked(), asked("--module", "my-mod")) == (0, 1)
    words = ["--home", str(home), "check", str(obj), "--kernel", ID, "--module", "other"]
    refused = CliRunner().invoke(cli, words).exception
    assert refused is not None and refused.code == "COR-CLI-021"
    # What the running kernel shows in a folder is loaded; what does not stand on it is not looked at.
    shown = tmp_path / "btf"
    shown.mkdir()
    (shown / "vmlinux").write_bytes(btf)
    (shown / "my_mod").write_bytes(named_struct(own))
    (shown / "broken").write_bytes(b"hello")
    assert list(loaded_modules(shown, parse_btf(btf))) == ["my_mod"]


def named_struct(split: bytes) -> bytes:
    """Give the module's struct the name that its function has."""
    rows = bytearray(split)
    rows[24 + 24 : 24 + 28] = rows[24 + 12 : 24 + 16]
    return bytes(rows)


def test_progress_is_told_and_a_second_time_nothing_is_done(files, home) -> None:
    done = run(home, "import", files)
    assert "imported 1/3" in done.stderr and done.stderr.endswith("3 added\n") and "imported" not in done.stdout
    again = run(home, "import", files)
    assert again.exit_code == 0 and again.stderr.endswith("3 already there\n") and "vmlinuz" not in again.stdout


def test_check_keeps_nothing(files, home) -> None:
    assert document(home, "import", "--check", files)["exit"] == 0
    assert not home.exists()


def test_one_bad_file_is_a_no_and_the_others_are_in(files, home, tmp_path) -> None:
    bad = tmp_path / "bad.btf"
    bad.write_bytes(b"hello")
    done = document(home, "import", bad, files / "vmlinuz-6.9.1-test")
    assert done["exit"] == 3
    assert [(f["outcome"], f["code"]) for f in done["files"]] == [("refused", "COR-BTF-001"), ("added", None)]
    assert fault(home, "import", bad) == "COR-BTF-001"
    (tmp_path / "empty").mkdir()
    assert fault(home, "import", tmp_path / "empty") == "COR-CLI-022"


def test_two_of_one_name_are_not_chosen_between(files, home) -> None:
    run(home, "import", files)
    assert fault(home, "show", make.RELEASE) == "COR-CLI-012"
    assert fault(home, "show", "nothing") == "COR-CLI-012" and fault(home, "show", "") == "COR-CLI-012"
    assert fault(home, "diff", make.RELEASE, "running") == "COR-CLI-021"


def facts(build_id: str, version: str) -> Facts:
    values = {"kernel.release": make.RELEASE, "kernel.version": version, "kernel.arch": "x86_64",
              "kernel.build_id": build_id}  # fmt: skip
    return Facts({name: Fact(name, Answer.YES, value) for name, value in values.items()}, collected_at=1.0)


@pytest.fixture
def fleet(home) -> Path:
    """A record of three hosts: two run the image's kernel, one another build of the same release."""
    home.mkdir()
    with open_record(home / "fleet.db", create=True) as record:
        hosts = [Host(name=n, address="192.0.2.1") for n in ("web1", "web2", "old1")]
        record.import_hosts(hosts, "test")
        for host in hosts[:2]:
            record.record_scan(ScanOutcome(host, facts(make.BUILD_ID.hex(), make.VERSION), None, 0.1))
        record.record_scan(ScanOutcome(hosts[2], facts("ab" * 20, "#6 SMP Tue"), None, 0.1))
    return home


def test_with_a_record_hosts_are_counted_and_near_misses_named(files, fleet) -> None:
    before = document(fleet, "list")["kernels"]
    assert [(k["hosts"], k["btf_sha256"]) for k in before] == [(2, None), (1, None)]
    run(fleet, "import", files)
    ours, theirs, named = document(fleet, "list")["kernels"]
    assert (ours["id"], ours["hosts"], named["hosts"]) == (ID, 2, 0) and ours["btf_sha256"] == named["btf_sha256"]
    # What has the same name and is not the same build serves no host, and is said to be there.
    assert theirs["btf_sha256"] is None and theirs["near"] == [
        "6.9.1-test #7, not #6", "6.9.1-test of ubuntu 20.04 by name only, which is not proof of the same build",
    ]  # fmt: skip
    assert Archive(fleet / "btf").for_kernel(theirs["id"]) is None
    with open_record(fleet / "fleet.db") as record:
        assert {k.id: k.btf_sha256 for k in record.kernels()} == {ID: ours["btf_sha256"], theirs["id"]: None}
    text = run(fleet, "show", theirs["id"]).stdout
    assert "no BTF in the archive\n  the archive has 6.9.1-test #7, not #6\n" in text and "old1" in text
    assert [h["name"] for h in document(fleet, "show", ID)["hosts"]] == ["web1", "web2"]


def test_a_decision_names_the_near_miss_and_does_not_use_it(files, fleet) -> None:
    run(fleet, "import", files)
    with open_record(fleet / "fleet.db") as record:
        program = load_catalogue()["tcp-flow"]
        choices = {c.host: c for c in decide(record, Archive(fleet / "btf"), [program])}
    said = {
        host: [r.detail for a in choice.assessments if a.variant == "core-btf" for r in a.reasons
               if r.requirement.subject == "archive"]
        for host, choice in choices.items()
    }  # fmt: skip
    assert said["old1"] == ["archived BTF: the archive has no BTF of exactly this build; it has 6.9.1-test #7, not #6"]
    assert said["web1"] == ["archived BTF: the archive has BTF of exactly this build"]


def test_a_person_may_vouch_for_a_build_that_is_known(files, fleet) -> None:
    hub = next(files.rglob("*.btf.tar.xz"))
    assert fault(fleet, "import", hub, "--for", "cd" * 20) == "COR-CLI-012"
    assert run(fleet, "import", files, "--for", "abab").exit_code == 2
    assert document(fleet, "import", hub, "--for", "abab")["files"][0]["kernel"] == f"{'ab' * 20}/x86_64"
    entry = Archive(fleet / "btf").entry(f"{'ab' * 20}/x86_64")
    assert entry is not None and entry.how == "file" and entry.exact
    with open_record(fleet / "fleet.db") as record:
        assert {k.btf_sha256 for k in record.kernels() if k.id == entry.kernel_id} == {entry.sha256}
    # An image that names itself is not given to another build.
    assert fault(fleet, "import", files / "vmlinuz-6.9.1-test", "--for", "abab") == "COR-BTF-028"


def test_kernels_that_do_not_differ_and_kernels_that_do(files, home, tmp_path) -> None:
    image = files / "vmlinuz-6.9.1-test"
    same = run(home, "diff", image, "running")
    assert same.exit_code == 0 and same.stdout.splitlines()[-1] == "no type differs"
    old, new = tmp_path / "6.1.0-old.btf", tmp_path / "6.2.0-new.btf"
    old.write_bytes(
        compiled(tmp_path, "struct cpu { int id; long *load; }; enum state { OFF, ON }; struct cpu c; enum state s;")
    )
    new.write_bytes(compiled(tmp_path, "struct cpu { long *load; long id; int node; }; enum state { OFF, IDLE, ON };"
                                       "struct cpu c; enum state s; struct fresh { int a; } f;"))  # fmt: skip
    found = document(home, "diff", old, new)
    assert found["exit"] == 3 and found["schema"] == "corollout.kernel-diff/1" and found["changes"] == []
    assert (found["from"]["release"], found["to"]["release"]) == ("6.1.0-old", "6.2.0-new")
    assert found["summary"]["struct"] == {"added": 1, "removed": 0, "changed": 1}
    text = run(home, "diff", old, new, "--type", "cpu", "--type", "state").stdout
    assert text.splitlines()[1:] == [
        "~ struct cpu", "      size: 16 → 24 bytes", "      load: byte 8 → byte 0",
        "      id: int → long, byte 0 → byte 8", "      node: new (int, byte 16)",
        "~ enum state", "      IDLE: new (1)", "      ON: 1 → 2",
    ]  # fmt: skip
    assert run(home, "diff", old, new, "--type", "nothing").exit_code == 0
    assert [c["name"] for c in document(home, "diff", old, new, "--all")["changes"]] == ["cpu", "fresh", "state"]


def test_what_an_object_asks(home, tmp_path) -> None:
    gone = tmp_path / "5.0.0-small.btf"
    gone.write_bytes(compiled(tmp_path, "struct sock { int a; } s; struct task_struct { int pid; } t;"))
    lost = document(home, "diff", "running", gone, "--for", OBJECT)
    assert lost["exit"] == 3 and {t["worse"] for t in lost["relocations"]["other"]} >= {True}
    assert "lost" in run(home, "diff", "running", gone, "--for", OBJECT).stdout
    same = document(home, "diff", "running", VMLINUX, "--for", OBJECT)
    assert same["exit"] == 0 and same["relocations"]["other"] == [] and same["relocations"]["same"] > 20
    # To win something is no loss.
    assert document(home, "diff", gone, "running", "--for", OBJECT)["exit"] == 0


def compiled(folder: Path, text: str) -> bytes:
    source, out = folder / "k.c", folder / "k.o"
    source.write_text(text)
    subprocess.run(["clang", "-target", "bpf", "-g", "-c", source, "-o", out], check=True)
    from btf.archive.btf_file import read_btf_file

    return read_btf_file(out)


@pytest.mark.parametrize("words", [["list"], ["import", "FILES"], ["diff", "running", "running"]])
def test_no_database_is_loaded_for_it(files, home, words) -> None:
    arguments = [str(files / "vmlinuz-6.9.1-test") if w == "FILES" else w for w in words]
    script = (
        "import sys; from fleet.cli.main import cli\n"
        f"cli.main(['--home', {str(home)!r}, 'kernels', *{arguments!r}], standalone_mode=False)\n"
        "heavy = {'sqlalchemy', 'textual', 'dbos', 'paramiko', 'ansible', 'socketserver'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
