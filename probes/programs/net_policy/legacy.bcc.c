/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Generated from core.bpf.c by tools/bcc_twin.py: change that one. BCC compiles this with the host's kernel headers. */
#include <uapi/linux/bpf.h>
#include <uapi/linux/pkt_cls.h>

#define MAP(kind, flags, name, key, value, size) BPF_F_TABLE(kind, key, value, name, size, flags)
#define ARRAY "array"
#define PERCPU_ARRAY "percpu_array"
#define PERCPU_HASH "percpu_hash"
#define LRU_HASH "lru_hash"
#define LPM_TRIE "lpm_trie"

BPF_PERF_OUTPUT(events_perf);

/* What the rules ask of a packet. Reads it with helpers only, so it may lie in pieces, and needs no map. */

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define NET16(x) ((__u16)((((x) & 0xff) << 8) | (((x) >> 8) & 0xff)))
#else
#define NET16(x) ((__u16)(x))
#endif
#define INLINE static inline __attribute__((always_inline))

#define ETHERNET 14
#define V4 0x0800
#define V6 0x86dd
#define NEXT_HOP 0 /* next-header values of IPv6 extensions */
#define NEXT_ROUTING 43
#define NEXT_FRAGMENT 44
#define NEXT_OPTIONS 60
#define ICMP 1 /* stands for both ICMPs */
#define ICMP6 58
#define TCP 6
#define UDP 17
#define SCTP 132
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04

struct packet {
	__u32 source[4];
	__u32 destination[4];
	__u32 id;      /* of the datagram, when it is in fragments */
	__u32 payload; /* where TCP, UDP, … begin */
	__u16 sport;
	__u16 dport;
	__u8 family;
	__u8 proto;
	__u8 tcp_flags;
	__u8 first;  /* the first of several fragments */
	__u8 later;  /* one that follows: has no ports of its own */
	__u8 error;  /* an ICMP error: carries the packet that it is about */
	__u8 always; /* neighbour discovery and the like: passes, whatever the rules */
};

/* Returns 0 for a packet that is not ours to judge. What IP itself will refuse may pass. */
INLINE int read_v4(struct __sk_buff *skb, struct packet *packet)
{
	__u8 head[20];
	__u16 offset;

	if (bpf_skb_load_bytes(skb, ETHERNET, head, sizeof(head)) || (head[0] & 0x0f) < 5)
		return 0;
	offset = (__u16)(head[6] << 8 | head[7]);
	packet->family = 4;
	packet->proto = head[9];
	packet->id = (__u32)(head[4] << 8 | head[5]);
	packet->later = (offset & 0x1fff) != 0;
	packet->first = !packet->later && (offset & 0x2000);
	packet->payload = ETHERNET + (head[0] & 0x0f) * 4;
	__builtin_memcpy(packet->source, head + 12, 4);
	__builtin_memcpy(packet->destination, head + 16, 4);
	return 1;
}

INLINE int read_v6(struct __sk_buff *skb, struct packet *packet)
{
	__u8 head[40], next[8];

	if (bpf_skb_load_bytes(skb, ETHERNET, head, sizeof(head)))
		return 0;
	packet->family = 6;
	packet->proto = head[6];
	packet->payload = ETHERNET + sizeof(head);
	__builtin_memcpy(packet->source, head + 8, 16);
	__builtin_memcpy(packet->destination, head + 24, 16);
	/* A longer chain of extensions keeps the number of the last one: only rules for any protocol speak of it. */
#pragma unroll
	for (int depth = 0; depth < 4; depth++) {
		if (packet->later ||
		    (packet->proto != NEXT_HOP && packet->proto != NEXT_ROUTING && packet->proto != NEXT_FRAGMENT &&
		     packet->proto != NEXT_OPTIONS))
			break;
		if (bpf_skb_load_bytes(skb, packet->payload, next, sizeof(next)))
			return 0;
		if (packet->proto == NEXT_FRAGMENT) {
			packet->later = next[2] || (next[3] & 0xf8);
			packet->first = !packet->later && (next[3] & 1);
			__builtin_memcpy(&packet->id, next + 4, 4);
			packet->payload += 8;
		} else {
			packet->payload += (next[1] + 1) * 8;
		}
		packet->proto = next[0];
	}
	return 1;
}

INLINE void read_icmp(struct __sk_buff *skb, struct packet *packet)
{
	__u8 head[8], type;

	if (bpf_skb_load_bytes(skb, packet->payload, head, sizeof(head)))
		return;
	type = head[0];
	if (packet->family == 4) {
		packet->error = type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
		if (type != 0 && type != 8)
			return;
	} else {
		packet->error = type >= 1 && type <= 4;
		/* Multicast listeners and neighbours: without them IPv6 does not work at all, as IPv4 without ARP. */
		packet->always = (type >= 130 && type <= 137) || type == 143;
		if (type != 128 && type != 129)
			return;
	}
	/* The identifier is the port of the one who asks, so that a question is never taken for an answer. */
	if (type == 8 || type == 128)
		__builtin_memcpy(&packet->sport, head + 4, 2);
	else
		__builtin_memcpy(&packet->dport, head + 4, 2);
}

