"""What two kernels' types differ in, in words a person reads."""

from __future__ import annotations

import pytest

from btf.drift.difference import Change, difference, summary
from btf.format.parse import parse_btf

SAME = """
struct lock { int held; } held_lock;
typedef struct lock lock_t;
lock_t the_lock;
int same(struct lock *l) { return 0; }
"""
CASES = {
    "members": (
        "struct task { int state; long gone; char name[16]; unsigned flag:3, other:1; } t;",
        "struct task { unsigned state; char name[8]; unsigned flag:4, other:1; int fresh; } t;",
        [Change("struct", "task", "changed", (
            "size: 40 → 20 bytes", "gone: gone (long, byte 8)", "state: int → unsigned int",
            "name: char[16] → char[8], byte 16 → byte 4", "flag: byte 32, 3 bits → byte 12, 4 bits",
            "other: byte 32 bit 3, 1 bit → byte 12 bit 4, 1 bit", "fresh: new (int, byte 16)",
        ))],
    ),
    "anonymous members are the parent's own": (
        "struct outer { int a; union { struct { int b; int c; }; long d; }; } o;",
        "struct outer { int a; union { struct { int c; int b; }; long d; }; } o;",
        [Change("struct", "outer", "changed", ("c: byte 12 → byte 8", "b: byte 8 → byte 12"))],
    ),
    "an anonymous struct around members changes nothing": (
        "struct outer { int a; int b; } o;", "struct outer { struct { int a; }; struct { int b; }; } o;", [],
    ),
    "union": (
        "union u { int a; } u;", "union u { int a; long b; } u;",
        [Change("union", "u", "changed", ("size: 4 → 8 bytes", "b: new (long, byte 0)"))],
    ),
    "enum": (
        "enum state { OFF, ON, LOST } s;", "enum state { OFF, IDLE, ON } s;",
        [Change("enum", "state", "changed", ("LOST: gone (was 2)", "IDLE: new (1)", "ON: 1 → 2"))],
    ),
    "enumerators of an enum without a name": (
        "enum { A = 1, B = 2, C = 3 } s;", "enum { A = 1, B = 4, D = 5 } s;",
        [Change("enumerator", "B", "changed", ("2 → 4",)), Change("enumerator", "C", "removed", ("was 3",)),
         Change("enumerator", "D", "added", ("5",))],
    ),
    "typedef": (
        "typedef int id_t; id_t i; typedef struct { int x; } box; box b;",
        "typedef long id_t; id_t i; typedef struct { int x, y; } box; box b;",
        [Change("typedef", "box", "changed", ("size: 4 → 8 bytes", "y: new (int, byte 4)")),
         Change("typedef", "id_t", "changed", ("int → long",))],
    ),
    "function": (
        "struct sock; int f(struct sock *sk, int n) { return 0; } void g(void) {}",
        "struct sock; long f(struct sock *socket) { return 0; } int h(int a) { return 0; }",
        [Change("function", "f", "changed", ("int (struct sock *, int) → long (struct sock *)",)),
         Change("function", "g", "removed"), Change("function", "h", "added")],
    ),
    "names of parameters do not count": ("int f(int a) { return 0; }", "int f(int b) { return 0; }", []),
    "added and removed": (
        "struct was { int a; } w;", "struct is { int a; } w;",
        [Change("struct", "is", "added"), Change("struct", "was", "removed")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_differences_in_words(case, btf_bytes) -> None:
    old, new, expected = CASES[case]
    number = list(CASES).index(case)
    before, after = (
        parse_btf(btf_bytes(f"{word}{number}.c", text=SAME + text)) for word, text in (("old", old), ("new", new))
    )
    found = difference(before, after)
    assert found == expected
    assert difference(before, before) == difference(after, after) == []
    assert sum(n for row in summary(found).values() for n in row.values()) == len(expected)
    # Narrowed to a name, nothing else is looked at.
    for change in expected:
        assert difference(before, after, {change.name}) == [change]
    assert difference(before, after, {"lock", "nothing"}) == []


def test_one_kernel_read_twice_does_not_differ(vmlinux_bytes, vmlinux) -> None:
    assert difference(vmlinux, parse_btf(vmlinux_bytes), {"task_struct", "sk_buff", "tcp_v4_connect", "BPF_ANY"}) == []
