"""The rules of CO-RE, one case each: a kernel's types, an object's types and program. What comes of it, libbpf says.

To add a rule: one entry. It is judged on its own kernel, on those of all others, in both byte orders, and on real ones.
"""

from __future__ import annotations

from btf.objects.elf_object import read_object

HEAD = """
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
typedef __u32 u32; typedef __u64 u64;
char LICENSE[] SEC("license") = "GPL";
u64 out[8] SEC(".data");
#define CORE __attribute__((preserve_access_index))
#define PROG(body) SEC("raw_tp/sched_switch") \\
    int prog(u64 *ctx) { struct t *t = (void *)ctx[0]; int v = 0; body; return v; }
#define READ(place) bpf_core_read(&v, sizeof(v), &t->place)
"""

# name: (kernel's types, object's types and program, outcome of each relocation in order)
RULES: dict[str, tuple[str, str, list[str] | None]] = {
    "flavours of the kernel that agree": (
        "struct t { int a, b; } t; struct t___2 { int a, b; char c; } t2;",
        "struct t { int b; } CORE; PROG(READ(b))",
        ["value 4"],
    ),
    "flavours of the kernel that disagree": (
        "struct t { int a, b; } t; struct t___2 { int b; } t2;",
        "struct t { int b; } CORE; PROG(READ(b))",
        ["ambiguous"],
    ),
    "sizes that disagree": (
        "struct t { int b; } t; struct t___2 { char b; } t2;",
        "struct t { int b; } CORE; PROG(v = bpf_core_field_size(t->b))",
        ["ambiguous"],
    ),
    "a candidate that lacked one field is out for the next": (
        "struct t { int a, b; } t; struct t___2 { int b; } t2;",
        "struct t { int a, b; } CORE; PROG(READ(a); out[0] = v; READ(b))",
        ["value 0", "value 4"],
    ),
    "but not before": (
        "struct t { int a, b; } t; struct t___2 { int b; } t2;",
        "struct t { int a, b; } CORE; PROG(READ(b); out[0] = v; READ(a))",
        ["ambiguous", "value 0"],
    ),
    "an essential name ends at the last flavour": (
        "struct t___x___y { int b; } t; struct t___x { int c, b; } t2;",
        "struct t { int b; } CORE; PROG(READ(b))",
        ["value 4"],
    ),
    "four underscores are no flavour": (
        "struct t____x { int b; } t;",
        "struct t { int b; } CORE; PROG(READ(b))",
        ["poisoned"],
    ),
    "an offset past what a load can hold": (
        "struct t { char a[40000]; int b; } t;",
        "struct t { int b; } CORE; PROG(v = t->b)",
        ["failed"],
    ),
    "the same offset as an addition": (
        "struct t { char a[40000]; int b; } t;",
        "struct t { int b; } CORE; PROG(READ(b))",
        ["value 40000"],
    ),
    "a signed load of another size": (
        "struct t { int a; short b; } t;",
        "struct t { int b; } CORE; PROG(v = t->b)",
        ["poisoned"],
    ),
    "an unsigned load of another size": (
        "struct t { int a; unsigned short b; } t;",
        "struct t { u32 b; } CORE; PROG(v = t->b)",
        ["value 4"],
    ),
    "a bitfield that became a field": (
        "struct t { int a; unsigned short b; } t;",
        "struct t { u32 b : 3; } CORE; PROG(out[0] = BPF_CORE_READ_BITFIELD_PROBED(t, b))",
        None,
    ),
    "a bitfield across two words": (
        "struct t { int a; u64 : 27, b : 40; } t;",
        "struct t { u64 b : 40; } CORE; PROG(out[0] = BPF_CORE_READ_BITFIELD_PROBED(t, b))",
        None,
    ),
    "a packed bitfield no load covers": (
        "struct __attribute__((packed)) t { unsigned a : 7; u64 b : 62; } t;",
        "struct t { u64 b : 62; } CORE; PROG(out[0] = bpf_core_field_size(t->b))",
        ["failed"],
    ),
    "an index past the kernel's array": (
        "struct t { int b[2]; } t;",
        "struct t { int b[8]; } CORE; PROG(READ(b[2]))",
        ["poisoned"],
    ),
    "a flexible array in the kernel": (
        "struct t { int a; int b[]; } t;",
        "struct t { int b[8]; } CORE; PROG(READ(b[7]))",
        ["value 32"],
    ),
    "an empty array that is not last": (
        "struct t { int b[0]; int a; } t;",
        "struct t { int b[8]; } CORE; PROG(READ(b[7]))",
        ["poisoned"],
    ),
    "an array where there was a field": (
        "struct t { int b[4]; } t;",
        "struct t { int b; } CORE; PROG(READ(b))",
        ["poisoned"],
    ),
    "a struct where there was a union": (
        "struct t { int a; struct { int x, y; } b; } t;",
        "union u { int y; } CORE; struct t { union u b; } CORE; PROG(READ(b.y))",
        ["value 8"],
    ),
    "a typedef's candidates are typedefs": (
        "typedef struct { int a, b; } t_t; struct t_t { int b; } s; t_t t;",
        "typedef struct { int b; } CORE t_t; PROG(t_t *p = (void *)t; bpf_core_read(&v, 4, &p->b))",
        ["value 4"],
    ),
    "an enum by another name": (
        "enum other { X }; struct t { int a; enum other b; } t;",
        "enum mine { Y }; struct t { enum mine b; } CORE; PROG(READ(b))",
        ["poisoned"],
    ),
    "an anonymous enum": (
        "struct t { int a; enum { X } b; } t;",
        "enum mine { Y }; struct t { enum mine b; } CORE; PROG(READ(b))",
        ["value 4"],
    ),
    "nested anonymous members": (
        "struct t { int a; struct { union { struct { int c; int b; }; long d; }; }; } t;",
        "struct t { int b; } CORE; PROG(READ(b))",
        ["value 12"],
    ),
    "a negative enumerator": (
        "enum e { A = -5 } e;",
        "enum e { A = 1 }; PROG(out[0] = bpf_core_enum_value(enum e, A))",
        [f"value {(1 << 64) - 5}"],
    ),
    "a forward declaration is no struct": (
        "struct t; struct u { struct t *p; } u;",
        "struct t { int x; } CORE; PROG(v = bpf_core_type_exists(struct t))",
        ["value 0"],
    ),
    "an element of another size": (
        "struct t { int a; unsigned short b[4]; } t;",
        "struct t { u32 b[4]; } CORE; PROG(v = t->b[2])",
        ["value 8"],
    ),
    "a signed element of another size": (
        "struct t { int a; short b[4]; } t;",
        "struct t { int b[4]; } CORE; PROG(v = t->b[2])",
        ["poisoned"],
    ),
    "an array of arrays": (
        "struct t { int a; int b[4][3]; } t;",
        "struct t { int b[2][5]; } CORE; PROG(READ(b[1][2]))",
        ["value 24"],
    ),
    "an inner index past the kernel's": (
        "struct t { int b[4][2]; } t;",
        "struct t { int b[2][5]; } CORE; PROG(READ(b[1][4]))",
        ["poisoned"],
    ),
    "an array of structs": (
        "struct e { int x; int y; }; struct t { long a; struct e b[3]; } t;",
        "struct e { int y; } CORE; struct t { struct e b[3]; } CORE; PROG(READ(b[2].y))",
        ["value 28"],
    ),
    "a flexible array in the object": (
        "struct t { int a; int b[8]; } t;",
        "struct t { int c; int b[]; } CORE; PROG(READ(b[9]); out[0] = v; READ(b[3]))",
        ["poisoned", "value 16"],
    ),
    "a flexible array inside a member": (
        "struct in { int n; int b[]; }; struct t { int a; struct in in; } t;",
        "struct in { int b[4]; } CORE; struct t { struct in in; } CORE; PROG(READ(in.b[3]))",
        ["value 20"],
    ),
    "the size of an array and of its element": (
        "struct t { int a; short b[6]; } t;",
        "struct t { int b[2]; } CORE; PROG(out[0] = bpf_core_field_size(t->b); out[1] = bpf_core_field_size(t->b[1]))",
        ["value 12", "value 2"],
    ),
    "existence of an element": (
        "struct t { int b[2]; } t;",
        "struct t { int b[4]; } CORE; PROG(v = bpf_core_field_exists(t->b[1]) + 2 * bpf_core_field_exists(t->b[3]))",
        ["value 1", "value 0"],
    ),
    "an element of the root itself": (
        "struct t { long a, b; } t;",
        "struct t { int b; } CORE; PROG(bpf_core_read(&v, 4, &t[3].b))",
        ["value 56"],
    ),
    "a pointer where there was another": (
        "struct t { int a; char **b; } t;",
        "struct t { struct t *b; } CORE; PROG(out[0] = (u64)t->b)",
        ["value 8"],
    ),
    "a number where there was a pointer": (
        "struct t { u64 b; } t;",
        "struct t { void *b; } CORE; PROG(out[0] = bpf_core_field_exists(t->b))",
        ["value 0"],
    ),
    "a function pointer": (
        "struct t { int a; long (*b)(int, char *); } t;",
        "struct t { void (*b)(void); } CORE; PROG(out[0] = bpf_core_field_exists(t->b); READ(b))",
        ["value 1", "value 8"],
    ),
    "qualifiers and typedefs in the way": (
        "typedef const volatile int ci; typedef struct { ci b; } in; struct t { int a; const in in; } t;",
        "struct in { int b; } CORE; struct t { struct in in; } CORE; PROG(READ(in.b))",
        ["value 4"],
    ),
    "a member that moved into an anonymous one": (
        "struct t { int a; union { long w; struct { int p, b; }; }; } t;",
        "struct t { int b; } CORE; PROG(READ(b); out[0] = v; out[1] = bpf_core_field_size(t->b))",
        ["value 12", "value 4"],
    ),
    "a member that moved out of an anonymous one": (
        "struct t { int a, b; } t;",
        "struct t { union { long w; struct { int p, b; }; }; } CORE; PROG(READ(b))",
        ["value 4"],
    ),
    "a named member is not looked into": (
        "struct t { int a; struct { int b; } in; } t;",
        "struct t { int b; } CORE; PROG(READ(b))",
        ["poisoned"],
    ),
    "a union's members": (
        "union u { char c[16]; struct { int p, q; } in; } u;",
        "union u { struct { int q; } in; } CORE; PROG(bpf_core_read(&v, 4, &((union u *)t)->in.q))",
        ["value 4"],
    ),
    "a union that became a struct": (
        "struct u { int a, b; } u;",
        "union u { int b; } CORE; PROG(bpf_core_read(&v, 4, &((union u *)t)->b))",
        ["poisoned"],
    ),
    "an offset that a load just holds": (
        "struct t { char a[32764]; int b, c; } t;",
        "struct t { int b; } CORE; PROG(v = t->b)",
        ["value 32764"],
    ),
    "an offset one past that": (
        "struct t { char a[32768]; int b; } t;",
        "struct t { int b; } CORE; PROG(v = t->b)",
        ["failed"],
    ),
    "an offset past what 32 bits of bits hold": (
        "struct t { char a[600000000]; int b; } t;",
        "struct t { int b; } CORE; PROG(READ(b))",
        None,
    ),
    "a packed field": (
        "struct __attribute__((packed)) t { char a; int b; } t;",
        "struct t { int b; } CORE; PROG(v = t->b)",
        ["value 1"],
    ),
    "a bool where there was a number": (
        "struct t { int a; _Bool b; } t;",
        "struct t { u32 b; } CORE; PROG(v = t->b)",
        ["value 4"],
    ),
    "a signed char where there was an unsigned number": (
        "struct t { int a; signed char b; } t;",
        "struct t { u32 b; } CORE; PROG(v = t->b)",
        ["poisoned"],
    ),
    "the same size, another sign": (
        "struct t { int a; unsigned b; } t;",
        "struct t { int b; } CORE; PROG(v = t->b)",
        ["value 4"],
    ),
    "a number where there was an enum": (
        "struct t { int a; int b; } t;",
        "enum mine { Y }; struct t { enum mine b; } CORE; PROG(v = bpf_core_field_exists(t->b))",
        ["value 0"],
    ),
    "a sign asked for": (
        "enum e { N = -1 }; struct t { int a; unsigned b; enum e c; signed char d[4]; } t;",
        "enum e { N }; struct t { u32 a; int b; enum e c; } CORE; "
        "PROG(out[0] = __builtin_preserve_field_info(t->a, 3) + __builtin_preserve_field_info(t->b, 3) * 2; "
        "out[1] = __builtin_preserve_field_info(t->c, 3))",
        None,
    ),
    "shifts of a field that is no bitfield": (
        "struct t { int a; unsigned short b; } t;",
        "struct t { u32 b; } CORE; PROG(out[0] = __builtin_preserve_field_info(t->b, 4); "
        "out[1] = __builtin_preserve_field_info(t->b, 5))",
        None,
    ),
    "a bitfield at another bit": (
        "struct t { unsigned a : 5, b : 9, c : 3; } t;",
        "struct t { u32 b : 4; } CORE; PROG(out[0] = BPF_CORE_READ_BITFIELD_PROBED(t, b))",
        None,
    ),
    "a signed bitfield": (
        "struct t { unsigned a : 5; int b : 9; } t;",
        "struct t { int b : 4; } CORE; "
        "PROG(out[0] = BPF_CORE_READ_BITFIELD_PROBED(t, b); v = BPF_CORE_READ_BITFIELD(t, b))",
        None,
    ),
    "a field that became a bitfield": (
        "struct t { unsigned a : 5, b : 9; } t;",
        "struct t { u32 b; } CORE; PROG(v = t->b; out[0] = bpf_core_field_size(t->b))",
        None,
    ),
    "a bitfield of bytes": (
        "struct t { unsigned char a : 3, b : 5, c : 8; } t;",
        "struct t { u32 c : 8; } CORE; PROG(out[0] = BPF_CORE_READ_BITFIELD_PROBED(t, c))",
        None,
    ),
    "a bitfield of an enum": (
        "enum e { A, B }; struct t { unsigned a : 6; enum e b : 2; } t;",
        "enum e { A, B }; struct t { enum e b : 2; } CORE; PROG(out[0] = BPF_CORE_READ_BITFIELD_PROBED(t, b))",
        None,
    ),
    "bitfields of flavours that differ in width": (
        "struct t { unsigned a : 5, b : 9; } t; struct t___2 { unsigned a : 5, b : 4; } t2;",
        "struct t { u32 b : 4; } CORE; PROG(out[0] = __builtin_preserve_field_info(t->b, 0); "
        "out[1] = __builtin_preserve_field_info(t->b, 5))",
        None,
    ),
    "a flavour of the object's": (
        "struct t { int a, b; } t;",
        "struct t { int a; } CORE; struct t___old { int b, c; } CORE; "
        "PROG(READ(a); struct t___old *o = (void *)t; out[0] = v; "
        "if (bpf_core_field_exists(o->c)) bpf_core_read(&v, 4, &o->c); "
        "else bpf_core_read(&v, 4, &o->b))",
        ["value 0", "value 0", "poisoned", "value 4"],
    ),
    "flavours are thinned out for each local type by itself": (
        "struct t { int a, b; } t; struct t___2 { int b; } t2;",
        "struct t { int a, b; } CORE; struct t___mine { int b; } CORE; "
        "PROG(READ(a); out[0] = v; bpf_core_read(&v, 4, &((struct t___mine *)t)->b))",
        ["value 0", "ambiguous"],
    ),
    "a check that fails thins nothing out": (
        "struct t { int a, b; } t; struct t___2 { int b; } t2;",
        "struct t { int b, c; } CORE; PROG(v = bpf_core_field_exists(t->c); READ(b))",
        ["value 0", "ambiguous"],
    ),
    "a check that succeeds does": (
        "struct t { int a, b; } t; struct t___2 { int b; } t2;",
        "struct t { int a, b; } CORE; PROG(v = bpf_core_field_exists(t->a); READ(b))",
        ["value 1", "value 4"],
    ),
    "a type that is there but as a typedef": (
        "typedef struct { int b; } t; t x;",
        "struct t { int b; } CORE; "
        "PROG(v = bpf_core_type_exists(struct t); out[0] = bpf_core_type_size(struct t); READ(b))",
        ["value 0", "value 0", "poisoned"],
    ),
    "a typedef of another kind of type": (
        "typedef long h; typedef int *i; h x; i y;",
        "typedef int h; typedef int i; "
        "PROG(v = bpf_core_type_exists(h) + bpf_core_type_exists(i); out[0] = bpf_core_type_size(h))",
        ["value 8", "value 1", "value 0"],
    ),
    "a typedef of an array": (
        "typedef short h[6]; h x;",
        "typedef int h[2]; PROG(v = bpf_core_type_exists(h); out[0] = bpf_core_type_size(h))",
        ["value 12", "value 1"],
    ),
    "a typedef of a pointer to a struct": (
        "struct q { int x; }; typedef struct q *h; typedef union u *i; union u { int x; }; h x; i y;",
        "struct z { int x; }; typedef struct z *h; typedef struct z *i; "
        "PROG(v = bpf_core_type_exists(h) + bpf_core_type_exists(i))",
        ["value 1", "value 0"],
    ),
    "a typedef of a function": (
        "typedef int (*f)(int, char *); typedef int (*g)(int); f x; g y;",
        "typedef long (*f)(long, signed char *); typedef int (*g)(int, int); "
        "PROG(v = bpf_core_type_exists(f) + bpf_core_type_exists(g))",
        ["value 1", "value 0"],
    ),
    "the kernel's id of a type": (
        "union u { int x; } u; enum e { A } e; struct t { int b; } t; typedef int h; h x;",
        "union u { int x; } CORE; enum e { A }; struct t { int b; } CORE; typedef int h; struct no { int x; } CORE; "
        "PROG(out[0] = bpf_core_type_id_kernel(union u); out[1] = bpf_core_type_id_kernel(enum e); "
        "out[2] = bpf_core_type_id_kernel(struct t); out[3] = bpf_core_type_id_kernel(h); "
        "out[4] = bpf_core_type_id_kernel(struct no); out[5] = bpf_core_type_id_local(struct no))",
        None,
    ),
    "ids of flavours differ": (
        "struct t { int b; } t; struct t___2 { int b; } t2;",
        "struct t { int b; } CORE; PROG(out[0] = bpf_core_type_id_kernel(struct t))",
        ["ambiguous"],
    ),
    "the size of a struct that is only declared": (
        "struct t; struct u { struct t *p; } u;",
        "struct t { int x; } CORE; PROG(out[0] = bpf_core_type_size(struct t))",
        ["value 0"],
    ),
    "an enumerator by another flavour": (
        "enum e { A___new = 3, B = 4 } e;",
        "enum e { A, B___mine, C }; PROG(out[0] = bpf_core_enum_value(enum e, A); "
        "out[1] = bpf_core_enum_value(enum e, B___mine); "
        "out[2] = bpf_core_enum_value_exists(enum e, C))",
        ["value 3", "value 4", "value 0"],
    ),
    "an enumerator that is gone": (
        "enum e { A } e;",
        "enum e { A, B }; PROG(out[0] = bpf_core_enum_value(enum e, B))",
        ["poisoned"],
    ),
    "an enumerator of flavours that disagree": (
        "enum e { A = 1 } e; enum e___2 { A2 = 1, A___3 = 2 } e2;",
        "enum e { A }; PROG(out[0] = bpf_core_enum_value(enum e, A))",
        ["ambiguous"],
    ),
    "an enum behind a typedef": (
        "typedef enum { A = 7 } e; e x;",
        "typedef enum { A } e; PROG(out[0] = bpf_core_enum_value(e, A))",
        ["value 7"],
    ),
    "an unsigned enumerator above 31 bits": (
        "enum e { A = 0xf0000000u } e;",
        "enum e { A = 1 }; PROG(out[0] = bpf_core_enum_value(enum e, A))",
        None,
    ),
    "a store": (
        "struct t { int a; unsigned long b; } t;",
        "struct t { u32 b; } CORE; PROG(t->b = ctx[1])",
        None,
    ),
    "a subprogram and a program that share a type": (
        "struct t { int a, b; } t; struct t___2 { int b; } t2;",
        "struct t { int a, b; } CORE; "
        "static __attribute__((noinline)) int sub(struct t *t) { int v = 0; READ(b); return v; }\n"
        "PROG(v = sub(t); READ(a))",
        None,
    ),
    "an optional program": (
        "struct t { int a, b; } t;",
        "struct t { int a, gone; } CORE; SEC(\"?raw_tp/sys_enter\") int other(u64 *ctx) "
        "{ struct t *t = (void *)ctx[0]; int v = 0; READ(gone); return v; }\nPROG(READ(a))",
        None,
    ),
    "an optional program that would refuse the object": (
        "struct t { char a[40000]; int b; } t;",
        "struct t { int a, b; } CORE; SEC(\"?raw_tp/sys_enter\") int other(u64 *ctx) "
        "{ struct t *t = (void *)ctx[0]; return t->b; }\nPROG(v = bpf_core_field_exists(t->a))",
        None,
    ),
}  # fmt: skip


