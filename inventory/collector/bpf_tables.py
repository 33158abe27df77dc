"""What is probed, as rows: program types, map types, helpers. A new probe is one row here.

Names are the kernel's own without prefix, in lower case; numbers are ABI and never change.
"""

import errno
import os

_PAGE = os.sysconf("SC_PAGESIZE")
_TARGET = "attach_btf_id 1 is not a "  # what the verifier says when the type is known and its target is nonsense
SLEEPABLE = 1 << 4
NO_PREALLOC, MMAPABLE, RDONLY_PROG = 1, 1 << 10, 1 << 7
ENOTSUPP = 524

# name: (number, expected attach type, flags, attach_btf_id, (errno, part of the log) that also means yes)
PROGRAM_TYPES = {
    "socket_filter": (1, 0, 0, 0, None),
    "kprobe": (2, 0, 0, 0, None),
    "sched_cls": (3, 0, 0, 0, None),
    "sched_act": (4, 0, 0, 0, None),
    "tracepoint": (5, 0, 0, 0, None),
    "xdp": (6, 0, 0, 0, None),
    "perf_event": (7, 0, 0, 0, None),
    "cgroup_skb": (8, 0, 0, 0, None),
    "cgroup_sock": (9, 0, 0, 0, None),
    "lwt_in": (10, 0, 0, 0, None),
    "lwt_out": (11, 0, 0, 0, None),
    "lwt_xmit": (12, 0, 0, 0, None),
    "sock_ops": (13, 0, 0, 0, None),
    "sk_skb": (14, 0, 0, 0, None),
    "cgroup_device": (15, 0, 0, 0, None),
    "sk_msg": (16, 0, 0, 0, None),
    "raw_tracepoint": (17, 0, 0, 0, None),
    "cgroup_sock_addr": (18, 10, 0, 0, None),  # BPF_CGROUP_INET4_CONNECT
    "lwt_seg6local": (19, 0, 0, 0, None),
    "lirc_mode2": (20, 16, 0, 0, None),
    "sk_reuseport": (21, 0, 0, 0, None),
    "flow_dissector": (22, 0, 0, 0, None),
    "cgroup_sysctl": (23, 0, 0, 0, None),
    "raw_tracepoint_writable": (24, 0, 0, 0, None),
    "cgroup_sockopt": (25, 21, 0, 0, None),  # BPF_CGROUP_GETSOCKOPT
    "tracing": (26, 23, 0, 1, (errno.EINVAL, _TARGET)),  # as tp_btf, which some hosts allow where they deny fentry
    "struct_ops": (27, 0, 0, 1, (ENOTSUPP, "")),
    "ext": (28, 0, 0, 1, (errno.EINVAL, "Cannot replace kernel functions")),
    "lsm": (29, 27, 0, 1, (errno.EINVAL, _TARGET)),
    "sk_lookup": (30, 36, 0, 0, None),
    "syscall": (31, 0, SLEEPABLE, 0, None),
    "netfilter": (32, 45, 0, 0, None),
}

_STORAGE = {"key": 4, "value": 4, "entries": 0, "flags": NO_PREALLOC, "btf": (0xFFFFFFFF, 3, 3)}
_RING = {"key": 0, "value": 0, "entries": _PAGE}