INLINE void read_ports(struct __sk_buff *skb, struct packet *packet)
{
	__u16 both[2];

	if (packet->proto == (packet->family == 4 ? ICMP : ICMP6)) {
		packet->proto = ICMP;
		if (!packet->later)
			read_icmp(skb, packet);
		return;
	}
	if (packet->proto == ICMP) /* IPv4's number in IPv6 means nothing */
		packet->proto = 255;
	if (packet->later)
		return;
	if (packet->proto != TCP && packet->proto != UDP && packet->proto != SCTP)
		return;
	if (bpf_skb_load_bytes(skb, packet->payload, both, sizeof(both)))
		return;
	packet->sport = both[0];
	packet->dport = both[1];
	if (packet->proto == TCP && bpf_skb_load_bytes(skb, packet->payload + 13, &packet->tcp_flags, 1))
		packet->tcp_flags = 0;
}

/* The table as adapter.py packs it, and what the program keeps beside it. Both sides of each struct change together. */

enum { INGRESS, EGRESS, PROTECTED }; /* sides, as adapter.py numbers them */

/* Counters are by rule; these, plus the direction, count what no rule decided. */
#define NO_RULE 0x80000000
enum { BY_DEFAULT = 0, ESTABLISHED = 2, BY_PROTECTION = 4 };

struct settings {
	__u8 audit;
	__u8 established;
	__u8 deny_by_default[2];
	__u16 protected_port; /* network order, as all ports here; 0 = none */
	__u16 zero;
};

struct network_key {
	__u32 prefixlen;
	__u8 side;
	__u8 family; /* 4 or 6 */
	__u16 zero;
	__u32 address[4];
};

struct port_key {
	__u32 prefixlen;
	__u16 class;
	__u8 zero;
	__u8 proto;
	__u16 port;
	__u16 padding;
};

struct answer {
	__u32 rule;
	__u32 deny;
};

struct counter {
	__u64 packets;
	__u64 bytes;
};

/* A conversation, written the same way for packets of both directions. */
struct flow {
	__u32 local[4];
	__u32 remote[4];
	__u16 local_port;
	__u16 remote_port;
	__u8 proto;
	__u8 family;
	__u16 zero;
};

struct conversation {
	__u64 expires;
	__u8 opener; /* the direction of its first packet */
	__u8 closing;
	__u8 zero[6];
};

/* What a datagram's first fragment says for those that follow. */
struct fragment_key {
	__u32 local[4];
	__u32 remote[4];
	__u32 id;
	__u8 proto;
	__u8 side;
	__u8 family;
	__u8 zero;
};

struct fragment {
	__u16 sport;
	__u16 dport;
	__u8 proto;
	__u8 zero[3];
};

struct net_policy_event {
	__u64 mono_ns;
	__u32 rule;
	__u8 side;
	__u8 audit;
	__u8 family;
	__u8 proto;
	__u8 saddr[16];
	__u8 daddr[16];
	__u16 sport; /* host order */
	__u16 dport;
	__u32 zero;
};

struct sampler {
	__u64 second;
	__u64 taken;
	struct net_policy_event event;
};

MAP(ARRAY, 0, policy_settings, __u32, struct settings, 1);
MAP(LPM_TRIE, BPF_F_NO_PREALLOC, networks, struct network_key, __u32, 65536);
MAP(LPM_TRIE, BPF_F_NO_PREALLOC, ports, struct port_key, struct answer, 65536);
MAP(PERCPU_HASH, 0, counters, __u32, struct counter, 4096);
MAP(LRU_HASH, 0, conversations, struct flow, struct conversation, 65536);
MAP(LRU_HASH, 0, fragments, struct fragment_key, struct fragment, 1024);
MAP(PERCPU_ARRAY, 0, samplers, __u32, struct sampler, 1);


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
		fragments.update(&key, &fresh);
		return;
	}
	seen = fragments.lookup(&key);
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
	conversation = conversations.lookup(&flow);
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
	conversations.update(flow, &fresh);
}

INLINE void count(struct __sk_buff *skb, __u32 decided_by)
{
	struct counter *counter = counters.lookup(&decided_by);

	if (counter) {
		counter->packets += 1;
		counter->bytes += skb->len - ETHERNET;
	}
}

INLINE void sample(struct __sk_buff *skb, const struct packet *packet, int side, int audit, __u32 rule, __u64 now)
{
	__u32 zero = 0;
	struct sampler *sampler = samplers.lookup(&zero);
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
	events_perf.perf_submit(skb, event, sizeof(*event));
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
	class = networks.lookup(&key);
	return class ? *class : 0;
}

INLINE int police(struct __sk_buff *skb, int side)
{
	__u32 zero = 0, class, decided_by = (NO_RULE | BY_DEFAULT) + side;
	struct settings *settings = policy_settings.lookup(&zero);
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
		known = conversations.lookup(&flow);
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
		answer = ports.lookup(&key);
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

int net_policy_in(struct __sk_buff *skb)
{
	return police(skb, INGRESS);
}

int net_policy_out(struct __sk_buff *skb)
{
	return police(skb, EGRESS);
}