# clang 14 cannot write this kind: an existence relocation is turned into it.
MATCHES: dict[str, tuple[str, str, int]] = {
    "all members": ("struct t { int a; char *b; } t;", "struct t { char *b; };", 1),
    "a member of another size": ("struct t { int a; } t;", "struct t { long a; };", 0),
    "another sign": ("struct t { int a; } t;", "struct t { unsigned a; };", 0),
    "a member missing": ("struct t { int a; } t;", "struct t { int a, b; };", 0),
    "behind a pointer only names count": (
        "struct x { int q; }; struct t { struct x *a; } t;", "struct x { long z; }; struct t { struct x *a; };", 1
    ),
    "a declaration for a struct behind a pointer": (
        "struct x { int q; }; struct t { struct x *a; } t;", "struct x; struct t { struct x *a; };", 1
    ),
    "another name behind a pointer": (
        "struct x { int q; }; struct t { struct x *a; } t;", "struct y; struct t { struct y *a; };", 0
    ),
    "enumerators by name": (
        "enum e { A, B, C }; struct t { enum e a; } t;", "enum e { C___new, A }; struct t { enum e a; };", 1
    ),
    "an enumerator too many": (
        "enum e { A }; struct t { enum e a; } t;", "enum e { A, B }; struct t { enum e a; };", 0
    ),
    "an array's length": ("struct t { int a[3]; } t;", "struct t { int a[2]; };", 0),
    "a function's signature": (
        "struct t { int (*f)(long, char *); } t;", "struct t { int (*f)(long, char *); };", 1
    ),
    "a function's other signature": (
        "struct t { int (*f)(long, char *); } t;", "struct t { int (*f)(int, char *); };", 0
    ),
    "a union is no struct": ("union t { int a; } t;", "struct t { int a; };", 0),
}  # fmt: skip


def as_type_matches(data: bytes) -> bytes:
    """Return the object with its type_exists turned into type_matches, which clang 14 cannot write."""
    obj = read_object(data)
    changed = bytearray(data)
    for row in obj.relocations:
        if row.kind == 8:
            needle = row.insn.to_bytes(4, "little") + row.type.to_bytes(4, "little")
            at = data.find(needle)
            while data[at + 12 : at + 16] != (8).to_bytes(4, "little"):
                at = data.find(needle, at + 1)
            changed[at + 12 : at + 16] = (12).to_bytes(4, "little")
    return bytes(changed)
