/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Allows and denies packets on tc by the other end's network, the protocol and the port. legacy.bcc.c is made from this.
 *
 * The table arrives compiled (adapter.py): every network has a class, which stands for all rules of all networks that
 * cover it, and the answer for (class, protocol, port) is one longest-prefix match. A packet costs a look-up of its
 * conversation, one of its network and one of its port, however many rules there are.
 *
 * For the low floor: instruction set v2, no loops, no constants in memory, no access that needs the kernel's BTF.
 * Samples of denied packets go to a perf buffer on every kernel: they are few, and one path is enough.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>

#define ARRAY BPF_MAP_TYPE_ARRAY
#define PERCPU_ARRAY BPF_MAP_TYPE_PERCPU_ARRAY
#define PERCPU_HASH BPF_MAP_TYPE_PERCPU_HASH
#define LRU_HASH BPF_MAP_TYPE_LRU_HASH
#define LPM_TRIE BPF_MAP_TYPE_LPM_TRIE
#define MAP(kind, flags, name, key_type, value_type, size) \
	struct { \
		__uint(type, kind); \
		__uint(map_flags, flags); \
		__uint(max_entries, size); \
		__type(key, key_type); \
		__type(value, value_type); \
	} name SEC(".maps")

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events_perf SEC(".maps");

char LICENSE[] SEC("license") = "GPL"; /* what perf_event_output asks for */

/* ---- from here on alike for libbpf and BCC ---- */
#include "packet.h"
#include "table.h"

#define SECOND 1000000000ULL
#define SAMPLES_PER_SECOND 16 /* on one CPU */

INLINE void follow_fragments(struct packet *packet, int side)
{
	struct fragment_key key = {};
	struct fragment *seen, fresh = {};

	__builtin_memcpy(key.local, packet->source, 16);
	__builtin_memcpy(key.remote, packet->destination, 16);
	key.id = packet->id;
	key.family = packet->family;
	key.proto = packet->family == 4 ? packet->proto : 0; /* IPv6 numbers datagrams without regard to it */
	key.side = side;
	if (packet->first) {
		fresh.sport = packet->sport;
		fresh.dport = packet->dport;
		fresh.proto = packet->proto;
		bpf_map_update_elem(&fragments, &key, &fresh, BPF_ANY);
		return;
	}
	seen = bpf_map_lookup_elem(&fragments, &key);
	if (seen) {
		packet->sport = seen->sport;
		packet->dport = seen->dport;
		packet->proto = seen->proto;
	}
}

INLINE void set_flow(struct flow *flow, const __u32 *local, const __u32 *remote, __u16 local_port, __u16 remote_port)
{
	__builtin_memcpy(flow->local, local, 16);
	__builtin_memcpy(flow->remote, remote, 16);
	flow->local_port = local_port;
	flow->remote_port = remote_port;
}

/* True when an ICMP error is about a conversation that we know. */
INLINE int is_about_a_conversation(struct __sk_buff *skb, const struct packet *packet, int side, __u64 now)
{
	__u32 inner = packet->payload + 8, source[4] = {}, destination[4] = {};
	struct conversation *conversation;
	struct flow flow = {};
	__u8 head[40], type;
	__u16 both[2], id;

	if (packet->family == 4) {
		if (bpf_skb_load_bytes(skb, inner, head, 20))
			return 0;
		inner += (head[0] & 0x0f) * 4;
		flow.proto = head[9];
		__builtin_memcpy(source, head + 12, 4);
		__builtin_memcpy(destination, head + 16, 4);
	} else {
		if (bpf_skb_load_bytes(skb, inner, head, 40))
			return 0;
		inner += 40;
		flow.proto = head[6] == ICMP6 ? ICMP : head[6];
		__builtin_memcpy(source, head + 8, 16);
		__builtin_memcpy(destination, head + 24, 16);
	}
	if (bpf_skb_load_bytes(skb, inner, both, sizeof(both)))
		return 0;
	if (flow.proto == ICMP) {
		type = *(__u8 *)both;
		if (bpf_skb_load_bytes(skb, inner + 4, &id, sizeof(id)))
			return 0;
		both[0] = type == 8 || type == 128 ? id : 0;
		both[1] = type == 0 || type == 129 ? id : 0;
	} else if (flow.proto != TCP && flow.proto != UDP && flow.proto != SCTP) {
		both[0] = 0;
		both[1] = 0;
	}
	flow.family = packet->family;
	if (side == INGRESS) /* it is about a packet that we sent */
		set_flow(&flow, source, destination, both[0], both[1]);
	else
		set_flow(&flow, destination, source, both[1], both[0]);
	conversation = bpf_map_lookup_elem(&conversations, &flow);
	return conversation && now < conversation->expires;
}

INLINE void refresh(struct conversation *conversation, const struct packet *packet, __u64 now)
{
	__u64 idle = 30 * SECOND;

	if (packet->tcp_flags & TCP_SYN)
		conversation->closing = 0;
	if (packet->tcp_flags & (TCP_FIN | TCP_RST))
		conversation->closing = 1;
	if (packet->proto == TCP || packet->proto == SCTP)
		idle = conversation->closing ? 120 * SECOND : 86400 * SECOND;
	else if (packet->proto == UDP)
		idle = 180 * SECOND;
	conversation->expires = now + idle;
}

