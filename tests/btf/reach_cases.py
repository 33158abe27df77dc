"""Programs with poison in them, by name: what guards it, and whether the running kernel loads the program."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

KERNEL = "struct t { int a, b; } t; enum e { A } e;"
LOCAL = "struct t { int a, gone; } CORE; enum e { A, GONE }; struct none { int x; } CORE;\n"
READ = "bpf_core_read(&v, 4, &t->gone)"
EXISTS = "bpf_core_field_exists(t->gone)"


@dataclass(frozen=True)
class Case:
    """``body`` of the program, functions and variables ``before`` it; ``loads``: whether the kernel takes it.

    ``given`` are words of ``btf.reach.memory.Given``; ``kconfig`` is told to libbpf. ``cautious``: we say refused,
    though the kernel knows better.
    """

    body: str
    loads: bool
    before: str = ""
    given: dict = field(default_factory=dict)
    kconfig: str = ""
    cautious: bool = False


def _static(body: str, arguments: str = "struct t *t") -> str:
    return f"static __attribute__((noinline)) int sub({arguments}) {{ int v = 0; {body}; return v; }}\n"


def _global(body: str) -> str:
    return (
        "__attribute__((noinline)) int sub(int how) { int v = 0; struct t *t = (void *)bpf_get_current_task(); "
        f"{body}; return v; }}\n"
    )


OFF, ON = "const volatile _Bool use = 0;\n", "const volatile _Bool use = 1;\n"
TABLE = "const volatile char table[8] = {1, 0, 2};\n"
KCONFIG = "extern {} __kconfig{};\n"
TRISTATE = "enum libbpf_tristate"
WEAK = "extern {} __ksym __weak;\n"
CLAMPED = 'u64 m; asm volatile("%0 = *(u8 *)(%1 + 0)" : "=r"(m) : "r"(ctx)); '

CASES = {
    "a guard": Case(f"if ({EXISTS}) {READ}", True),
    "no guard": Case(READ, False),
    "the other branch": Case(f"if ({EXISTS}) v = 1; else {READ}", False),
    "a guard on a type": Case(f"if (bpf_core_type_exists(struct none)) {READ}", True),
    "a guard on an enumerator": Case(f"if (bpf_core_enum_value_exists(enum e, GONE)) {READ}", True),
    "a guard on a size": Case(f"if (bpf_core_type_size(struct none) > 3) {READ}", True),
    "two guards": Case(f"if (bpf_core_field_exists(t->a) && {EXISTS}) {READ}", True),
    "either of two": Case(f"if (bpf_core_field_exists(t->a) || {EXISTS}) {READ}", False),
    "a guard that is negated": Case(f"if (!{EXISTS}) return 7; {READ}", True),
    "a guard kept in a variable": Case(f"int has = {EXISTS}; v = bpf_get_prandom_u32(); if (has) {READ}", True),
    "a guard that depends on data": Case(f"if (ctx[1] & 1) {READ}", False),
    "a guard or data": Case(f"int has = {EXISTS}; if (ctx[1] & 1) has = 1; if (has) {READ}", False),
    "a guard and data": Case(f"int has = 0; if (ctx[1] & 1) has = {EXISTS}; v = ctx[2]; if (has) {READ}", True),
    "a number that two paths make": Case(
        f"int kind = 2; if (ctx[1] & 1) kind = {EXISTS}; v = bpf_get_prandom_u32(); if (kind == 1) {READ}", True
    ),
    "a loop that never sets it": Case(
        "int kind = 0;\n_Pragma(\"nounroll\") for (int i = 0; i < 5; i++) { if (bpf_get_prandom_u32() & 1) kind |= "
        f"{EXISTS}; }} if (kind) {READ}", True,
    ),
    "a loop that sets it": Case(
        "int kind = 0;\n_Pragma(\"nounroll\") for (int i = 0; i < 5; i++) { if (bpf_get_prandom_u32() & 1) kind |= "
        f"!{EXISTS}; }} if (kind) {READ}", False,
    ),
    # What callers pass, what callees return.
    "a guard around a call": Case(f"if ({EXISTS}) v = sub(t)", True, _static(READ)),
    "one call guarded, one not": Case(f"if ({EXISTS}) v = sub(t); v += sub(t + 1)", False, _static(READ)),
    "a guard in the function called": Case("v = sub(t)", True, _static(f"if ({EXISTS}) {READ}")),
    "an argument that rules it out": Case(
        "v = sub(t, 1); v += sub(t, 3)", True, _static(f"if (how == 2) {READ}", "struct t *t, int how")
    ),
    "an argument that allows it": Case(
        "v = sub(t, 1); v += sub(t, 2)", False, _static(f"if (how == 2) {READ}", "struct t *t, int how")
    ),
    "an argument passed on": Case(
        "v = sub(t, 1); v += sub(t, 3)", True,
        _static(f"if (how == 5) {READ}", "struct t *t, int how").replace("sub", "inner")
        + _static('asm volatile("" : "+r"(how)); v = inner(t, how + 1)', "struct t *t, int how"),
    ),
    "what a static function returns": Case(f"if (sub(t)) {READ}", True, _static(f"v = {EXISTS} ? t->a : 0")),
    "what a static function may return": Case(f"if (sub(t)) {READ}", False, _static("v = bpf_get_prandom_u32()")),
    "what a global function returns": Case(f"if (sub(1)) {READ}", False, _global(f"v = {EXISTS}")),
    "a global function knows no argument": Case("v = sub(1)", False, _global(f"if (how == 2) {READ}")),
    "a global function that only dead code calls": Case(f"if ({EXISTS}) v = sub(1)", True, _global(READ)),
    "a static function that writes the caller's stack": Case(
        f"int has = {EXISTS}; v = sub(&has); if (has) {READ}", False, _static("*p = bpf_get_prandom_u32()", "int *p")
    ),
    "a callback": Case(
        "bpf_loop(3, sub, &v, 0)", False, _static(f"struct t *t = p; {READ}", "__u32 i, void *p")
    ),
    "a callback that only dead code passes": Case(
        f"if ({EXISTS}) bpf_loop(3, sub, &v, 0)", True, _static(f"struct t *t = p; {READ}", "__u32 i, void *p")
    ),
    "a callback that is guarded": Case(
        "bpf_loop(3, sub, &v, 0)", True, _static(f"struct t *t = p; if ({EXISTS}) {READ}", "__u32 i, void *p")
    ),
    "a callback that writes below what it is handed": Case(
        f"long pair[2]; pair[0] = {EXISTS}; pair[1] = 0; bpf_loop(3, sub, &pair[1], 0); if (pair[0]) {READ}",
        False, _static("p[-1] = bpf_get_prandom_u32()", "__u32 i, long *p"),
    ),
    # Constants that the loader freezes.
    "a constant that is off": Case(f"if (use) {READ}", True, OFF),
    "a constant that is on": Case(f"if (use) {READ}", False, ON),
    "a constant that is on, and a guard": Case(f"if (use && {EXISTS}) {READ}", True, ON),
    "a wide constant": Case(f"if (wide < 5) {READ}", True, "const volatile long wide = 1L << 40;\n"),
    "a wide constant that is small": Case(f"if (wide < 5) {READ}", False, "const volatile long wide = 4;\n"),
    "a negative constant": Case(f"if (low > 0) {READ}", True, "const volatile int low = -3;\n"),
    "a byte of a table": Case(f"if (table[1]) {READ}", True, TABLE),
    "another byte of a table": Case(f"if (table[2] == 2) {READ}", False, TABLE),
    "a byte that data names": Case(f"if (table[ctx[1] & 7] == 9) {READ}", False, TABLE),
    "a member of a constant": Case(
        f"if (set.b) {READ}", True, "struct set { u32 a; __u16 b, c; }; const volatile struct set set = {1, 0, 3};\n"
    ),
    "a constant in a section of its own": Case(
        f"if (use) {READ}", True, 'const volatile int use SEC(".rodata.mine") = 0;\n'
    ),
    "a variable that may change": Case(f"if (use) {READ}", False, "volatile _Bool use = 0;\n"),
    "a constant chosen by a constant": Case(f"int n = use ? table[1] : 0; if (n) {READ}", True, ON + TABLE),
    "a constant as an argument": Case(
        "v = sub(t, use); v += sub(t, 7)", True, ON + _static(f"if (how == 2) {READ}", "struct t *t, int how")
    ),
    # Kernel options.
    "an option's number": Case(
        f"if (CONFIG_HZ == 1000) {READ}", True, KCONFIG.format("int CONFIG_HZ", ""),
        {"options": {"CONFIG_HZ": "250"}}, "CONFIG_HZ=250",
    ),
    "an option's number that fits": Case(
        f"if (CONFIG_HZ == 1000) {READ}", False, KCONFIG.format("int CONFIG_HZ", ""),
        {"options": {"CONFIG_HZ": "1000"}}, "CONFIG_HZ=1000",
    ),
    "an option that nobody knows": Case(
        f"if (CONFIG_HZ == 1000) {READ}", True, KCONFIG.format("int CONFIG_HZ", ""), {}, "CONFIG_HZ=250", cautious=True
    ),
    "a weak option that is not set": Case(
        f"if (CONFIG_NEVER_WAS) {READ}", True, KCONFIG.format("_Bool CONFIG_NEVER_WAS", " __weak"), {"options": {}}
    ),
    "an option that is on": Case(
        f"if (CONFIG_MINE) {READ}", False, KCONFIG.format("_Bool CONFIG_MINE", ""),
        {"options": {"CONFIG_MINE": "y"}}, "CONFIG_MINE=y",
    ),
    "an option that is a module": Case(
        f"if (CONFIG_MINE == TRI_YES) {READ}", True, KCONFIG.format(f"{TRISTATE} CONFIG_MINE", ""),
        {"options": {"CONFIG_MINE": "m"}}, "CONFIG_MINE=m",
    ),
    "an option as a letter": Case(
        f"if (CONFIG_MINE != 'm') {READ}", True, KCONFIG.format("char CONFIG_MINE", ""),
        {"options": {"CONFIG_MINE": "m"}}, "CONFIG_MINE=m",
    ),
    "an option that is text": Case(
        f"if (CONFIG_MINE[1] == 'x') {READ}", True, KCONFIG.format("char CONFIG_MINE[8]", ""),
        {"options": {"CONFIG_MINE": '"abc"'}}, 'CONFIG_MINE="abc"',
    ),
    "a newer kernel": Case(
        f"if (LINUX_KERNEL_VERSION >= 0x630000) {READ}", True, KCONFIG.format("int LINUX_KERNEL_VERSION", ""),
        {"release": os.uname().release},
    ),
    "an older kernel": Case(
        f"if (LINUX_KERNEL_VERSION < 0x030000) {READ}", True, KCONFIG.format("int LINUX_KERNEL_VERSION", ""),
        {"release": os.uname().release},
    ),
    "this kernel": Case(
        f"if (LINUX_KERNEL_VERSION >= 0x050000) {READ}", False, KCONFIG.format("int LINUX_KERNEL_VERSION", ""),
        {"release": os.uname().release},
    ),
    # Weak symbols of the kernel.
    "a kernel function that is missing": Case(
        f"if (bpf_never_was) {READ}", True, WEAK.format("void bpf_never_was(void)"),
        {"symbols": {"bpf_never_was": False}},
    ),
    "a kernel function that is there": Case(
        f"if (bpf_rcu_read_lock) {READ}", False, WEAK.format("void bpf_rcu_read_lock(void)"),
        {"symbols": {"bpf_rcu_read_lock": True}},
    ),
    "without a kernel function that is there": Case(
        f"if (!bpf_rcu_read_lock) {READ}", True, WEAK.format("void bpf_rcu_read_lock(void)"),
        {"symbols": {"bpf_rcu_read_lock": True}},
    ),
    "a kernel function that may be in a module": Case(
        f"if (bpf_never_was) {READ}", True, WEAK.format("void bpf_never_was(void)"), cautious=True
    ),
    "a kernel variable that is missing": Case(
        f"if (&never_was) {READ}", True, WEAK.format("const void never_was"), {"symbols": {"never_was": False}}
    ),
    # The stack.
    "a word on the stack": Case(f"volatile int has = {EXISTS}; if (has) {READ}", True),
    "a long on the stack": Case(f"volatile long no = !{EXISTS}; if (!no) {READ}", True),
    "a long on the stack that allows it": Case(f"volatile long no = !{EXISTS}; if (no) {READ}", False),
    "a byte on the stack": Case(f"volatile char has = {EXISTS}; if (has) {READ}", True),
    "a word on the stack, through a helper": Case(
        f"volatile long has = {EXISTS}; char name[16]; bpf_get_current_comm(name, 16); v = name[0]; if (has) {READ}",
        True,
    ),
    "a word on the stack that a helper writes": Case(
        f"int has = {EXISTS}; bpf_probe_read_kernel(&has, 4, ctx); if (has) {READ}", False
    ),
    # Numbers between bounds.
    "a byte above its bounds": Case(CLAMPED + f"if (m > 300) {READ}", True),
    "a byte within its bounds": Case(CLAMPED + f"if (m > 200) {READ}", False),
    "a masked byte": Case(CLAMPED + f'asm volatile("%0 &= 3" : "+r"(m)); if (m > 3) {READ}', True),
    "a byte tested twice": Case(
        CLAMPED + f'if (m > 9) return 0; asm volatile("" : "+r"(m)); if (m > 9) {READ}', True
    ),
    # Other arithmetic.
    "flags of features": Case(
        f"u64 has = {EXISTS} << 1 | bpf_core_field_exists(t->a) << 3; asm volatile(\"\" : \"+r\"(has)); "
        f"if (has & 2) {READ}", True,
    ),
    "an inverted flag": Case(f'u64 no = {EXISTS}; asm volatile("%0 ^= 1" : "+r"(no)); if (!no) {READ}', True),
    "a negated flag": Case(f'long no = {EXISTS}; asm volatile("%0 = -%0" : "+r"(no)); if (no < 0) {READ}', True),
    "a signed comparison": Case(f'long n = {EXISTS}; asm volatile("%0 += -1" : "+r"(n)); if (n >= 0) {READ}', True),
    "a shifted sign": Case(
        f'long n = {EXISTS}; asm volatile("%0 += -1; %0 s>>= 63" : "+r"(n)); if (n != -1) {READ}', True
    ),
    "a division": Case(
        f'u64 n = {EXISTS}; asm volatile("%0 += 8; %0 /= 3" : "+r"(n)); if (n == 3) {READ}', False
    ),
}  # fmt: skip
