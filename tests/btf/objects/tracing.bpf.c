/* Programs of several sections against real kernels: flavours, guards, subprograms, maps, an optional program. */
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

typedef __u32 u32;
typedef __u64 u64;
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct ns_common { u32 inum; };
struct net { struct ns_common ns; };
struct nsproxy { struct net *net_ns; };
struct task_struct {
	int pid, tgid;
	unsigned int __state;
	struct nsproxy *nsproxy;
	struct task_struct *real_parent;
	char comm[16];
	u64 start_boottime;
};
struct task_struct___old { long state; u64 real_start_time; } __attribute__((preserve_access_index));
struct trace_event_raw_sched_process_exec { u32 __data_loc_filename; int pid, old_pid; };
struct kernfs_node___union { union { u64 id; } id; };
#pragma clang attribute pop
enum bpf_func_id___x { BPF_FUNC_get_current_cgroup_id___x = 1, BPF_FUNC_never_was___x = 2 };

char LICENSE[] SEC("license") = "Dual MIT/GPL";

struct event { u64 start; u32 pid, netns; char comm[16]; };

struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 1 << 16); } events SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_COMMON_LRU);
	__type(key, u32);
	__type(value, struct event);
} starts SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 4);
	__uint(key_size, sizeof(u32));
	__array(values, struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 2); __type(key, u32); __type(value, u64); });
} outer SEC(".maps");

static __attribute__((noinline)) u32 netns_of(struct task_struct *task)
{
	return BPF_CORE_READ(task, nsproxy, net_ns, ns.inum);
}

__attribute__((noinline)) int fill(struct event *event)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	if (!event)
		return 1;
	event->netns = netns_of(task);
	if (bpf_core_field_exists(task->start_boottime))
		event->start = BPF_CORE_READ(task, start_boottime);
	else
		event->start = BPF_CORE_READ((struct task_struct___old *)task, real_start_time);
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	return 0;
}

SEC("tracepoint/sched/sched_process_exec") int on_exec(struct trace_event_raw_sched_process_exec *ctx)
{
	struct event event = { .pid = ctx->pid };

	fill(&event);
	bpf_map_update_elem(&starts, &event.pid, &event, BPF_ANY);
	return 0;
}

SEC("raw_tp/sched_process_exit") int on_exit(u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	u32 pid = BPF_CORE_READ(task, pid);
	long state;

	if (bpf_core_field_exists(task->__state))
		state = BPF_CORE_READ(task, __state);
	else
		state = BPF_CORE_READ((struct task_struct___old *)task, state);
	if (state > 1 && bpf_core_enum_value_exists(enum bpf_func_id___x, BPF_FUNC_get_current_cgroup_id___x))
		pid = 0;
	if (bpf_core_enum_value_exists(enum bpf_func_id___x, BPF_FUNC_never_was___x))
		pid = 1;
	bpf_map_delete_elem(&starts, &pid);
	return 0;
}

SEC("?fentry/no_such_function") int never(u64 *ctx)
{
	struct kernfs_node___union *node = (void *)ctx[0];

	return BPF_CORE_READ(node, id.id) & 1;
}