INLINE void remember(struct flow *flow, struct conversation *known, const struct packet *packet, int side,
		     __u64 now)
{
	struct conversation fresh = {};

	if (known && known->opener == side && now < known->expires) {
		refresh(known, packet, now);
		return;
	}
	fresh.opener = side;
	refresh(&fresh, packet, now);
	bpf_map_update_elem(&conversations, flow, &fresh, BPF_ANY);
}

INLINE void count(struct __sk_buff *skb, __u32 decided_by)
{
	struct counter *counter = bpf_map_lookup_elem(&counters, &decided_by);

	if (counter) {
		counter->packets += 1;
		counter->bytes += skb->len - ETHERNET;
	}
}

INLINE void sample(struct __sk_buff *skb, const struct packet *packet, int side, int audit, __u32 rule, __u64 now)
{
	__u32 zero = 0;
	struct sampler *sampler = bpf_map_lookup_elem(&samplers, &zero);
	struct net_policy_event *event;

	if (!sampler)
		return;
	if (now - sampler->second >= SECOND) {
		sampler->second = now;
		sampler->taken = 0;
	}
	if (sampler->taken >= SAMPLES_PER_SECOND)
		return;
	sampler->taken += 1;
	event = &sampler->event;
	event->mono_ns = now;
	event->rule = rule;
	event->side = side;
	event->audit = audit;
	event->family = packet->family;
	event->proto = packet->proto;
	__builtin_memcpy(event->saddr, packet->source, 16);
	__builtin_memcpy(event->daddr, packet->destination, 16);
	event->sport = NET16(packet->sport);
	event->dport = NET16(packet->dport);
	bpf_perf_event_output(skb, &events_perf, BPF_F_CURRENT_CPU, event, sizeof(*event));
}

/* The class of the other end on one side of the table; 0 when no rule speaks of it. */
INLINE __u32 class_of(const struct flow *flow, int side)
{
	struct network_key key = {};
	__u32 *class;

	key.prefixlen = flow->family == 4 ? 64 : 160;
	key.side = side;
	key.family = flow->family;
	__builtin_memcpy(key.address, flow->remote, 16);
	class = bpf_map_lookup_elem(&networks, &key);
	return class ? *class : 0;
}

INLINE int police(struct __sk_buff *skb, int side)
{
	__u32 zero = 0, class, decided_by = (NO_RULE | BY_DEFAULT) + side;
	struct settings *settings = bpf_map_lookup_elem(&policy_settings, &zero);
	struct conversation *known = 0;
	struct packet packet = {};
	struct flow flow = {};
	struct port_key key = {};
	struct answer *answer;
	__u64 now;
	int ours, deny;

	/* A tag other than 0, which only carries a priority, is another interface's traffic. */
	if (!settings || (skb->vlan_present && (skb->vlan_tci & 0xfff)))
		return TC_ACT_UNSPEC;
	if (skb->protocol == NET16(V4))
		ours = read_v4(skb, &packet);
	else if (skb->protocol == NET16(V6))
		ours = read_v6(skb, &packet);
	else
		return TC_ACT_UNSPEC;
	if (!ours)
		return TC_ACT_UNSPEC;
	read_ports(skb, &packet);
	if (packet.first || packet.later)
		follow_fragments(&packet, side);
	if (packet.always)
		return TC_ACT_UNSPEC;

	if (side == INGRESS)
		set_flow(&flow, packet.destination, packet.source, packet.dport, packet.sport);
	else
		set_flow(&flow, packet.source, packet.destination, packet.sport, packet.dport);
	flow.proto = packet.proto;
	flow.family = packet.family;

	if (packet.proto == TCP && flow.local_port && flow.local_port == settings->protected_port &&
	    class_of(&flow, PROTECTED)) {
		count(skb, (NO_RULE | BY_PROTECTION) + side);
		return TC_ACT_UNSPEC;
	}
	now = bpf_ktime_get_ns();
	if (settings->established) {
		known = bpf_map_lookup_elem(&conversations, &flow);
		if (known && known->opener != side && now < known->expires) {
			refresh(known, &packet, now);
			count(skb, (NO_RULE | ESTABLISHED) + side);
			return TC_ACT_UNSPEC;
		}
		if (packet.error && is_about_a_conversation(skb, &packet, side, now)) {
			count(skb, (NO_RULE | ESTABLISHED) + side);
			return TC_ACT_UNSPEC;
		}
	}

	deny = settings->deny_by_default[side];
	class = class_of(&flow, side);
	if (class) {
		key.prefixlen = 48;
		key.class = class;
		key.proto = packet.proto;
		key.port = packet.proto == ICMP ? 0 : packet.dport;
		answer = bpf_map_lookup_elem(&ports, &key);
		if (answer) {
			deny = answer->deny;
			decided_by = answer->rule;
		}
	}
	count(skb, decided_by);
	if (deny) {
		sample(skb, &packet, side, settings->audit, decided_by, now);
		if (!settings->audit)
			return TC_ACT_SHOT;
	}
	/* In audit the replies to what would have been denied are no news: it was counted when it was opened. */
	if (settings->established)
		remember(&flow, known, &packet, side, now);
	return TC_ACT_UNSPEC;
}

SEC("tc")
int net_policy_in(struct __sk_buff *skb)
{
	return police(skb, INGRESS);
}

SEC("tc")
int net_policy_out(struct __sk_buff *skb)
{
	return police(skb, EGRESS);
}
