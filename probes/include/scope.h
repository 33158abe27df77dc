/* SPDX-License-Identifier: Apache-2.0 */
/* What a program may report: the whole host, one network namespace, or one cgroup and what is below it.
 * The map `config` holds it; the runner writes it with --set. Zero means no limit.
 */
#ifndef SCOPE_H
#define SCOPE_H

#include "kernel_types.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

struct scope {
	__u64 cgroup; /* id, as the file handle of the cgroup's directory gives it */
	__u32 netns;  /* inode number */
	__u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scope);
} config SEC(".maps");

static __always_inline __u64 cgroup_id(const struct cgroup *cgroup)
{
	const struct kernfs_node *node = BPF_CORE_READ(cgroup, kn);

	if (bpf_core_field_exists(((struct kernfs_node___union *)0)->id.id))
		return BPF_CORE_READ((const struct kernfs_node___union *)node, id.id);
	return BPF_CORE_READ(node, id);
}

/* True for the cgroup and five levels of its ancestors. Written out because old verifiers take no loops; reading above
 * the root gives null and an id of 0, which is never wanted. */
#define CGROUP_STEP                                                                                                    \
	found |= cgroup_id(cgroup) == wanted;                                                                          \
	cgroup = BPF_CORE_READ(cgroup, self.parent, cgroup)

static __always_inline int cgroup_holds(__u64 wanted, const struct cgroup *cgroup)
{
	int found = 0;

	CGROUP_STEP;
	CGROUP_STEP;
	CGROUP_STEP;
	CGROUP_STEP;
	CGROUP_STEP;
	CGROUP_STEP;
	return found;
}

/* The cgroup a socket was made in. */
static __always_inline const struct cgroup *socket_cgroup(const struct sock *sk)
{
	const struct sock_cgroup_data___word *word;
	__u64 value;

	if (!bpf_core_field_exists(sk->sk_cgrp_data)) /* a kernel without socket cgroups */
		return 0;
	word = (const void *)&sk->sk_cgrp_data;
	if (!bpf_core_field_exists(((struct sock_cgroup_data___word *)0)->val))
		return BPF_CORE_READ(sk, sk_cgrp_data.cgroup);
	value = BPF_CORE_READ(word, val);
	return value & 1 ? 0 : (const void *)(value & ~3ULL);
}

static __always_inline __u32 socket_netns(const struct sock *sk)
{
	return BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
}

static __always_inline int socket_in_scope(const struct sock *sk)
{
	__u32 zero = 0;
	const struct scope *scope = bpf_map_lookup_elem(&config, &zero);

	if (!scope)
		return 0;
	if (scope->netns && scope->netns != socket_netns(sk))
		return 0;
	return !scope->cgroup || cgroup_holds(scope->cgroup, socket_cgroup(sk));
}

/* For programs that run in the process they report on: the network namespace of the current task. */
static __always_inline int task_in_scope(void)
{
	const struct task_struct *task = (const void *)bpf_get_current_task();
	__u32 zero = 0;
	const struct scope *scope = bpf_map_lookup_elem(&config, &zero);

	return scope && (!scope->netns || scope->netns == BPF_CORE_READ(task, nsproxy, net_ns, ns.inum));
}

#endif
