"""Proof guests from outside: archives, modules, profiles, what a guest says, and machines that die or are late."""

from __future__ import annotations

import contextlib
import json
import lzma
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab_kernels import CACHE

from fleet.cli.prove import _kernel_names
from fleet.compatibility.outcome import Agreement, Outcome, Real, agreement, boot_policy, read_outcome
from fleet.compatibility.verdict import Verdict
from fleet.lab import machine, proof
from fleet.lab.guest import held_caps
from fleet.lab.initramfs import Base, Entry, base, cpio, plain_file
from fleet.lab.kernel_store import Kernel
from fleet.lab.kernels import fetch
from fleet.lab.modules import load_order
from fleet.lab.profiles import PROFILES, ProfileUnknown, profile
from fleet.lab.proof import read_report
from inventory.facts import SCHEMA, Answer, Fact, Facts

VERIFIED = {"event": "verified", "programs": [{"name": "p", "loaded": True}]}


def test_an_archive_is_unpacked_as_it_was_packed(tmp_path: Path) -> None:
    entries = {
        "init": plain_file(b"#!/bin/sh\n", mode=0o755),
        "a/b/odd": plain_file(b"12345"),
        "a/empty": plain_file(b""),
        "a/link": Entry(stat.S_IFLNK | 0o777, b"b/odd"),
    }
    subprocess.run(["busybox", "cpio", "-idm"], input=cpio(entries), cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "a/b/odd").read_bytes() == b"12345"
    assert (tmp_path / "a/empty").read_bytes() == b""
    assert (tmp_path / "a/link").readlink() == Path("b/odd")
    assert stat.S_IMODE((tmp_path / "init").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) == 0o755


def test_a_guest_has_a_python_with_all_it_imports(tmp_path: Path) -> None:
    subprocess.run(["busybox", "cpio", "-idm"], input=base().archive, cwd=tmp_path, check=True, capture_output=True)
    program = "exec(open('/guest.py').read(), {'__name__': 'imported'}); print('whole')"
    words = ["chroot", str(tmp_path), "/usr/bin/python3", "-I", "-S", "-c", program]
    if os.getuid():
        words = ["unshare", "-r", *words]
    assert subprocess.run(words, check=True, capture_output=True, text=True).stdout == "whole\n"


def module(folder: Path, name: str, depends: str, *, packed: bool) -> None:
    data = b"\x7fELF...\0license=GPL\0depends=" + depends.encode() + b"\0name=" + name.encode() + b"\0"
    path = folder / "kernel/net" / (f"{name}.ko.xz" if packed else f"{name}.ko")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(data) if packed else data)


def test_modules_come_after_what_they_need(tmp_path: Path) -> None:
    module(tmp_path, "tcp_diag", "inet-diag", packed=True)
    module(tmp_path, "inet_diag", "", packed=False)
    module(tmp_path, "round", "trip", packed=False)
    module(tmp_path, "trip", "round", packed=False)
    order = load_order(tmp_path, ["tcp_diag", "inet_diag", "round", "built-in"])
    assert [name for name, _ in order] == ["inet_diag", "tcp_diag", "trip", "round"]
    assert all(data.startswith(b"\x7fELF") for _, data in order)
    assert load_order(None, ["tcp_diag"]) == []


def test_profiles_leave_the_capabilities_they_say() -> None:
    assert held_caps(PROFILES["plain"].caps) == set(range(41))
    assert held_caps(PROFILES["unprivileged"].caps) == set()
    assert held_caps(PROFILES["capable"].caps) == {12, 38, 39}
    assert held_caps(PROFILES["memlock-64k"].caps) == set(range(41)) - {24}
    with pytest.raises(ProfileUnknown, match="no-btf"):
        profile("nothing")


def test_names_of_kernels_may_share_their_distribution(tmp_path: Path) -> None:
    assert _kernel_names("debian:5.10, 6.1,sid") == ["debian:5.10", "debian:6.1", "debian:sid"]
    assert _kernel_names("/boot/vmlinuz-6.1") == ["/boot/vmlinuz-6.1"]
    assert _kernel_names("debian:6.1/arm64,6.12/s390x") == ["debian:6.1/arm64", "debian:6.12/s390x"]


@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize("real", Real)
def test_every_pair_of_predicted_and_real_has_one_meaning(verdict: Verdict, real: Real) -> None:
    said = agreement(verdict, Outcome(real))
    promised = verdict in ("fits", "degraded")
    if real is Real.SILENT:
        assert said is Agreement.UNANSWERED
    elif verdict is Verdict.UNKNOWN:
        assert said is Agreement.OPEN
    elif promised:
        assert said is (Agreement.FALSE_FITS if real is Real.REFUSED else Agreement.EQUAL)
    else:
        assert said is (Agreement.EQUAL if real is Real.REFUSED else Agreement.TOO_CAUTIOUS)