# name: (number, how it must be created to be valid, the errno that also means yes)
MAP_TYPES = {
    "hash": (1, {}, None),
    "array": (2, {}, None),
    "prog_array": (3, {}, None),
    "perf_event_array": (4, {}, None),
    "percpu_hash": (5, {}, None),
    "percpu_array": (6, {}, None),
    "stack_trace": (7, {"value": 8}, None),
    "cgroup_array": (8, {}, None),
    "lru_hash": (9, {}, None),
    "lru_percpu_hash": (10, {}, None),
    "lpm_trie": (11, {"key": 8, "value": 8, "flags": NO_PREALLOC}, None),
    "array_of_maps": (12, {"inner": 0xFFFFFFFF}, errno.EBADF),
    "hash_of_maps": (13, {"inner": 0xFFFFFFFF}, errno.EBADF),
    "devmap": (14, {}, None),
    "sockmap": (15, {}, None),
    "cpumap": (16, {}, None),
    "xskmap": (17, {}, None),
    "sockhash": (18, {}, None),
    "cgroup_storage": (19, {"key": 16, "value": 8, "entries": 0}, None),
    "reuseport_sockarray": (20, {}, None),
    "percpu_cgroup_storage": (21, {"key": 16, "value": 8, "entries": 0}, None),
    "queue": (22, {"key": 0}, None),
    "stack": (23, {"key": 0}, None),
    "sk_storage": (24, _STORAGE, errno.EBADF),
    "devmap_hash": (25, {}, None),
    "struct_ops": (26, {"vmlinux_type": 1}, ENOTSUPP),
    "ringbuf": (27, _RING, None),
    "inode_storage": (28, _STORAGE, errno.EBADF),
    "task_storage": (29, _STORAGE, errno.EBADF),
    "bloom_filter": (30, {"key": 0}, None),
    "user_ringbuf": (31, _RING, None),
    "cgrp_storage": (32, _STORAGE, errno.EBADF),
    "arena": (33, {"key": 0, "value": 0, "flags": MMAPABLE}, None),
}

# In the order of their numbers, from 0.
HELPERS = """
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
""".split()

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
copy_from_user task_storage_get task_storage_delete task_pt_regs get_attach_cookie get_func_ip find_vma get_branch_snapshot
snprintf_btf"""
)
_PACKETS = _ANY + """ skb_load_bytes skb_load_bytes_relative get_socket_cookie get_socket_uid"""
_CLASSIFIER = (
    _PACKETS
    + """ skb_store_bytes l3_csum_replace l4_csum_replace clone_redirect redirect redirect_peer
redirect_neigh skb_vlan_push skb_vlan_pop skb_change_proto skb_change_type skb_change_tail skb_change_head skb_pull_data
skb_adjust_room csum_diff csum_update csum_level set_hash_invalid get_hash_recalc skb_get_tunnel_key skb_set_tunnel_key
skb_get_tunnel_opt skb_set_tunnel_opt fib_lookup sk_lookup_tcp sk_lookup_udp skc_lookup_tcp sk_release sk_fullsock
tcp_sock sk_storage_get sk_storage_delete skb_cgroup_id skb_ancestor_cgroup_id skb_under_cgroup get_cgroup_classid
get_route_realm check_mtu skb_ecn_set_ce sk_assign skb_set_tstamp get_netns_cookie tcp_check_syncookie tcp_gen_syncookie"""
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
ATTACH_KINDS = ("tracepoint raw_tracepoint tp_btf fentry iter kprobe uprobe perf_event cgroup_skb tc xdp").split()
LINK_KINDS = "perf_event raw_tracepoint tracing iter cgroup xdp tcx".split()
# The hook whose attaching also tells about the kind of link.
LINK_HOOKS = {
    "perf_event": "perf_event",
    "raw_tracepoint": "raw_tracepoint",
    "tracing": "fentry",
    "iter": "iter",
    "cgroup": "cgroup_skb",
    "xdp": "xdp",
}
FEATURES = (
    "stats global_data bounded_loops large_insns prog_name isa_v1 isa_v2 isa_v3 isa_v4 bpf2bpf map_batch map_freeze "
    "mmapable btf_load"
).split()


def names():
    """Return the names of all ``bpf.*`` facts but ``bpf.syscall`` and ``bpf.reliable``, in a stated order."""
    found = ["bpf.prog." + name for name in sorted(PROGRAM_TYPES)]
    found += ["bpf.map." + name for name in sorted(MAP_TYPES)]
    for kind in sorted(HELPERS_OF):
        found += ["bpf.helper.%s.%s" % (kind, name) for name in HELPERS_OF[kind].split()]
    found += ["bpf.attach." + name for name in ATTACH_KINDS]
    found += ["bpf.link." + name for name in LINK_KINDS]
    return found + ["bpf.feature." + name for name in FEATURES]
