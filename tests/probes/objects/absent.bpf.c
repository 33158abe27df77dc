/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Asks whether the kernel has a type that no kernel has, and is content with the answer. */
#include "stream.h"

#include <bpf/bpf_core_read.h>

struct type_of_no_kernel {
	int field;
};

SEC("raw_tracepoint/sys_enter")
int asks(void *context)
{
	return bpf_core_type_exists(struct type_of_no_kernel);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
