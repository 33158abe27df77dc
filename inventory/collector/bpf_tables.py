"""What is probed, as rows: program types, map types, helpers. A new probe is one row here.

Names are the kernel's own without prefix, in lower case; numbers are ABI and never change.
"""

import errno
import os
from typing import List, NamedTuple, Optional, Tuple

_TARGET = "attach_btf_id 1 is not a "  # what the verifier says when the type is known and its target is nonsense
SLEEPABLE = 1 << 4
NO_PREALLOC, MMAPABLE, RDONLY_PROG = 1, 1 << 10, 1 << 7
ENOTSUPP = 524


class ProgramType(NamedTuple):
    """How the smallest program of a type is loaded; *also* is an (errno, part of the log) that means yes as well."""

    number: int
    expected: int = 0
    flags: int = 0
    btf_id: int = 0
    also: Optional[Tuple[int, str]] = None


class MapType(NamedTuple):
    """How the smallest valid map of a type is created; *also* is an errno that means yes as well."""

    number: int
    key: int = 4
    value: int = 4
    entries: int = 1
    flags: int = 0
    btf: Tuple[int, int, int] = (0, 0, 0)
    inner: int = 0
    vmlinux_type: int = 0
    also: Optional[int] = None


PROGRAM_TYPES = {
    "socket_filter": ProgramType(1),
    "kprobe": ProgramType(2),
    "sched_cls": ProgramType(3),
    "sched_act": ProgramType(4),
    "tracepoint": ProgramType(5),
    "xdp": ProgramType(6),
    "perf_event": ProgramType(7),
    "cgroup_skb": ProgramType(8),
    "cgroup_sock": ProgramType(9),
    "lwt_in": ProgramType(10),
    "lwt_out": ProgramType(11),
    "lwt_xmit": ProgramType(12),
    "sock_ops": ProgramType(13),
    "sk_skb": ProgramType(14),
    "cgroup_device": ProgramType(15),
    "sk_msg": ProgramType(16),
    "raw_tracepoint": ProgramType(17),
    "cgroup_sock_addr": ProgramType(18, expected=10),  # BPF_CGROUP_INET4_CONNECT
    "lwt_seg6local": ProgramType(19),
    "lirc_mode2": ProgramType(20, expected=16),
    "sk_reuseport": ProgramType(21),
    "flow_dissector": ProgramType(22),
    "cgroup_sysctl": ProgramType(23),
    "raw_tracepoint_writable": ProgramType(24),
    "cgroup_sockopt": ProgramType(25, expected=21),  # BPF_CGROUP_GETSOCKOPT
    "tracing": ProgramType(
        26, expected=23, btf_id=1, also=(errno.EINVAL, _TARGET)
    ),  # as tp_btf: some hosts deny fentry only
    "struct_ops": ProgramType(27, btf_id=1, also=(ENOTSUPP, "")),
    "ext": ProgramType(28, btf_id=1, also=(errno.EINVAL, "Cannot replace kernel functions")),
    "lsm": ProgramType(29, expected=27, btf_id=1, also=(errno.EINVAL, _TARGET)),
    "sk_lookup": ProgramType(30, expected=36),
    "syscall": ProgramType(31, flags=SLEEPABLE),
    "netfilter": ProgramType(32, expected=45),
}


def _storage(number: int) -> MapType:
    """Local storage needs BTF; a descriptor that is none tells that the type got as far as looking for it."""
    return MapType(number, entries=0, flags=NO_PREALLOC, btf=(0xFFFFFFFF, 3, 3), also=errno.EBADF)


def _ring(number: int) -> MapType:
    return MapType(number, key=0, value=0, entries=os.sysconf("SC_PAGESIZE"))


MAP_TYPES = {
    "hash": MapType(1),
    "array": MapType(2),
    "prog_array": MapType(3),
    "perf_event_array": MapType(4),
    "percpu_hash": MapType(5),
    "percpu_array": MapType(6),
    "stack_trace": MapType(7, value=8),
    "cgroup_array": MapType(8),
    "lru_hash": MapType(9),
    "lru_percpu_hash": MapType(10),
    "lpm_trie": MapType(11, key=8, value=8, flags=NO_PREALLOC),
    "array_of_maps": MapType(12, inner=0xFFFFFFFF, also=errno.EBADF),
    "hash_of_maps": MapType(13, inner=0xFFFFFFFF, also=errno.EBADF),
    "devmap": MapType(14),
    "sockmap": MapType(15),
    "cpumap": MapType(16),
    "xskmap": MapType(17),
    "sockhash": MapType(18),
    "cgroup_storage": MapType(19, key=16, value=8, entries=0),
    "reuseport_sockarray": MapType(20),
    "percpu_cgroup_storage": MapType(21, key=16, value=8, entries=0),
    "queue": MapType(22, key=0),
    "stack": MapType(23, key=0),
    "sk_storage": _storage(24),
    "devmap_hash": MapType(25),
    "struct_ops": MapType(26, vmlinux_type=1, also=ENOTSUPP),
    "ringbuf": _ring(27),
    "inode_storage": _storage(28),
    "task_storage": _storage(29),
    "bloom_filter": MapType(30, key=0),
    "user_ringbuf": _ring(31),
    "cgrp_storage": _storage(32),
    "arena": MapType(33, key=0, value=0, flags=MMAPABLE),
}


