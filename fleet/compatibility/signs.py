"""How a kernel shows what has no constant of its own: rows of BTF names, kconfig symbols and upstream versions.

Only tables; ``features`` reads them. A version here explains and claims, it never outweighs what was derived or probed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Tracepoints of these categories are never built as modules: absent from vmlinux BTF means they do not exist.
BUILT_IN_CATEGORIES = frozenset(
    {"sched", "irq", "timer", "signal", "task", "net", "tcp", "sock", "skb", "kmem", "power", "workqueue", "oom", "rcu"}
    | {"cgroup", "vmscan", "napi", "udp", "fib", "qdisc", "writeback", "raw_syscalls", "exceptions", "printk"}
    | {"block", "filemap", "page_pool", "xdp"}
)


@dataclass(frozen=True, slots=True)
class Sign:
    """How BTF or kconfig shows something that has no constant of its own.

    ``enum`` is (enum, constant); missing there means ``no``. ``later`` likewise, but a constant that came later: there
    it means ``yes``, missing it means nothing. ``function`` missing proves nothing. ``kconfig`` symbols
    must all be y or m. ``since`` is the first upstream version: a claim, used when nothing better is there.
    """

    enum: tuple[str, str] | None = None
    later: tuple[str, str] | None = None
    member_of: str = ""  # a type that only exists with the feature
    function: str = ""
    kconfig: tuple[str, ...] = ()
    since: tuple[int, int] | None = None


ATTACH_SIGNS = {
    "tracepoint": Sign(function="perf_event_attach_bpf_prog", kconfig=("BPF_EVENTS",), since=(4, 7)),
    "raw_tracepoint": Sign(function="bpf_probe_register", kconfig=("BPF_EVENTS",), since=(4, 17)),
    "tp_btf": Sign(enum=("bpf_attach_type", "BPF_TRACE_RAW_TP")),
    "iter": Sign(enum=("bpf_attach_type", "BPF_TRACE_ITER")),
    "fentry": Sign(
        enum=("bpf_attach_type", "BPF_TRACE_FENTRY"), kconfig=("DYNAMIC_FTRACE_WITH_DIRECT_CALLS", "BPF_EVENTS")
    ),
    "lsm": Sign(enum=("bpf_attach_type", "BPF_LSM_MAC"), kconfig=("BPF_LSM",)),
    "kprobe": Sign(function="create_local_trace_kprobe", kconfig=("KPROBE_EVENTS", "BPF_EVENTS")),
    "uprobe": Sign(function="create_local_trace_uprobe", kconfig=("UPROBE_EVENTS", "BPF_EVENTS")),
    "perf_event": Sign(function="perf_event_set_bpf_prog", kconfig=("BPF_EVENTS",), since=(4, 9)),
    "cgroup_skb": Sign(enum=("bpf_attach_type", "BPF_CGROUP_INET_INGRESS"), kconfig=("CGROUP_BPF",)),
    "tc": Sign(member_of="cls_bpf_prog", kconfig=("NET_CLS_BPF", "NET_SCH_INGRESS"), since=(4, 5)),
    "tcx": Sign(enum=("bpf_attach_type", "BPF_TCX_INGRESS")),
    "netkit": Sign(enum=("bpf_attach_type", "BPF_NETKIT_PRIMARY")),
    "kprobe_multi": Sign(enum=("bpf_attach_type", "BPF_TRACE_KPROBE_MULTI"), kconfig=("FPROBE",)),
    "kprobe_session": Sign(enum=("bpf_attach_type", "BPF_TRACE_KPROBE_SESSION"), kconfig=("FPROBE",)),
    "uprobe_multi": Sign(enum=("bpf_attach_type", "BPF_TRACE_UPROBE_MULTI")),
    "uprobe_session": Sign(enum=("bpf_attach_type", "BPF_TRACE_UPROBE_SESSION")),
    "xdp": Sign(function="do_xdp_generic", since=(4, 12)),
}

_BTF_LOAD = ("bpf_cmd", "BPF_BTF_LOAD")  # came with 4.18
# No constant of their own either: told by something that came with the same series, else by version.
FEATURE_SIGNS = {
    # Since Linux commit c04c0d2b968a ("bpf: increase complexity limit and maximum program size") (v5.2); told by
    # BPF_MAP_FREEZE, commit 87df15de441b ("bpf: add syscall side map freeze support") (v5.2), as is global data.
    "large_insns": Sign(enum=("bpf_cmd", "BPF_MAP_FREEZE"), since=(5, 2)),
    "global_data": Sign(enum=("bpf_cmd", "BPF_MAP_FREEZE"), since=(5, 2)),
    # Since Linux commit 2589726d12a1 ("bpf: introduce bounded loops") (v5.3).
    "bounded_loops": Sign(later=("bpf_cmd", "BPF_BTF_GET_NEXT_ID"), since=(5, 3)),
    # Atomic operations other than adding, and adding that fetches, came with 5.12; told by what came with it.
    "atomics": Sign(later=("bpf_func_id", "BPF_FUNC_check_mtu"), since=(5, 12)),
    "xdp_frags": Sign(later=("bpf_func_id", "BPF_FUNC_xdp_get_buff_len"), since=(5, 18)),
    "isa_v1": Sign(later=_BTF_LOAD, since=(3, 19)),
    "isa_v2": Sign(later=_BTF_LOAD, since=(4, 14)),
    "isa_v3": Sign(later=("bpf_cmd", "BPF_MAP_FREEZE"), since=(5, 1)),
    "isa_v4": Sign(later=("bpf_attach_type", "BPF_NETKIT_PRIMARY"), since=(6, 6)),
    "prog_name": Sign(later=_BTF_LOAD, since=(4, 15)),
    "bpf2bpf": Sign(later=_BTF_LOAD, since=(4, 16)),
    "stats": Sign(enum=("bpf_cmd", "BPF_ENABLE_STATS"), since=(5, 8)),
    "map_batch": Sign(enum=("bpf_cmd", "BPF_MAP_LOOKUP_BATCH"), since=(5, 6)),
}

# Flags of maps that not every kernel of the last years has. Since Linux commits 96b3b6c9091d ("bpf: allow
# zero-initializing hash map seed") (v5.0), 591fe9888d78 ("bpf: add program side {rd, wr}only support for maps") (v5.2),
# 8f51dfc73bf1 ("bpf: support cloning sk storage on accept()") (v5.4), fc9702273e2e ("bpf: Add mmap() support for
# BPF_MAP_TYPE_ARRAY") (v5.5), 792caccc4526 ("bpf: Introduce BPF_F_PRESERVE_ELEMS for perf event array") (v5.10).
MAP_FLAG_SIGNS = {
    "zero_seed": Sign(later=("bpf_func_id", "BPF_FUNC_spin_lock"), since=(5, 0)),
    "rdonly_prog": Sign(enum=("bpf_cmd", "BPF_MAP_FREEZE"), since=(5, 2)),
    "wronly_prog": Sign(enum=("bpf_cmd", "BPF_MAP_FREEZE"), since=(5, 2)),
    "clone": Sign(later=("bpf_func_id", "BPF_FUNC_probe_read_kernel"), since=(5, 4)),
    "mmapable": Sign(later=("bpf_func_id", "BPF_FUNC_probe_read_kernel"), since=(5, 5)),
    "preserve_elems": Sign(later=("bpf_func_id", "BPF_FUNC_redirect_peer"), since=(5, 10)),
    "inner_map": Sign(later=("bpf_func_id", "BPF_FUNC_redirect_peer"), since=(5, 10)),
    "link": Sign(later=("bpf_prog_type", "BPF_PROG_TYPE_NETFILTER"), since=(6, 4)),
    "segv_on_fault": Sign(later=("bpf_cmd", "BPF_TOKEN_CREATE"), since=(6, 9)),
    "no_user_conv": Sign(later=("bpf_cmd", "BPF_TOKEN_CREATE"), since=(6, 9)),
}

RUNNER_LIBBPF = (1, 1)  # the libbpf that the runner is linked with, Debian 12's

# Vendors that carry newer BPF under an older number: below `since` their version says nothing.
BACKPORTERS = re.compile(r"\.el\d|\.amzn|uek|\.an\d|\.ky|\.bclinux|-default|\.oe\d|\.fc\d")


def release_version(release: str) -> tuple[int, int] | None:
    """Return (major, minor) of a kernel release string, or None."""
    found = re.match(r"(\d{1,3})\.(\d{1,4})", release)
    return (int(found[1]), int(found[2])) if found else None