def test_what_a_guest_says_is_read() -> None:
    ready = {"event": "ready", "programs": [{"name": "p", "attached": ["tc:lo:ingress"]}]}
    sample = {"event": "sample", "programs": [{"name": "p", "run_cnt": 7}]}
    ran = read_outcome({"verify": {"said": VERIFIED}, "hold": {"said": ready, "sample": sample, "records": 2}})
    assert (ran.real, ran.runs, ran.records) == (Real.RAN, {"p": 7}, 2)
    nowhere = {"event": "error", "stage": "attach", "errno": "EOPNOTSUPP", "message": "by its section alone"}
    assert read_outcome({"verify": {"said": VERIFIED}, "hold": {"said": nowhere}}).real is Real.LOADED
    multi = {"said": {**VERIFIED, "programs": [{"name": "p", "section": "kprobe.multi/tcp_close"}]}}
    assert read_outcome({"verify": multi, "hold": {"said": {**nowhere, "program": "p"}}}).real is Real.REFUSED
    denied = {"event": "error", "stage": "attach", "errno": "EPERM", "message": "no"}
    assert read_outcome({"verify": {"said": VERIFIED}, "hold": {"said": denied}}).real is Real.REFUSED
    log = "0: (95) exit\nR0 !read_ok"
    refused = read_outcome({"verify": {"said": {"event": "error", "stage": "load", "errno": "EACCES", "log": log}}})
    assert (refused.real, refused.stage, refused.errno, refused.log) == (Real.REFUSED, "load", "EACCES", log)
    assert read_outcome({}).real is Real.SILENT
    assert read_outcome({"verify": {"said": VERIFIED}}).real is Real.SILENT


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["event", "task", "verify", "hold", "said", "programs", "run_cnt", "document", "log", "stage"]
            ),
            inner | st.sampled_from(["facts", "task", "ready", "verified", "error"]),
        )
    ),
    max_leaves=12,
)


def test_programs_that_are_no_list_are_none() -> None:
    for programs in (5, None, "p", {"name": "p"}, [5, None]):
        said = {"event": "ready", "programs": programs}
        task = {"verify": {"said": {**VERIFIED, "programs": programs}}, "hold": {"said": said, "sample": said}}
        assert read_outcome(task).real is Real.LOADED


@settings(deadline=None)
@given(st.lists(JSON | st.binary(max_size=40), max_size=6))
def test_whatever_a_guest_says_is_read_or_passed_over(lines: list[object]) -> None:
    report = b"\n".join(x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines)
    facts, outcomes = read_report(report)
    assert facts is None or facts.digest
    assert all(outcome.real in Real for outcome in outcomes.values())


def fact(name: str, value: object, answer: Answer = Answer.YES) -> Fact:
    return Fact(name, answer, value)


def test_hosts_of_another_boot_policy_do_not_speak_for_each_other() -> None:
    rows = [fact("lockdown.mode", "none"), fact("caps.effective", ["bpf", "chown", "sys_admin"])]
    plain = Facts({f.name: f for f in rows})
    irrelevant = Facts({**plain.by_name, "system.cpus": fact("system.cpus", 64)})
    assert boot_policy(plain) == boot_policy(irrelevant)
    for name, value in {"lockdown.mode": "integrity", "caps.effective": ["chown"], "seccomp.mode": 2}.items():
        assert boot_policy(Facts({**plain.by_name, name: fact(name, value)})) != boot_policy(plain), name
    hidden = Facts({**plain.by_name, "btf.vmlinux": fact("btf.vmlinux", None, Answer.NO)})
    assert boot_policy(hidden) != boot_policy(plain)


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    return fetch("debian:5.10", cache=CACHE)


def test_a_machine_that_panics_is_dead_with_its_last_words(kernel: Kernel) -> None:
    run = machine.boot(kernel, [cpio({"init": plain_file(b"not a program", mode=0o755)})], deadline_s=120)
    assert run.ended == "died"
    assert "Kernel panic" in run.console
    assert run.report == b""


def test_a_machine_that_is_late_is_ended(kernel: Kernel) -> None:
    script = (
        b"#!/bin/busybox sh\n/bin/busybox mount -t devtmpfs none /dev\necho here >/dev/ttyS1\n/bin/busybox sleep 999\n"
    )
    guest = {"init": plain_file(script, mode=0o755), "bin/busybox": plain_file(busybox(), mode=0o755)}
    guest["dev"] = Entry(stat.S_IFDIR | 0o755)
    run = machine.boot(kernel, [cpio(guest)], deadline_s=15)
    assert run.ended == "deadline"
    assert run.cpu_s > 0


