/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* tcp-flow compiled on the host by BCC, for kernels that have the tracepoint and headers but no BTF.
 *
 * Record, states and scope are those of core.bpf.c; the adapter makes the same consumer record of both. It says nothing
 * until bcc_setup() in the adapter has written `config`, because BCC attaches before anything can be configured.
 */
#include <linux/version.h>
#include <net/sock.h>
#include <linux/cgroup-defs.h>
#include <linux/kernfs.h>
#include <linux/tcp.h>
#include <net/tcp_states.h>

#define MAX_OPEN 65536
#define CLIENT 1
#define SERVER 2
#define READ_KERNEL(target, source) bpf_probe_read_kernel(&(target), sizeof(target), &(source))

struct scope {
	u64 cgroup;
	u32 netns;
	u32 configured;
};

struct flow_record {
	u64 mono_ns;
	u64 open_ns;
	u64 bytes_acked;
	u64 bytes_received;
	u64 bytes_sent;
	u64 bytes_retrans;
	u32 netns;
	u32 pid;
	u32 retrans;
	u32 rtt_us;
	u32 error;
	u16 sport;
	u16 dport;
	u8 role;
	u8 established;
	u8 old_state;
	u8 fin_acked;
	u8 fin_received;
	u8 sent_known;
	u8 saddr[16];
	u8 daddr[16];
	char comm[TASK_COMM_LEN];
};

struct birth {
	u64 open_ns;
	u32 pid;
	u8 role;
	u8 established;
	u8 padding[2];
	char comm[TASK_COMM_LEN];
};

BPF_ARRAY(config, struct scope, 1);
BPF_TABLE("lru_hash", u64, struct birth, births, MAX_OPEN);
BPF_PERF_OUTPUT(events_perf);

static __always_inline u32 socket_netns(struct sock *sk)
{
	u32 inum = 0;
#ifdef CONFIG_NET_NS
	struct net *net = 0;

	READ_KERNEL(net, sk->__sk_common.skc_net.net);
	READ_KERNEL(inum, net->ns.inum);
#endif
	return inum;
}

/* Whether the cgroup or one of five ancestors is the wanted one; BCC's verifiers take no loops. */
static __always_inline int cgroup_holds(u64 wanted, struct cgroup *cgroup)
{
	struct cgroup_subsys_state *parent = 0;
	struct kernfs_node *node = 0;
	int found = 0;
	u64 id = 0;

#pragma unroll
	for (int depth = 0; depth < 6; depth++) {
		READ_KERNEL(node, cgroup->kn);
		id = 0;
		READ_KERNEL(id, node->id); /* eight bytes, as a union until v5.5 */
		found |= id == wanted;
		READ_KERNEL(parent, cgroup->self.parent);
		READ_KERNEL(cgroup, parent->cgroup);
	}
	return found;
}

static __always_inline int in_scope(struct sock *sk)
{
	int zero = 0;
	struct scope *scope = config.lookup(&zero);

	if (!scope || !scope->configured)
		return 0;
	if (scope->netns && scope->netns != socket_netns(sk))
		return 0;
	if (!scope->cgroup)
		return 1;
#ifdef CONFIG_SOCK_CGROUP_DATA
	u64 word = 0; /* the pointer comes first; until v5.15 its lowest bit said that it was a class id instead */

	bpf_probe_read_kernel(&word, sizeof(word), &sk->sk_cgrp_data);
	return !(word & 1) && cgroup_holds(scope->cgroup, (struct cgroup *)(word & ~3ULL));
#else
	return 0;
#endif
}

static __always_inline int our_fin_acked(struct tcp_sock *tp, int old_state)
{
	u32 acked = 0, end = 0;

	if (old_state != TCP_FIN_WAIT1 && old_state != TCP_FIN_WAIT2 && old_state != TCP_CLOSING &&
	    old_state != TCP_LAST_ACK)
		return 0;
	READ_KERNEL(acked, tp->snd_una);
	READ_KERNEL(end, tp->write_seq);
	return acked == end;
}

static __always_inline void identify(struct birth *birth)
{
	birth->pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(&birth->comm, sizeof(birth->comm));
}

TRACEPOINT_PROBE(sock, inet_sock_set_state)
{
	struct sock *sk = (struct sock *)args->skaddr;
	struct tcp_sock *tp = (struct tcp_sock *)sk;
	int old_state = args->oldstate, new_state = args->newstate;
	u64 key = (u64)sk;
	struct birth fresh = {};
	struct birth *birth;
	unsigned long flags = 0;
	int error = 0;

	if (args->protocol != IPPROTO_TCP || (old_state == TCP_LISTEN && new_state == TCP_CLOSE) || !in_scope(sk))
		return 0;
	if (new_state == TCP_SYN_SENT || new_state == TCP_SYN_RECV) {
		fresh.open_ns = bpf_ktime_get_ns();
		fresh.role = new_state == TCP_SYN_SENT ? CLIENT : SERVER;
		if (new_state == TCP_SYN_SENT)
			identify(&fresh);
		births.update(&key, &fresh);
		return 0;
	}
	birth = births.lookup(&key);
	if (new_state != TCP_CLOSE) {
		if (birth && new_state == TCP_ESTABLISHED)
			birth->established = 1;
		if (birth && (new_state == TCP_FIN_WAIT1 || new_state == TCP_LAST_ACK) && !birth->pid)
			identify(birth);
		return 0;
	}
	if (old_state == TCP_SYN_RECV)
		return 0;

	struct flow_record record = {};

	if (birth) {
		record.open_ns = birth->open_ns;
		record.pid = birth->pid;
		record.role = birth->role;
		record.established = birth->established;
		__builtin_memcpy(record.comm, birth->comm, sizeof(record.comm));
		births.delete(&key);
	} else {
		record.established = old_state != TCP_SYN_SENT;
	}
	record.mono_ns = bpf_ktime_get_ns();
	READ_KERNEL(record.bytes_acked, tp->bytes_acked);
	READ_KERNEL(record.bytes_received, tp->bytes_received);
#if LINUX_VERSION_CODE >= KERNEL_VERSION(4, 19, 0)
	record.sent_known = 1;
	READ_KERNEL(record.bytes_sent, tp->bytes_sent);
	READ_KERNEL(record.bytes_retrans, tp->bytes_retrans);
#endif
	READ_KERNEL(record.retrans, tp->total_retrans);
	READ_KERNEL(record.rtt_us, tp->srtt_us);
	record.rtt_us >>= 3;
	record.netns = socket_netns(sk);
	READ_KERNEL(error, sk->sk_err);
	record.error = error;
	record.old_state = old_state;
	record.fin_acked = our_fin_acked(tp, old_state);
	READ_KERNEL(flags, sk->__sk_common.skc_flags);
	record.fin_received = flags >> SOCK_DONE & 1;
	record.sport = args->sport;
	record.dport = args->dport;
	bpf_probe_read_kernel(record.saddr, sizeof(record.saddr), args->saddr_v6);
	bpf_probe_read_kernel(record.daddr, sizeof(record.daddr), args->daddr_v6);
	events_perf.perf_submit(args, &record, sizeof(record));
	return 0;
}