def _words(text: str) -> List[str]:
    return text.split()


# In the order of their numbers, from 0.
HELPERS = _words("""
unspec map_lookup_elem map_update_elem map_delete_elem probe_read ktime_get_ns trace_printk get_prandom_u32
get_smp_processor_id skb_store_bytes l3_csum_replace l4_csum_replace tail_call clone_redirect
get_current_pid_tgid get_current_uid_gid get_current_comm get_cgroup_classid skb_vlan_push skb_vlan_pop
skb_get_tunnel_key skb_set_tunnel_key perf_event_read redirect get_route_realm perf_event_output
skb_load_bytes get_stackid csum_diff skb_get_tunnel_opt skb_set_tunnel_opt skb_change_proto skb_change_type
skb_under_cgroup get_hash_recalc get_current_task probe_write_user current_task_under_cgroup skb_change_tail
skb_pull_data csum_update set_hash_invalid get_numa_node_id skb_change_head xdp_adjust_head probe_read_str
get_socket_cookie get_socket_uid set_hash setsockopt skb_adjust_room redirect_map sk_redirect_map
sock_map_update xdp_adjust_meta perf_event_read_value perf_prog_read_value getsockopt override_return
sock_ops_cb_flags_set msg_redirect_map msg_apply_bytes msg_cork_bytes msg_pull_data bind xdp_adjust_tail
skb_get_xfrm_state get_stack skb_load_bytes_relative fib_lookup sock_hash_update msg_redirect_hash
sk_redirect_hash lwt_push_encap lwt_seg6_store_bytes lwt_seg6_adjust_srh lwt_seg6_action rc_repeat rc_keydown
skb_cgroup_id get_current_cgroup_id get_local_storage sk_select_reuseport skb_ancestor_cgroup_id sk_lookup_tcp
sk_lookup_udp sk_release map_push_elem map_pop_elem map_peek_elem msg_push_data msg_pop_data rc_pointer_rel
spin_lock spin_unlock sk_fullsock tcp_sock skb_ecn_set_ce get_listener_sock skc_lookup_tcp tcp_check_syncookie
sysctl_get_name sysctl_get_current_value sysctl_get_new_value sysctl_set_new_value strtol strtoul
sk_storage_get sk_storage_delete send_signal tcp_gen_syncookie skb_output probe_read_user probe_read_kernel
probe_read_user_str probe_read_kernel_str tcp_send_ack send_signal_thread jiffies64 read_branch_records
get_ns_current_pid_tgid xdp_output get_netns_cookie get_current_ancestor_cgroup_id sk_assign ktime_get_boot_ns
seq_printf seq_write sk_cgroup_id sk_ancestor_cgroup_id ringbuf_output ringbuf_reserve ringbuf_submit
ringbuf_discard ringbuf_query csum_level skc_to_tcp6_sock skc_to_tcp_sock skc_to_tcp_timewait_sock
skc_to_tcp_request_sock skc_to_udp6_sock get_task_stack load_hdr_opt store_hdr_opt reserve_hdr_opt
inode_storage_get inode_storage_delete d_path copy_from_user snprintf_btf seq_printf_btf skb_cgroup_classid
redirect_neigh per_cpu_ptr this_cpu_ptr redirect_peer task_storage_get task_storage_delete
get_current_task_btf bprm_opts_set ktime_get_coarse_ns ima_inode_hash sock_from_file check_mtu
for_each_map_elem snprintf sys_bpf btf_find_by_name_kind sys_close timer_init timer_set_callback timer_start
timer_cancel get_func_ip get_attach_cookie task_pt_regs get_branch_snapshot trace_vprintk skc_to_unix_sock
kallsyms_lookup_name find_vma loop strncmp get_func_arg get_func_ret get_func_arg_cnt get_retval set_retval
xdp_get_buff_len xdp_load_bytes xdp_store_bytes copy_from_user_task skb_set_tstamp ima_file_hash kptr_xchg
map_lookup_percpu_elem skc_to_mptcp_sock dynptr_from_mem ringbuf_reserve_dynptr ringbuf_submit_dynptr
ringbuf_discard_dynptr dynptr_read dynptr_write dynptr_data tcp_raw_gen_syncookie_ipv4
tcp_raw_gen_syncookie_ipv6 tcp_raw_check_syncookie_ipv4 tcp_raw_check_syncookie_ipv6 ktime_get_tai_ns
user_ringbuf_drain cgrp_storage_get cgrp_storage_delete
""")

