/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* One program any kernel takes, and one that no verifier does: it reads through a pointer that may be null. */
#include "stream.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u64);
} table SEC(".maps");

SEC("raw_tracepoint/sys_enter")
int sound(void *context)
{
	return 0;
}

SEC("raw_tracepoint/sys_enter")
int unsound(void *context)
{
	__u32 key = 1;
	__u64 *value = bpf_map_lookup_elem(&table, &key);

	return *value;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
