/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* A program that costs far too much on purpose: every getppid() copies half a megabyte in the kernel. Tests let it loose to
 * see the watchdog stop it. */
#include "scope.h"
#include "stream.h"

#define BULK_BYTES (32 * 1024)

struct burn_record {
	__u64 mono_ns;
	__u32 pid;
	__u32 reserved;
};

STREAM_RECORD(struct burn_record)

struct bulk {
	__u8 bytes[BULK_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct bulk);
} bulk SEC(".maps");

/* An update copies the whole value; four of them are 128 KiB. */
#define COPY bpf_map_update_elem(&bulk, &one, source, BPF_ANY)
#define FOUR_COPIES COPY, COPY, COPY, COPY

static __always_inline int burn_all(void *context, enum transport transport)
{
	struct burn_record *record;
	__u32 zero = 0, one = 1;
	void *source;

	if (!task_in_scope())
		return 0;
	source = bpf_map_lookup_elem(&bulk, &zero);
	record = fresh_record();
	if (!source || !record)
		return 0;
	FOUR_COPIES, FOUR_COPIES, FOUR_COPIES, FOUR_COPIES;
	record->mono_ns = bpf_ktime_get_ns();
	record->pid = bpf_get_current_pid_tgid() >> 32;
	stream(context, transport, record, sizeof(*record));
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_getppid")
int burn(void *context)
{
	return burn_all(context, RING);
}

SEC("tracepoint/syscalls/sys_enter_getppid")
int burn_perf(void *context)
{
	return burn_all(context, PERF);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
