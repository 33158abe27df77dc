/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* A record for every getppid() of one process, into a buffer that is soon full. TRANSPORT is RING or PERF. */
#define STREAM_BYTES 4096
#include "scope.h"
#include "stream.h"

struct storm_record {
	__u64 number;
	__u8 bulk[248];
};

STREAM_RECORD(struct storm_record)

SEC("tracepoint/syscalls/sys_enter_getppid")
int storm(void *context)
{
	struct storm_record *record = fresh_record();
	__u32 zero = 0;
	struct scope *scope = bpf_map_lookup_elem(&config, &zero);

	if (!record || !scope || scope->netns != bpf_get_current_pid_tgid() >> 32)
		return 0;
	record->number = ++scope->cgroup;
	stream(context, TRANSPORT, record, sizeof(*record));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
