/* One relocation of every kind, against the types of kernel_a.c as they were in another version. */
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

typedef __u32 u32;
typedef __u64 u64;
enum state { RUNNING, SLEEPING, DEAD };
enum state___later { FROZEN___later = 7, DEAD___later = 1 };
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct inner { int deep; };
union choice { struct { u32 low, high; }; u64 whole; };
struct task {
	int pid;
	u64 narrow;
	int anonymous_field;
	u32 bit_b : 7;
	int sbit : 5;
	char comm[16];
	struct inner nested[4];
	struct task *parent;
	enum state state;
	union choice choice;
	int absent;
	const struct inner *pointed;
	int tail[];
};
struct task___flavour { int flags; int missing; };
struct vanished { int x; };
#pragma clang attribute pop
typedef struct { int a; } pair_t;

char LICENSE[] SEC("license") = "GPL";
u64 out[32] SEC(".data");

SEC("raw_tp/sched_switch") int fields(void *ctx)
{
	struct task *t = *(struct task **)ctx;
	struct task___flavour *f = (void *)t;
	int v;

	out[0] = BPF_CORE_READ(t, pid);
	bpf_core_read(&v, sizeof(v), &t->anonymous_field);
	out[1] = v;
	bpf_core_read(&v, sizeof(v), &t->nested[2].deep);
	out[2] = v;
	out[3] = BPF_CORE_READ(t, parent, parent, pid);
	out[4] = BPF_CORE_READ(t, choice.high);
	out[5] = BPF_CORE_READ(t, pointed, deep);
	bpf_core_read(&v, sizeof(v), &t->tail[3]);
	out[6] = v;
	out[7] = bpf_core_field_exists(t->absent);
	out[8] = bpf_core_field_exists(t->comm);
	if (bpf_core_field_exists(t->absent))
		out[9] = BPF_CORE_READ(t, absent);
	out[10] = bpf_core_field_size(t->comm);
	out[11] = bpf_core_field_size(t->narrow);
	out[12] = BPF_CORE_READ_BITFIELD_PROBED(t, bit_b);
	out[13] = BPF_CORE_READ_BITFIELD_PROBED(t, sbit);
	out[14] = bpf_core_field_exists(f->missing);
	bpf_core_read(&v, sizeof(v), &f->flags);
	out[15] = v;
	bpf_core_read(&v, sizeof(v), &t[2].state);
	out[16] = v;
	return 0;
}

SEC("raw_tp/sched_switch") int types(void *ctx)
{
	out[0] = bpf_core_type_exists(struct task);
	out[1] = bpf_core_type_exists(struct vanished);
	out[2] = bpf_core_type_size(struct task);
	out[3] = bpf_core_type_size(struct vanished);
	out[4] = bpf_core_type_id_local(struct task);
	out[5] = bpf_core_type_id_kernel(struct task);
	out[6] = bpf_core_type_id_kernel(struct vanished);
	out[7] = bpf_core_type_exists(pair_t);
	out[8] = bpf_core_type_size(pair_t);
	return 0;
}

SEC("raw_tp/sched_switch") int values(void *ctx)
{
	out[0] = bpf_core_enum_value(enum state, SLEEPING);
	out[1] = bpf_core_enum_value(enum state, DEAD);
	out[2] = bpf_core_enum_value_exists(enum state___later, FROZEN___later);
	out[3] = bpf_core_enum_value_exists(enum state___later, DEAD___later);
	if (bpf_core_enum_value_exists(enum state___later, FROZEN___later))
		out[5] = bpf_core_enum_value(enum state___later, FROZEN___later);
	return 0;
}

SEC("raw_tp/sched_switch") int unguarded(void *ctx)
{
	struct task *t = *(struct task **)ctx;

	out[0] = BPF_CORE_READ(t, absent);
	return 0;
}

SEC("tp_btf/sched_switch") int direct(u64 *ctx)
{
	struct task *t = (void *)ctx[1];

	out[0] = t->pid;
	out[1] = t->narrow; /* u64 here, u32 there: the load is narrowed */
	out[2] = t->choice.whole;
	return 0;
}
