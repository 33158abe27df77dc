"""The collector, run for real on this kernel: as it is, and under conditions that hosts have."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from inventory.collect import document_line
from inventory.collector import bpf_call, bpf_tables
from inventory.collector.bundle import collector_command, collector_source, packed_source
from inventory.facts import Answer, Facts, parse_facts

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).parents[2]
PYTHONS = sorted(
    {os.path.realpath(p) for p in ("/usr/bin/python3", *Path("/root/.pyenv/versions").glob("3.*/bin/python3"))}
)


def collected(*before: str, script: str = "") -> Facts:
    """Run the collector as a host would, behind the command *before* or at the end of a shell *script*."""
    command = ["/bin/sh", "-c", f"{script}\n{collector_command()}" if script else collector_command()]
    command = [*before, *command]
    done = subprocess.run(command, input=packed_source(), capture_output=True, check=False, timeout=120, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, b"")
    return parse_facts(document_line(done.stdout) or b"")


def apart(script: str) -> Facts:
    """Run the collector in a mount namespace of its own, prepared by *script*."""
    return collected("unshare", "--mount", "--propagation", "private", script=f"set -e\n{script}\nset +e")


def seccomp(answer: str) -> Facts:
    return collected(sys.executable, "-m", "fleet.lab.seccomp", "--bpf", answer, "--")


@pytest.fixture(scope="module")
def here() -> Facts:
    return collected()


def bpf_answers(facts: Facts) -> set[tuple[Answer, str | None]]:
    return {(f.answer, f.errno) for n, f in facts.items() if n in set(bpf_tables.names())}


def test_this_kernel_is_identified_as_the_tools_of_the_system_do(here: Facts) -> None:
    def said(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert here.value("kernel.release") == said("uname", "-r")
    assert here.value("kernel.version") == said("uname", "-v")
    assert here.value("kernel.arch") == said("uname", "-m")
    assert here.value("btf.vmlinux")["sha256"] == said("sha256sum", "/sys/kernel/btf/vmlinux").split()[0]
    assert here.value("kernel.boot_id") == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    notes = Path("/sys/kernel/notes").read_bytes()
    assert bytes.fromhex(here.value("kernel.build_id")) in notes
    assert here.value("system.page_size") == int(said("getconf", "PAGE_SIZE"))
    assert here.value("net.namespace") == Path("/proc/self/ns/net").stat().st_ino
    assert here.kernel_id == f"{here.value('kernel.build_id')}/{here.value('kernel.arch')}"


def test_every_promised_name_is_answered_and_nothing_else_is_added(here: Facts) -> None:
    assert {n for n in here if n.startswith("bpf.")} == {"bpf.syscall", "bpf.reliable", *bpf_tables.names()}
    promised = promised_names()
    assert promised - set(here) == set()
    assert {n for n in here if not n.startswith(("bpf.", "sysctl."))} - promised == set()


def promised_names() -> set[str]:
    """Read the table of facts in docs/contracts.md; a leading dot repeats the group of the word before."""
    text = (ROOT / "docs" / "contracts.md").read_text()
    table = text[text.index("## Facts") : text.index("## Programs")]
    names: set[str] = set()
    for row in table.splitlines():
        if row.startswith(("| `sysctl", "| `bpf", "| `btf.vmlinux_visible", "|---", "| names")) or not row.startswith(
            "|"
        ):
            continue
        group = ""
        for word in re.findall(r"[\w.]+", " ".join(re.findall(r"`([^`]*)`", row))):
            if re.fullmatch(r"[a-z]+\.[a-z]\w*(\.\w+)*", word):
                group = word.partition(".")[0]
                names.add(word)
            elif re.fullmatch(r"\.[a-z]\w*", word):
                names.add(group + word)
    return names | {"kconfig"}


def test_the_probes_agree_with_what_was_measured_on_this_kernel_by_hand(here: Facts) -> None:
    """The reference page on compatibility, section 9: this development kernel."""
    if "fc-v" not in here.value("kernel.release"):
        return  # another kernel: the other tests here ask it, this one knows the answers of one kernel only
    assert here.answer("bpf.reliable") is Answer.YES
    assert here.answer("bpf.attach.tp_btf") is Answer.YES
    assert (here.answer("bpf.attach.fentry"), here["bpf.attach.fentry"].errno) == (Answer.BLOCKED, "EPERM")
    assert here.answer("bpf.prog.kprobe") is Answer.YES
    assert here.answer("bpf.attach.kprobe") is Answer.NO
    assert here.answer("bpf.prog.lsm") is Answer.BLOCKED
    assert here.answer("bpf.prog.lirc_mode2") is Answer.NO
    for kind in ("uprobe", "raw_tracepoint", "perf_event", "cgroup_skb", "tc", "xdp", "iter"):
        assert here.answer(f"bpf.attach.{kind}") is Answer.YES, kind
    for kind in ("ringbuf", "lpm_trie", "task_storage", "struct_ops"):
        assert here.answer(f"bpf.map.{kind}") is Answer.YES, kind
    assert here.answer("bpf.helper.sched_cls.redirect_peer") is Answer.YES
    assert here.value("lockdown.mode") == "integrity"
    assert here.value("cgroup.mode") == "hybrid"
    assert here.answer("lsm.active") is Answer.UNKNOWN
    assert "sys_resource" not in here.value("caps.effective")
    assert "sys_admin" in here.value("caps.effective")
    assert here.answer("headers.path") is Answer.NO


def test_without_tracefs_what_needs_it_is_blocked_with_the_reason(here: Facts) -> None:
    assert here.answer("mount.tracefs") is Answer.NO
    for name in ("hook.tracepoints", "bpf.attach.tracepoint"):
        assert here.answer(name) is Answer.BLOCKED
        assert "not mounted" in str(here[name].raw)


def test_with_tracefs_tracepoints_are_listed_and_attach() -> None:
    facts = apart("mount -t tracefs tracefs /sys/kernel/tracing")
    assert facts.value("mount.tracefs") == "/sys/kernel/tracing"
    assert facts.answer("bpf.attach.tracepoint") is Answer.YES
    listed = facts.value("hook.tracepoints")
    assert "sched:sched_process_exec" in listed
    assert "syscalls:sys_enter_openat" in listed
    assert listed == sorted(set(listed))
    assert not Path("/sys/kernel/tracing/events").exists(), "the test's mount must stay in its namespace"


def test_a_mounted_securityfs_is_believed_before_anything_else() -> None:
    facts = apart("mount -t securityfs securityfs /sys/kernel/security")
    assert facts["lockdown.mode"].source == "/sys/kernel/security/lockdown"
    assert "lockdown" in facts.value("lsm.active")


def test_hidden_btf_is_not_there_and_what_needs_a_target_from_it_is_unknown() -> None:
    facts = apart("mount -t tmpfs tmpfs /sys/kernel/btf")
    assert facts.answer("btf.vmlinux") is Answer.NO
    assert facts.answer("bpf.reliable") is Answer.YES
    assert facts.answer("bpf.attach.tp_btf") is Answer.UNKNOWN
    assert facts.answer("bpf.prog.tracing") is Answer.YES


@pytest.mark.parametrize("errno", ["EPERM", "ENOSYS"])
def test_a_bpf_call_that_seccomp_denies_is_blocked_never_no(errno: str) -> None:
    facts = seccomp(errno)
    assert facts.value("seccomp.mode") == 2
    assert (facts.answer("bpf.syscall"), facts["bpf.syscall"].errno) == (Answer.BLOCKED, errno)
    assert bpf_answers(facts) == {(Answer.BLOCKED, errno)}


@pytest.mark.parametrize("lie", ["SUCCESS", "EINVAL"])
def test_a_kernel_that_answers_its_controls_wrongly_is_not_believed(lie: str) -> None:
    facts = seccomp(lie)
    assert facts.answer("bpf.reliable") is Answer.NO
    assert facts["bpf.reliable"].raw
    assert bpf_answers(facts) == {(Answer.UNKNOWN, None)}


def test_an_unprivileged_user_is_blocked_not_told_no() -> None:
    facts = collected("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")
    assert facts.answer("bpf.syscall") is Answer.BLOCKED
    assert facts.answer("probe.af_packet") is Answer.BLOCKED
    assert facts.value("caps.effective") == []
    assert facts.answer("btf.vmlinux") is Answer.YES


def tag_of(program_type: int, value: int) -> str:
    """Return the tag that this kernel gives the program that returns *value*, by loading it."""
    descriptor, error, log = bpf_call.Kernel().load(program_type, bpf_call.returns(value))
    assert not error, log
    try:
        return re.findall(r"^prog_tag:\s*(\w+)$", Path(f"/proc/self/fdinfo/{descriptor}").read_text(), re.MULTILINE)[0]
    finally:
        bpf_call.close(descriptor)


def test_probing_leaves_nothing_behind() -> None:
    tags = {tag_of(1, 0), tag_of(8, 1)}

    def kept() -> set[int]:
        """The ids of loaded programs that look like ours."""
        listing = subprocess.run(["bpftool", "-j", "prog"], capture_output=True, text=True, check=True).stdout
        return {p["id"] for p in json.loads(listing or "[]") if p["tag"] in tags}

    def mounted() -> list[str]:
        """Mounts but those of other people's network namespaces."""
        return [line for line in Path("/proc/mounts").read_text().splitlines() if "netns" not in line]

    before, mounts = kept(), mounted()
    collected()
    left = kept() - before
    for _ in range(100):  # the kernel frees programs a little later, and someone else may be probing right now
        left &= kept()
        if not left:
            break
        threading.Event().wait(0.05)
    assert not left
    assert mounted() == mounts
    link = subprocess.run(["ip", "-o", "link", "show", "lo"], capture_output=True, text=True, check=True).stdout
    assert "xdp" not in link
    filters = subprocess.run(["tc", "qdisc", "show", "dev", "lo"], capture_output=True, text=True, check=True).stdout
    assert "clsact" not in filters