def test_whoever_stops_asking_leaves_no_guest_behind(kernel: Kernel) -> None:
    def forever() -> None:
        guest = {"init": plain_file(b"#!/bin/busybox sh\n/bin/busybox sleep 999\n", mode=0o755)}
        guest["bin/busybox"] = plain_file(busybox(), mode=0o755)
        ended.append(machine.boot(kernel, [cpio(guest)], deadline_s=600, stop=stop).ended)

    ended: list[str] = []
    stop = threading.Event()
    waiting = threading.Thread(target=forever)
    waiting.start()
    stop.set()
    waiting.join(60)
    assert ended == ["deadline"]


def test_a_killed_controller_takes_its_guests_along(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "initramfs").write_bytes(
        cpio(
            {
                "init": plain_file(b"#!/bin/busybox sh\n/bin/busybox sleep 999\n", mode=0o755),
                "bin/busybox": plain_file(busybox(), mode=0o755),
            }
        )
    )
    program = (
        "import sys\nfrom pathlib import Path\nfrom fleet.lab import machine\n"
        "from fleet.lab.kernel_store import Kernel\n"
        "kernel = Kernel('k', Path(sys.argv[1]), '5.10', 'x86_64')\n"
        "machine.boot(kernel, [Path(sys.argv[2]).read_bytes()], deadline_s=600)"
    )
    words = [sys.executable, "-c", program, str(kernel.vmlinuz), str(tmp_path / "initramfs")]
    controller = subprocess.Popen(words, env={**os.environ, "TMPDIR": str(tmp_path)})
    while not (guests := _running_from(tmp_path)):
        assert controller.poll() is None
        time.sleep(0.1)
    controller.kill()
    controller.wait()
    until = time.monotonic() + 30
    while _running_from(tmp_path) and time.monotonic() < until:
        time.sleep(0.1)
    assert _running_from(tmp_path) == set(), guests


def _running_from(folder: Path) -> set[str]:
    """Process ids of emulators whose files lie in *folder*."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = entry.read_bytes()
            if b"qemu-system" in words and str(folder).encode() in words:
                found.add(entry.parent.name)
    return found


def busybox() -> bytes:
    return Path("/bin/busybox").read_bytes()


def test_an_architecture_nobody_emulates_here_is_said(kernel: Kernel) -> None:
    with pytest.raises(machine.EmulatorMissing, match="vax"):
        machine.boot(Kernel("x", kernel.vmlinuz, "1", "vax"), [], deadline_s=1)


def test_facts_of_a_guest_are_a_hosts_facts() -> None:
    document = {"schema": SCHEMA, "collected_at": 1, "facts": {"kernel.arch": {"answer": "yes", "value": "x86_64"}}}
    facts, _ = read_report(json.dumps({"event": "facts", "document": document, "said": ""}).encode())
    assert facts is not None
    assert facts.value("kernel.arch") == "x86_64"
    assert read_report(b'{"event": "facts", "document": {"schema": "other"}}')[0] is None


class Named(str):
    """Stands for a subject: only its identity counts."""

    __slots__ = ()


def after(report: bytes, ended: str, *answered: int, again: bool = False) -> list[tuple[tuple[str, ...], bool]]:
    subjects = tuple(Named(c) for c in "abcd")
    guest = proof._Guest(None, None, subjects, Base(b"", ""), again)
    cells = [
        SimpleNamespace(subject=s, agreement=Agreement.EQUAL if n in answered else Agreement.UNANSWERED)
        for n, s in enumerate(subjects)
    ]
    run = machine.Run(report, "", ended, 1.0, 1.0, 1)
    return [(g.subjects, g.again) for g in proof._again(guest, run, cells)]


def test_what_a_guest_left_is_tried_again() -> None:
    begun = b'{"task": 0, "event": "begin"}\n{"task": 0, "event": "task"}\n{"task": 1, "event": "begin"}\n'
    assert after(b"", "died") == [(tuple("abcd"), True)], "it died before the first"
    assert after(begun, "died", 0) == [(("b",), True), (("c", "d"), False)], "b killed it"
    assert after(begun, "off", 0, 2, 3) == [(("b",), True)], "b did not answer in time"
    assert after(begun, "off", 0, 1, 2, 3) == []
    assert after(begun, "died", 0, again=True) == [], "once is enough"
