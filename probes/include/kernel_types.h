/* SPDX-License-Identifier: Apache-2.0 */
/* The few kernel types our programs read, with only the members they read. Sizes and offsets here mean nothing: every
 * access becomes a CO-RE relocation, which the loader resolves against the kernel's BTF. Types named ___something are
 * other shapes of the same type ("flavours"): guard them with bpf_core_field_exists().
 */
#ifndef KERNEL_TYPES_H
#define KERNEL_TYPES_H

#include <linux/bpf.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct nsproxy {
	struct net *net_ns;
};

struct task_struct {
	struct nsproxy *nsproxy;
};

struct kernfs_node {
	__u64 id;
};

/* Until v5.5 the id was a union. */
union kernfs_node_id___union {
	__u64 id;
};

struct kernfs_node___union {
	union kernfs_node_id___union id;
};

struct cgroup;

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};

struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
};

struct sock_cgroup_data {
	struct cgroup *cgroup;
};

/* Until v5.15 one word held either a pointer to the cgroup or, marked by its lowest bit, a class id. */
struct sock_cgroup_data___word {
	__u64 val;
};

struct sock_common {
	possible_net_t skc_net;
	unsigned long skc_flags;
};

struct sock {
	struct sock_common __sk_common;
	int sk_err;
	struct sock_cgroup_data sk_cgrp_data;
};

struct tcp_sock {
	__u64 bytes_acked;
	__u64 bytes_received;
	__u64 bytes_sent;
	__u64 bytes_retrans;
	__u32 srtt_us;
	__u32 total_retrans;
	__u32 snd_una;
	__u32 write_seq;
};

struct trace_event_raw_inet_sock_set_state {
	const void *skaddr;
	int oldstate;
	int newstate;
	__u16 sport;
	__u16 dport;
	__u16 family;
	__u16 protocol; /* one byte until v5.6 */
	__u8 saddr_v6[16];
	__u8 daddr_v6[16];
};

#pragma clang attribute pop

#endif