@pytest.mark.parametrize("python", PYTHONS)
def test_every_python_of_this_machine_can_run_it(python: str, here: Facts) -> None:
    done = subprocess.run([python, "-I", "-"], input=collector_source(), capture_output=True, check=True, timeout=120)
    facts = parse_facts(done.stdout)
    assert {n: f.answer for n, f in facts.items() if n.startswith("bpf.")} == {
        n: f.answer for n, f in here.items() if n.startswith("bpf.")
    }


# Without Python: cover every interpreter with what cannot be executed.
_NO_PYTHON = """
for python in /usr/bin/python3*; do mount --bind /dev/null "$python"; done
PATH=/usr/bin:/bin
"""


@pytest.fixture(scope="module")
def reduced() -> Facts:
    return apart(_NO_PYTHON)


def test_without_python_the_shell_form_answers(reduced: Facts) -> None:
    assert reduced.form == "sh"
    assert reduced.answer("python.path") is Answer.NO
    assert reduced.answer("bpf.syscall") is Answer.UNKNOWN


def test_both_forms_agree_wherever_both_know(reduced: Facts, here: Facts) -> None:
    interpreter = {"python.path", "python.version", "bcc.usable", "bcc.namesake"}  # what the one has and the other not
    differing = {
        name: (fact.answer, fact.value, here.value(name))
        for name, fact in reduced.items()
        if name not in interpreter
        and fact.answer is not Answer.UNKNOWN
        and name not in ("kconfig", "net.interfaces")
        and (fact.answer, fact.value) != (here.answer(name), here.value(name))
    }
    assert differing == {}
    options, whole = reduced.value("kconfig"), here.value("kconfig")
    assert len(options) > 100
    assert {k: (v, whole[k]) for k, v in options.items() if k in whole and whole[k] != v} == {}
    names = {i["name"]: (i["mtu"], i["addresses"]) for i in here.value("net.interfaces")}
    short = {i["name"]: (i["mtu"], sorted(i["addresses"])) for i in reduced.value("net.interfaces")}
    assert "lo" in names.keys() & short.keys()
    # Interfaces come and go on a machine where others test; what both saw, they saw alike.
    assert {n: short[n] for n in names.keys() & short.keys()} == {n: names[n] for n in names.keys() & short.keys()}


