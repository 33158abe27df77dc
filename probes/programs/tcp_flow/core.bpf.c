/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* One record for each TCP connection that ends, from the kernel's own state changes.
 *
 * It reports counters as the kernel keeps them and the facts that say what to subtract (SYN, FIN); the adapter does the
 * arithmetic, once, for every variant.
 * Tracepoint: Since Linux commit 563e0bb0dc74 ("net: tracepoint: replace tcp_set_state tracepoint with
 * inet_sock_set_state tracepoint") (v4.16)
 */
#include "scope.h"
#include "stream.h"

#define TCP 6 /* IPPROTO_TCP */
#define COMM_BYTES 16
#define MAX_OPEN 65536
#define SOCK_DONE 1 /* bit of skc_flags: a FIN has arrived (enum sock_flags) */

/* The kernel's TCP states, as the tracepoint gives them. */
enum { ESTABLISHED = 1, SYN_SENT, SYN_RECV, FIN_WAIT1, FIN_WAIT2, CLOSED = 7, LAST_ACK = 9, LISTEN, CLOSING };

enum role { UNKNOWN, CLIENT, SERVER };

struct flow_record {
	__u64 mono_ns;
	__u64 open_ns; /* 0: opened before we watched */
	__u64 bytes_acked;
	__u64 bytes_received;
	__u64 bytes_sent; /* with retransmissions; no SYN, no FIN */
	__u64 bytes_retrans;
	__u32 netns;
	__u32 pid;
	__u32 retrans;
	__u32 rtt_us;
	__u32 error;
	__u16 sport;
	__u16 dport;
	__u8 role;
	__u8 established;
	__u8 old_state;
	__u8 fin_acked;
	__u8 fin_received;
	__u8 sent_known; /* bytes_sent and bytes_retrans are there */
	__u8 saddr[16];  /* IPv4 as ::ffff:a.b.c.d */
	__u8 daddr[16];
	char comm[COMM_BYTES];
};

STREAM_RECORD(struct flow_record)

struct birth {
	__u64 open_ns;
	__u32 pid;
	__u8 role;
	__u8 established;
	__u8 padding[2];
	char comm[COMM_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_OPEN);
	__type(key, __u64); /* address of the socket */
	__type(value, struct birth);
} births SEC(".maps");

static __always_inline void identify(struct birth *birth)
{
	birth->pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(birth->comm, sizeof(birth->comm));
}

static __always_inline void remember(__u64 key, enum role role)
{
	struct birth birth = {};

	birth.open_ns = bpf_ktime_get_ns();
	birth.role = role;
	if (role == CLIENT) /* connect() runs in the process; a server's handshake runs in whatever was interrupted */
		identify(&birth);
	bpf_map_update_elem(&births, &key, &birth, BPF_ANY);
}

/* The end of our sequence space is acknowledged and our FIN was in it. */
static __always_inline int our_fin_acked(const struct tcp_sock *tp, int old_state)
{
	if (old_state != FIN_WAIT1 && old_state != FIN_WAIT2 && old_state != CLOSING && old_state != LAST_ACK)
		return 0;
	return BPF_CORE_READ(tp, snd_una) == BPF_CORE_READ(tp, write_seq);
}

static __always_inline void ended(struct trace_event_raw_inet_sock_set_state *context, const struct sock *sk,
				  enum transport transport)
{
	const struct tcp_sock *tp = (const void *)sk;
	struct flow_record *record = fresh_record();
	__u64 key = (__u64)sk;
	struct birth *birth = bpf_map_lookup_elem(&births, &key);
	int old_state = context->oldstate;

	if (!record)
		return;
	if (birth) {
		record->open_ns = birth->open_ns;
		record->pid = birth->pid;
		record->role = birth->role;
		record->established = birth->established;
		__builtin_memcpy(record->comm, birth->comm, sizeof(record->comm));
		bpf_map_delete_elem(&births, &key);
	} else {
		record->established = old_state != SYN_SENT;
	}
	record->mono_ns = bpf_ktime_get_ns();
	record->bytes_acked = BPF_CORE_READ(tp, bytes_acked);
	record->bytes_received = BPF_CORE_READ(tp, bytes_received);
	if (bpf_core_field_exists(tp->bytes_retrans)) {
		record->sent_known = 1;
		record->bytes_sent = BPF_CORE_READ(tp, bytes_sent);
		record->bytes_retrans = BPF_CORE_READ(tp, bytes_retrans);
	}
	record->retrans = BPF_CORE_READ(tp, total_retrans);
	record->rtt_us = BPF_CORE_READ(tp, srtt_us) >> 3;
	record->netns = socket_netns(sk);
	record->error = BPF_CORE_READ(sk, sk_err);
	record->old_state = old_state;
	record->fin_acked = our_fin_acked(tp, old_state);
	record->fin_received = BPF_CORE_READ(sk, __sk_common.skc_flags) >> SOCK_DONE & 1;
	record->sport = context->sport;
	record->dport = context->dport;
	bpf_core_read(record->saddr, sizeof(record->saddr), &context->saddr_v6);
	bpf_core_read(record->daddr, sizeof(record->daddr), &context->daddr_v6);
	stream(context, transport, record, sizeof(*record));
}

static __always_inline int state_changed(struct trace_event_raw_inet_sock_set_state *context, enum transport transport)
{
	const struct sock *sk = context->skaddr;
	int old_state = context->oldstate, new_state = context->newstate;
	__u64 key = (__u64)sk;
	struct birth *birth;

	if (context->protocol != TCP || (old_state == LISTEN && new_state == CLOSED) || !socket_in_scope(sk))
		return 0;
	if (new_state == CLOSED) {
		if (old_state != SYN_RECV) /* a handshake nobody finished is no connection */
			ended(context, sk, transport);
		return 0;
	}
	if (new_state == SYN_SENT) {
		remember(key, CLIENT);
		return 0;
	}
	if (new_state == SYN_RECV) {
		remember(key, SERVER);
		return 0;
	}
	birth = bpf_map_lookup_elem(&births, &key);
	if (!birth)
		return 0;
	if (new_state == ESTABLISHED)
		birth->established = 1;
	else if ((new_state == FIN_WAIT1 || new_state == LAST_ACK) && !birth->pid)
		identify(birth); /* close() and shutdown() run in the process */
	return 0;
}

SEC("tracepoint/sock/inet_sock_set_state")
int flow(struct trace_event_raw_inet_sock_set_state *context)
{
	return state_changed(context, RING);
}

SEC("tracepoint/sock/inet_sock_set_state")
int flow_perf(struct trace_event_raw_inet_sock_set_state *context)
{
	return state_changed(context, PERF);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
