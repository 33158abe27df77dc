/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What the rules ask of a packet. Reads it with helpers only, so it may lie in pieces, and needs no map. */
#pragma once

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