def test_the_shell_form_knows_every_promised_name_but_the_probes(reduced: Facts) -> None:
    assert promised_names() - set(reduced) <= {"bcc.namesake"}


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox sh"])
def test_the_shell_form_runs_in_every_shell_of_this_machine(shell: str, reduced: Facts) -> None:
    script = ROOT / "inventory" / "collector" / "reduced.sh"
    done = subprocess.run([*shlex.split(shell), str(script)], capture_output=True, check=True, timeout=120)
    assert done.stderr == b""
    facts = parse_facts(done.stdout)
    # busybox answers with its own ip and tc before it looks for others.
    assert {n: f.value for n, f in facts.items() if not n.startswith("tool.")} == {
        n: f.value for n, f in reduced.items() if not n.startswith("tool.")
    }


def test_the_shell_form_lists_tracepoints_as_the_python_form_does() -> None:
    mounted = "mount -t tracefs tracefs /sys/kernel/tracing\n"
    short, full = apart(mounted + _NO_PYTHON), apart(mounted)
    assert short.form == "sh"
    assert set(short.value("hook.tracepoints")) == set(full.value("hook.tracepoints"))


def test_a_hostile_name_cannot_break_out_of_the_document(tmp_path: Path) -> None:
    evil = tmp_path / "os-release"
    evil.write_text(
        'ID=\'a"},"x":{"answer":"yes\'\n'
        'VERSION_ID="b\\\\"},\\"x\\":{\\"answer\\":\\"yes"\n'
        'PRETTY_NAME="\x1b[31mred\\n"\n'
    )
    for script in (f"mount --bind {evil} /etc/os-release\n{_NO_PYTHON}", f"mount --bind {evil} /etc/os-release"):
        facts: Any = apart(script)
        assert "x" not in facts
        assert facts.value("os.pretty_name").isprintable()
