"""Silent wrongness: every case is an object's view, what it does, and the kernel's view; benign ones say nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from btf.core import instead
from btf.core.relocate import relocate
from btf.drift import field_change
from btf.drift.drift import LOAD_ERROR, STRAY_READ, Drift, drifts
from btf.format.encode import encode_btf
from btf.format.kinds import BtfType, Int, Member, Struct
from btf.format.parse import parse_btf
from btf.objects.elf_object import read_object
from btf.reach.memory import Given
from btf.reach.verifier import EVERY

RUNNER = Path(__file__).parents[2] / "probes/runner/bpfrun"
HEAD = """
#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
char LICENSE[] SEC("license") = "GPL";
#define CORE __attribute__((preserve_access_index))
unsigned long long sink;
"""
READ = (
    'SEC("raw_tp/event") int prog(void *ctx) {{ struct task *t = (void *)bpf_get_current_task(); {body} return 0; }}\n'
)
PROBE = "sink = BPF_CORE_READ(t, f);"
WHOLE = "__typeof__(t->f) v; bpf_core_read(&v, sizeof(v), &t->f); sink = *(char *)&v;"
KERNEL = "#include <linux/types.h>\n#include <stdbool.h>\n{}\nstruct task the_task;\n"


@pytest.fixture
def drift(compile_bpf, btf_bytes) -> Callable[..., tuple[Drift, ...]]:
    def drift_(local: str, body: str, kernel: str, *, built: str = "", program: str = "", given: Given | None = None):
        text = HEAD + local + (program or READ.format(body=body))
        obj = read_object(compile_bpf("drift.bpf.c", text=text).read_bytes())
        target = parse_btf(btf_bytes("kernel.c", text=KERNEL.format(kernel)))
        reference = parse_btf(btf_bytes("built.c", text=KERNEL.format(built))) if built else None
        return drifts(obj, target, relocate(obj, target, given), given, reference=reference)

    return drift_


def task(member: str, before: str = "") -> str:
    return f"{before}\nstruct task {{ {member}; }} CORE;\n"


def kernel(member: str, before: str = "") -> str:
    return f"{before}\nstruct task {{ int pad; {member}; }};\n"


WIDE = "enum e { A, B = 1ULL << 40 } f"
WRONG = {
    "read past the field": ("long f", PROBE, "unsigned int f", "field-size", "long", "unsigned int"),
    "read short of it": ("unsigned int f", PROBE, "unsigned long f", "field-size", "unsigned int", "unsigned long"),
    "another sign": ("int f", PROBE, "unsigned int f", "field-sign", "int", "unsigned int"),
    "an enum of another size": ("enum e { A } f", PROBE, WIDE, "field-size", None, None),
    "a shorter array": ("char f[16]", WHOLE, "char f[8]", "array-length", "char[16]", "char[8]"),
    "a longer array": ("char f[16]", WHOLE, "char f[32]", "array-length", "char[16]", "char[32]"),
    "became a bitfield": ("unsigned int f", PROBE, "unsigned int g : 3, f : 5", "bitfield", "unsigned int", None),
    "a struct whose members moved": (
        "struct { int a; int b; } f", WHOLE, "struct { int b; int a; } f", "layout", None, None,
    ),
    "an enum renumbered": ("enum e { A, B } f", PROBE, "enum e { Z, A, B } f", "enumerator", None, None),
}  # fmt: skip


@pytest.mark.parametrize(("member", "body", "now", "code", "was", "is_"), WRONG.values(), ids=WRONG)
def test_what_is_read_wrongly_is_told(drift, member, body, now, code, was, is_) -> None:
    (found,) = drift(task(member), body, kernel(now))
    assert (found.code, found.what, found.consequence, found.function) == (code, "task.f", STRAY_READ, "prog")
    assert (was is None or found.was == was) and (is_ is None or found.now == is_)
    assert found.text().startswith(f"relocates, but task.f was {found.was}, is {found.now}: ")


BITS = "sink = BPF_CORE_READ_BITFIELD_PROBED(t, f);"
BENIGN = {
    "only moved": ("long f", PROBE, "long g, f"),
    "a typedef": ("__u32 f", PROBE, "unsigned int f"),
    "a qualifier": ("int f", PROBE, "const volatile int f"),
    "char of another sign": ("signed char f", PROBE, "unsigned char f"),
    "bool for a byte": ("unsigned char f", PROBE, "bool f"),
    "a pointer nobody follows": ("struct a *f", PROBE, "struct b *f"),
    "a pointer to whatever": ("void *f", PROBE, "struct b *f"),
    "a load in the kernel's size": ("unsigned int f", "sink = t->f;", "unsigned long f"),
    "only its address": ("long f", "sink = (unsigned long)&t->f;", "unsigned int f"),
    "a size the loader adjusts": (
        "unsigned int f", "bpf_core_read(&sink, bpf_core_field_size(t->f), &t->f);", "unsigned long f",
    ),
    "a string of another length": (
        "char f[16]", "char v[16]; bpf_core_read_str(v, 16, &t->f); sink = *(long *)v;", "char f[8]",
    ),
    "an array without a length": (
        "char f[16]", WHOLE, "char f[]",
    ),
    "bits read through CO-RE": ("unsigned int f : 3", BITS, "unsigned int f : 7"),
    "a bitfield become whole": ("unsigned int f : 3", BITS, "unsigned char f"),
    "a minimal struct": ("struct { int a; } f", "sink = BPF_CORE_READ(t, f.a);", "struct { long x; int a; } f"),
    "a field of a struct in it": (
        "struct in { long x; } CORE f", "struct in *i = &t->f; sink = BPF_CORE_READ(i, x);",
        "struct in { long pad, x; } f",
    ),
    "a struct that grew": ("struct { int a; } f", WHOLE, "struct { int a; int b; } f"),
    "a count of constants": ("enum e { A, E_MAX } f", PROBE, "enum e { A, B, E_MAX } f"),
    "an older enum": ("enum e { A } f", PROBE, "enum e { A, B } f"),
}  # fmt: skip


@pytest.mark.parametrize(("member", "body", "now"), BENIGN.values(), ids=BENIGN)
def test_what_only_looks_different_is_not_told(drift, member, body, now) -> None:
    before = "struct a { int x; }; struct b { int x; };"
    assert drift(task(member, before), body, kernel(now, before)) == ()


def test_a_guarded_read_that_falls_away_is_not_told(drift) -> None:
    body = f"if (bpf_core_field_exists(t->gone)) {{ {PROBE} }}"
    assert drift(task("long f; int gone"), body, kernel("unsigned int f")) == ()
    assert len(drift(task("long f; int gone"), body, kernel("unsigned int f; int gone"))) == 1


def test_a_pointer_that_is_followed_into_another_struct(drift) -> None:
    local = task("struct a *f", "struct a { int x; } CORE;")
    both = "struct a { int x; }; struct b { int x; };"
    (found,) = drift(local, "sink = BPF_CORE_READ(t, f, x);", kernel("struct b *f; struct a *g", both))
    assert (found.code, found.was, found.now) == ("field-type", "struct a *", "struct b *")


def test_a_constant_built_in(drift) -> None:
    local = "enum kind { FIRST, SECOND };" + task("int f[4]; enum kind k")
    body = "sink = BPF_CORE_READ(t, f[SECOND]) + BPF_CORE_READ(t, k);"
    now = kernel("int f[4]; enum kind k", "enum kind { FIRST, BETWEEN, SECOND };")
    found = {d.what: d for d in drift(local, body, now)}
    assert found["enum kind::SECOND"].was == "1" and found["enum kind::SECOND"].now == "2"
    relocated = "sink = BPF_CORE_READ(t, k) == bpf_core_enum_value(enum kind, SECOND);"
    assert [d.what for d in drift(local, relocated, now)] == ["task.k"]  # the field's meaning, not the constant


STRUCTS = "struct request { int tag; } CORE; struct queue { int depth; } CORE;\n"
REGISTERS = "struct pt_regs { unsigned long r8, r9, cx, dx, si, di; };\n"
TYPES = "struct task { int f; }; struct request { int tag; } r; struct queue { int depth; } q;\n"
ONLY_REQUEST, BOTH = "struct request *rq", "struct queue *q, struct request *rq"


def taking(section: str, argument: str, context: str = "unsigned long long") -> str:
    """A program that takes *argument* for a request."""
    body = f"struct request *rq = (void *){argument}; sink = BPF_CORE_READ(rq, tag); return 0;"
    return f'{STRUCTS}{REGISTERS}SEC("{section}") int prog({context} *ctx) {{ {body} }}\n'


def event(parameters: str) -> str:
    return f"{TYPES}typedef void (*btf_trace_event)(void *, {parameters}); btf_trace_event t;"


def function(parameters: str) -> str:
    return f"{TYPES}int event({parameters}) {{ return 0; }}"


@pytest.mark.parametrize("section", ["raw_tp/event", "tp_btf/event", "fentry/event", "fexit/event"])
def test_arguments_that_a_hook_hands_over_otherwise(drift, section) -> None:
    shape = function if section.startswith("f") else event

    def on(argument: int, parameters: str) -> list[tuple[str, str, str]]:
        found = drift("", "", shape(parameters), program=taking(section, f"ctx[{argument}]"))
        assert all(d.code == "argument" and d.function == "prog" for d in found)
        return [(d.what, d.now, d.consequence) for d in found]

    assert on(0, ONLY_REQUEST) == on(1, BOTH) == []
    assert on(0, BOTH) == [("argument 1 of event", "struct queue *", STRAY_READ)]
    gone = [] if section.startswith("fexit") else [("argument 3 of event", "absent (it has 2)", LOAD_ERROR)]
    assert on(2, BOTH) == gone  # what a function returned comes after its arguments
    assert on(3, BOTH) == [("argument 4 of event", "absent (it has 2)", LOAD_ERROR)]


@pytest.mark.parametrize(
    ("register", "parameters", "wrong"),
    [("si", BOTH, ""), ("di", BOTH, "argument 1 of event"), ("si", ONLY_REQUEST, "argument 2 of event")],
)
def test_an_argument_in_a_register(drift, register, parameters, wrong) -> None:
    program = taking("kprobe/event", f"ctx->{register}", "struct pt_regs")
    for text in (program, program.replace("si, di; }", "si, di; } CORE")):  # the register's place relocated, too
        found = drift(
            "",
            "",
            function(parameters) + " struct pt_regs { unsigned long di, si, dx, cx, r8, r9; } regs;",
            program=text,
        )
        assert [(d.what, d.consequence) for d in found] == ([(wrong, STRAY_READ)] if wrong else [])


@pytest.mark.parametrize(
    ("array", "first"), [("unsigned long regs[31];", 0), ("long psw[2]; unsigned long gprs[16];", 2)]
)
def test_an_argument_in_an_array_of_registers(drift, array, first) -> None:
    """As on arm64 and s390."""
    name = array.split()[-1].partition("[")[0]
    for core in ("", " CORE"):
        struct = f"struct user_pt_regs {{ {array} }}{core};\n"
        shape = function(BOTH) + f" struct user_pt_regs {{ {array} }} regs;"
        for number, wrong in ((0, ["argument 1 of event"]), (1, [])):
            text = struct + taking("kprobe/event", f"ctx->{name}[{first + number}]", "struct user_pt_regs")
            assert [d.what for d in drift("", "", shape, program=text)] == wrong


def test_an_lsm_hooks_argument(drift) -> None:
    hook = function(BOTH).replace("int event", "int bpf_lsm_event")
    assert [d.what for d in drift("", "", hook, program=taking("lsm/event", "ctx[0]"))] == ["argument 1 of event"]
    assert drift("", "", hook, program=taking("lsm/event", "ctx[1]")) == ()


def test_a_program_that_asks_for_the_version_may_choose_by_it(drift) -> None:
    either = "if (LINUX_KERNEL_VERSION <= 5) { sink = ctx[1]; return 1; } struct request"
    text = taking("tp_btf/event", "ctx[0]").replace("struct request", either, 2).replace(either, "struct request", 1)
    extern = "extern int LINUX_KERNEL_VERSION __kconfig;\n"
    assert drift("", "", event(ONLY_REQUEST), program=extern + text) == ()
    for release, wrong in (("0.0.1", ["argument 2 of event"]), ("5.4.1", [])):
        found = drift("", "", event(ONLY_REQUEST), program=extern + text, given=Given(release=release, able=EVERY))
        assert [d.what for d in found] == wrong


def test_a_cast_to_what_begins_with_it_is_none(drift) -> None:
    whole = "struct whole { struct part { int y; } p; int x; } CORE;\n"
    program = whole + taking("raw_tp/event", "ctx[0]").replace("request *rq", "whole *rq").replace("rq, tag", "rq, x")
    both = "struct task { int f; }; struct part { int y; } p; struct whole { struct part p; int x; } w;"
    shape = both + " typedef void (*btf_trace_event)(void *, struct part *); btf_trace_event t;"
    assert drift("", "", shape, program=program) == ()
    assert len(drift("", "", shape.replace("{ struct part p;", "{ int z;"), program=program)) == 1


def test_the_kernel_it_was_made_for_shows_signatures(drift) -> None:
    program = REGISTERS + 'SEC("kprobe/event") int prog(struct pt_regs *ctx) { sink = ctx->di; return 0; }\n'
    assert drift("", "", function(BOTH), program=program) == ()
    (found,) = drift("", "", function(BOTH), program=program, built=function(ONLY_REQUEST))
    assert (found.was, found.now) == ("struct request *", "struct queue *")
    assert drift("", "", function(BOTH), program=program, built=function(BOTH)) == ()


def test_a_record_read_without_relocation(drift) -> None:
    local = "struct record { long common; int state; char name[8]; };"
    program = local + 'SEC("tp/sched/event") int prog(struct record *r) { sink = r->state; return 0; }\n'
    raw = "struct task {{ int f; }}; struct trace_event_raw_event {{ long ent; {} }} e;"
    assert drift("", "", raw.format("int state; int more;"), program=program) == ()
    (found,) = drift("", "", raw.format("long state;"), program=program)
    assert (found.code, found.what, found.was, found.now) == (
        "record", "event.state", "4 bytes at 8", "8 bytes at 8",
    )  # fmt: skip


def test_the_kernel_it_was_made_for_shows_unions(drift) -> None:
    local, alone = task("long f; long g"), kernel("long f")
    shared = kernel("union { long f; void *other; }")
    grouped = kernel("union { struct { long f; long g; }; struct { long f; long g; } both; }")
    assert drift(local, PROBE, shared) == ()
    (found,) = drift(local, PROBE, shared, built=alone)
    assert (found.code, found.what, found.now) == ("union", "task.f", "in a union with other")
    assert drift(local, PROBE, shared, built=shared) == drift(local, PROBE, grouped, built=alone) == ()


def bomb(depth: int, width: int, name: str) -> bytes:
    """BTF in which a struct of *width* members holds another *width* times, *depth* levels deep."""
    rows: list[BtfType] = [Int(1, "int", 4, 1, 0, 32)]
    for level in range(depth):
        members = tuple(Member(name and f"m{n}", level + 1, 32 * n) for n in range(width))
        rows.append(Struct(level + 2, "root" if level == depth - 1 else "", 4 * width, members))
    return encode_btf(rows)


def test_types_that_unfold_without_end_are_each_looked_at_once() -> None:
    btf, other = parse_btf(bomb(30, 50, "m")), parse_btf(bomb(30, 50, "m"))
    one, two = btf[31], other[31]
    assert isinstance(one, Struct) and isinstance(two, Struct)
    assert field_change._moved(btf, one, other, two) is None
    assert instead._members(parse_btf(bomb(30, 50, "")), 31) == {}


@pytest.mark.parametrize("argument", range(6))
def test_the_kernel_refuses_what_is_called_a_load_error(compile_bpf, vmlinux, argument) -> None:
    """The running kernel's verifier is the judge: it has sched_switch, with as many arguments as its BTF says."""
    text = f'{HEAD}SEC("tp_btf/sched_switch") int prog(unsigned long long *ctx) {{ return ctx[{argument}] == 7; }}\n'
    path = compile_bpf("argument.bpf.c", text=text)
    obj = read_object(path.read_bytes())
    told = [d.consequence for d in drifts(obj, vmlinux, relocate(obj, vmlinux))]
    done = subprocess.run([RUNNER, "verify", path], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stderr
    assert told == ([LOAD_ERROR] if done.returncode else [])
