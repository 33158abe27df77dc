/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The table as adapter.py packs it, and what the program keeps beside it. Both sides of each struct change together. */
#pragma once

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
