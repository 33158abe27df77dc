/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Counts packets in each direction and drops them when told to. GENERATION makes two builds of it differ. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#define PASS 0
#define DROP 2

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} hits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} dropping SEC(".maps");

static __always_inline int judge(__u32 direction)
{
	__u64 *count = bpf_map_lookup_elem(&hits, &direction);
	__u32 zero = 0;
	__u32 *drop = bpf_map_lookup_elem(&dropping, &zero);

	if (count)
		*count += GENERATION;
	return drop && *drop ? DROP : PASS;
}

SEC("tc")
int gate_in(struct __sk_buff *packet)
{
	return judge(0);
}

SEC("tc")
int gate_out(struct __sk_buff *packet)
{
	return judge(1);
}

SEC("tc")
int stranger(struct __sk_buff *packet)
{
	return PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
