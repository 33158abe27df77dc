/* SPDX-License-Identifier: Apache-2.0 */
/* How a program hands records to the runner, on kernels with a ring buffer and without.
 *
 * A streaming program is written once, as a function that ends in stream(), and appears in the object twice: NAME gives
 * RING and NAME_perf gives PERF. The runner creates one of the two maps and loads the program that fits it, so an old
 * kernel's verifier never sees what it does not know. No constants in memory: .rodata is refused before Linux 5.2.
 */
#ifndef STREAM_H
#define STREAM_H

#include "kernel_types.h"

#include <bpf/bpf_helpers.h>

#ifndef STREAM_BYTES
#define STREAM_BYTES (1 << 20)
#endif

enum transport { RING, PERF };

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, STREAM_BYTES);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events_perf SEC(".maps");

/* Records the ring buffer had no room for: it keeps no count of its own. The perf buffer does. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} lost SEC(".maps");

/* Room for one record per CPU. It also is what puts the record's struct into the object's BTF, by which it is decoded.
 * A program cannot nest in itself on a CPU: the kernel skips that run and counts it in recursion_misses. */
#define STREAM_RECORD(record_type)                                                                                     \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);                                                               \
		__uint(max_entries, 1);                                                                                \
		__type(key, __u32);                                                                                    \
		__type(value, record_type);                                                                            \
	} scratch SEC(".maps");                                                                                        \
                                                                                                                       \
	static __always_inline record_type *fresh_record(void)                                                         \
	{                                                                                                              \
		__u32 zero = 0;                                                                                        \
		record_type *record = bpf_map_lookup_elem(&scratch, &zero);                                            \
                                                                                                                       \
		if (record)                                                                                            \
			__builtin_memset(record, 0, sizeof(*record));                                                  \
		return record;                                                                                         \
	}

static __always_inline void stream(void *context, enum transport transport, void *record, __u64 size)
{
	__u32 zero = 0;
	__u64 *count;

	if (transport == PERF) {
		bpf_perf_event_output(context, &events_perf, BPF_F_CURRENT_CPU, record, size);
	} else if (bpf_ringbuf_output(&events, record, size, 0)) {
		count = bpf_map_lookup_elem(&lost, &zero);
		if (count)
			*count += 1;
	}
}

#endif