_ANY = """map_lookup_elem map_update_elem map_delete_elem ktime_get_ns get_prandom_u32 get_smp_processor_id tail_call
perf_event_output get_numa_node_id map_push_elem map_pop_elem map_peek_elem spin_lock spin_unlock jiffies64
ktime_get_boot_ns ringbuf_output ringbuf_reserve ringbuf_submit ringbuf_discard ringbuf_query per_cpu_ptr this_cpu_ptr
ktime_get_coarse_ns for_each_map_elem snprintf timer_init timer_set_callback timer_start timer_cancel loop strncmp
map_lookup_percpu_elem ktime_get_tai_ns"""
_TRACING = (
    _ANY
    + """ probe_read probe_read_str probe_read_kernel probe_read_kernel_str probe_read_user
probe_read_user_str get_current_pid_tgid get_current_uid_gid get_current_comm get_current_task get_current_task_btf
get_current_cgroup_id get_current_ancestor_cgroup_id current_task_under_cgroup get_cgroup_classid get_stackid get_stack
get_task_stack perf_event_read perf_event_read_value send_signal send_signal_thread get_ns_current_pid_tgid
copy_from_user task_storage_get task_storage_delete task_pt_regs get_attach_cookie get_func_ip find_vma
get_branch_snapshot snprintf_btf"""
)
_PACKETS = _ANY + """ skb_load_bytes skb_load_bytes_relative get_socket_cookie get_socket_uid"""
_CLASSIFIER = (
    _PACKETS
    + """ skb_store_bytes l3_csum_replace l4_csum_replace clone_redirect redirect redirect_peer
redirect_neigh skb_vlan_push skb_vlan_pop skb_change_proto skb_change_type skb_change_tail skb_change_head skb_pull_data
skb_adjust_room csum_diff csum_update csum_level set_hash_invalid get_hash_recalc skb_get_tunnel_key skb_set_tunnel_key
skb_get_tunnel_opt skb_set_tunnel_opt fib_lookup sk_lookup_tcp sk_lookup_udp skc_lookup_tcp sk_release sk_fullsock
tcp_sock sk_storage_get sk_storage_delete skb_cgroup_id skb_ancestor_cgroup_id skb_under_cgroup get_cgroup_classid
get_route_realm check_mtu skb_ecn_set_ce sk_assign skb_set_tstamp get_netns_cookie
tcp_check_syncookie tcp_gen_syncookie"""
)
_XDP = (
    _ANY
    + """ redirect redirect_map xdp_adjust_head xdp_adjust_meta xdp_adjust_tail csum_diff fib_lookup
sk_lookup_tcp sk_lookup_udp skc_lookup_tcp sk_release check_mtu xdp_get_buff_len xdp_load_bytes xdp_store_bytes
tcp_check_syncookie tcp_gen_syncookie"""
)
_CGROUP = (
    _PACKETS
    + """ sk_storage_get sk_storage_delete sk_fullsock tcp_sock get_listener_sock skb_ecn_set_ce
sk_cgroup_id sk_ancestor_cgroup_id skb_cgroup_id skb_ancestor_cgroup_id get_netns_cookie sk_lookup_tcp sk_lookup_udp
get_local_storage"""
)

# Left out on purpose: trace_printk, trace_vprintk, probe_write_user and override_return, which make a kernel log a
# warning when a program that uses them is loaded. Nobody asked means ``unknown``.
HELPERS_OF = {
    "kprobe": _TRACING,
    "tracepoint": _TRACING,
    "raw_tracepoint": _TRACING,
    "perf_event": _TRACING + " perf_prog_read_value",
    "socket_filter": _PACKETS,
    "sched_cls": _CLASSIFIER,
    "xdp": _XDP,
    "cgroup_skb": _CGROUP,
}

# Attach and link kinds and features; each has a function in bpf_attach or bpf_probe.
ATTACH_KINDS = _words("tracepoint raw_tracepoint tp_btf fentry iter kprobe uprobe perf_event cgroup_skb tc xdp")
LINK_KINDS = _words("perf_event raw_tracepoint tracing iter cgroup xdp tcx")
# The hook whose attaching also tells about the kind of link.
LINK_HOOKS = {
    "perf_event": "perf_event",
    "raw_tracepoint": "raw_tracepoint",
    "tracing": "fentry",
    "iter": "iter",
    "cgroup": "cgroup_skb",
    "xdp": "xdp",
}
FEATURES = _words(
    "stats global_data bounded_loops large_insns prog_name isa_v1 isa_v2 isa_v3 isa_v4 bpf2bpf map_batch map_freeze "
    "mmapable btf_load"
)


def names() -> List[str]:
    """Return the names of all ``bpf.*`` facts but ``bpf.syscall`` and ``bpf.reliable``, in a stated order."""
    found = ["bpf.prog." + name for name in sorted(PROGRAM_TYPES)]
    found += ["bpf.map." + name for name in sorted(MAP_TYPES)]
    for kind in sorted(HELPERS_OF):
        found += ["bpf.helper.%s.%s" % (kind, name) for name in HELPERS_OF[kind].split()]
    found += ["bpf.attach." + name for name in ATTACH_KINDS]
    found += ["bpf.link." + name for name in LINK_KINDS]
    return found + ["bpf.feature." + name for name in FEATURES]
