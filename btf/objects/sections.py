"""What an ELF section's name says of the program in it, by libbpf's rules: type, attach type, target.

To add one: a row in :data:`SECTIONS`. Names of types are those of :mod:`btf.objects.uapi`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class SectionRow(NamedTuple):
    """A row: the name, with ``+`` at the end when ``/target`` may follow; then what it means."""

    name: str
    program_type: str
    attach_type: str = ""
    needs_kernel_btf: bool = False  # its target is found in the kernel's own BTF; external BTF does not help
    sleepable: bool = False
    since: tuple[int, int] = (1, 0)  # the first libbpf that has the row, of those that match names exactly


def _traced(name: str, attach_type: str, program_type: str = "tracing") -> tuple[SectionRow, ...]:
    return (
        SectionRow(f"{name}+", program_type, attach_type, needs_kernel_btf=True),
        SectionRow(f"{name}.s+", program_type, attach_type, needs_kernel_btf=True, sleepable=True),
    )


def _addressed(verb: str, attach: str) -> tuple[SectionRow, ...]:
    return tuple(
        SectionRow(f"cgroup/{verb}{family}", "cgroup_sock_addr", f"cgroup_{attach.format(name)}")
        for family, name in (("4", "4"), ("6", "6"))
    )


def _unix(verb: str) -> SectionRow:
    return SectionRow(f"cgroup/{verb}_unix", "cgroup_sock_addr", f"cgroup_unix_{verb}", since=(1, 3))


SECTIONS: tuple[SectionRow, ...] = (
    SectionRow("socket", "socket_filter"),
    SectionRow("sk_reuseport/migrate", "sk_reuseport", "sk_reuseport_select_or_migrate"),
    SectionRow("sk_reuseport", "sk_reuseport", "sk_reuseport_select"),
    SectionRow("kprobe+", "kprobe"),
    SectionRow("kretprobe+", "kprobe"),
    SectionRow("uprobe+", "kprobe"),
    SectionRow("uprobe.s+", "kprobe", sleepable=True),
    SectionRow("uretprobe+", "kprobe"),
    SectionRow("uretprobe.s+", "kprobe", sleepable=True),
    SectionRow("kprobe.multi+", "kprobe", "trace_kprobe_multi"),
    SectionRow("kretprobe.multi+", "kprobe", "trace_kprobe_multi"),
    SectionRow("kprobe.session+", "kprobe", "trace_kprobe_session", since=(1, 5)),
    SectionRow("uprobe.multi+", "kprobe", "trace_uprobe_multi", since=(1, 3)),
    SectionRow("uprobe.multi.s+", "kprobe", "trace_uprobe_multi", sleepable=True, since=(1, 3)),
    SectionRow("uretprobe.multi+", "kprobe", "trace_uprobe_multi", since=(1, 3)),
    SectionRow("uretprobe.multi.s+", "kprobe", "trace_uprobe_multi", sleepable=True, since=(1, 3)),
    SectionRow("uprobe.session+", "kprobe", "trace_uprobe_session", since=(1, 6)),
    SectionRow("uprobe.session.s+", "kprobe", "trace_uprobe_session", sleepable=True, since=(1, 6)),
    SectionRow("ksyscall+", "kprobe"),
    SectionRow("kretsyscall+", "kprobe"),
    SectionRow("usdt+", "kprobe"),
    SectionRow("usdt.s+", "kprobe", sleepable=True, since=(1, 3)),
    SectionRow("tc/ingress", "sched_cls", "tcx_ingress", since=(1, 3)),
    SectionRow("tc/egress", "sched_cls", "tcx_egress", since=(1, 3)),
    SectionRow("tcx/ingress", "sched_cls", "tcx_ingress", since=(1, 3)),
    SectionRow("tcx/egress", "sched_cls", "tcx_egress", since=(1, 3)),
    SectionRow("netkit/primary", "sched_cls", "netkit_primary", since=(1, 3)),
    SectionRow("netkit/peer", "sched_cls", "netkit_peer", since=(1, 3)),
    SectionRow("tc", "sched_cls"),
    SectionRow("classifier", "sched_cls"),
    SectionRow("action", "sched_act"),
    SectionRow("tracepoint+", "tracepoint"),
    SectionRow("tp+", "tracepoint"),
    SectionRow("raw_tracepoint+", "raw_tracepoint"),
    SectionRow("raw_tp+", "raw_tracepoint"),
    SectionRow("raw_tracepoint.w+", "raw_tracepoint_writable"),
    SectionRow("raw_tp.w+", "raw_tracepoint_writable"),
    SectionRow("tp_btf+", "tracing", "trace_raw_tp", needs_kernel_btf=True),
    *_traced("fentry", "trace_fentry"),
    *_traced("fexit", "trace_fexit"),
    *_traced("fmod_ret", "modify_return"),
    *(row._replace(since=(1, 7)) for row in _traced("fsession", "trace_fsession")),
    *_traced("iter", "trace_iter"),
    *_traced("lsm", "lsm_mac", "lsm"),
    SectionRow("lsm_cgroup+", "lsm", "lsm_cgroup", needs_kernel_btf=True),
    SectionRow("freplace+", "ext"),
    SectionRow("syscall", "syscall", sleepable=True),
    SectionRow("xdp.frags/devmap", "xdp", "xdp_devmap"),
    SectionRow("xdp/devmap", "xdp", "xdp_devmap"),
    SectionRow("xdp.frags/cpumap", "xdp", "xdp_cpumap"),
    SectionRow("xdp/cpumap", "xdp", "xdp_cpumap"),
    SectionRow("xdp.frags", "xdp", "xdp"),
    SectionRow("xdp", "xdp", "xdp"),
    SectionRow("perf_event", "perf_event"),
    SectionRow("lwt_in", "lwt_in"),
    SectionRow("lwt_out", "lwt_out"),
    SectionRow("lwt_xmit", "lwt_xmit"),
    SectionRow("lwt_seg6local", "lwt_seg6local"),
    SectionRow("sockops", "sock_ops", "cgroup_sock_ops"),
    SectionRow("sk_skb/stream_parser", "sk_skb", "sk_skb_stream_parser"),
    SectionRow("sk_skb/stream_verdict", "sk_skb", "sk_skb_stream_verdict"),
    SectionRow("sk_skb/verdict", "sk_skb", "sk_skb_verdict", since=(1, 5)),
    SectionRow("sk_skb", "sk_skb"),
    SectionRow("sk_msg", "sk_msg", "sk_msg_verdict"),
    SectionRow("lirc_mode2", "lirc_mode2", "lirc_mode2"),
    SectionRow("flow_dissector", "flow_dissector", "flow_dissector"),
    SectionRow("cgroup_skb/ingress", "cgroup_skb", "cgroup_inet_ingress"),
    SectionRow("cgroup_skb/egress", "cgroup_skb", "cgroup_inet_egress"),
    SectionRow("cgroup/skb", "cgroup_skb"),
    SectionRow("cgroup/sock_create", "cgroup_sock", "cgroup_inet_sock_create"),
    SectionRow("cgroup/sock_release", "cgroup_sock", "cgroup_inet_sock_release"),
    SectionRow("cgroup/sock", "cgroup_sock", "cgroup_inet_sock_create"),
    SectionRow("cgroup/post_bind4", "cgroup_sock", "cgroup_inet4_post_bind"),
    SectionRow("cgroup/post_bind6", "cgroup_sock", "cgroup_inet6_post_bind"),
    *_addressed("bind", "inet{}_bind"),
    *_addressed("connect", "inet{}_connect"),
    *_addressed("sendmsg", "udp{}_sendmsg"),
    *_addressed("recvmsg", "udp{}_recvmsg"),
    *_addressed("getpeername", "inet{}_getpeername"),
    *_addressed("getsockname", "inet{}_getsockname"),
    *(_unix(verb) for verb in ("connect", "sendmsg", "recvmsg", "getpeername", "getsockname")),
    SectionRow("cgroup/sysctl", "cgroup_sysctl", "cgroup_sysctl"),
    SectionRow("cgroup/getsockopt", "cgroup_sockopt", "cgroup_getsockopt"),
    SectionRow("cgroup/setsockopt", "cgroup_sockopt", "cgroup_setsockopt"),
    SectionRow("cgroup/dev", "cgroup_device", "cgroup_device"),
    SectionRow("struct_ops+", "struct_ops", needs_kernel_btf=True),
    SectionRow("struct_ops.s+", "struct_ops", needs_kernel_btf=True, sleepable=True, since=(1, 2)),
    SectionRow("sk_lookup", "sk_lookup", "sk_lookup"),
    SectionRow("netfilter", "netfilter", "netfilter", since=(1, 3)),
)


@dataclass(frozen=True, slots=True)
class SectionMeaning:
    """What a section's name says. ``kind`` is the row's name, ``unspec`` when libbpf could not tell the type either."""

    kind: str
    program_type: str
    attach_type: str
    target: str  # what follows the slash: ``sched/sched_process_exec``, ``tcp_v4_connect``
    optional: bool  # ``?`` in front: loaded only when asked for
    needs_kernel_btf: bool
    sleepable: bool
    since: tuple[int, int] = (1, 0)  # the first libbpf that knows it


_EXACT = {row.name: row for row in SECTIONS if not row.name.endswith("+")}
_WITH_TARGET = {row.name[:-1]: row for row in SECTIONS if row.name.endswith("+")}


def section_meaning(section: str) -> SectionMeaning:
    """Return what the name *section* says; a name no row matches is of type ``unspec``."""
    name = section.removeprefix("?")
    optional = name != section
    prefix, _, target = name.partition("/")
    row = _EXACT.get(name)
    if row is not None:
        target = ""
    else:
        row = _WITH_TARGET.get(prefix)
    if row is None:
        return SectionMeaning("", "unspec", "", "", optional, needs_kernel_btf=False, sleepable=False)
    kind = row.name.rstrip("+")
    return SectionMeaning(
        kind, row.program_type, row.attach_type, target, optional, row.needs_kernel_btf, row.sleepable, row.since
    )
