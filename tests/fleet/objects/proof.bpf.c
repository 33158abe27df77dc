/* One small program for each name in tests/fleet/proof_objects.py: chosen by -D, each asks a kernel for one thing more. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define PAI __attribute__((preserve_access_index))

struct task_struct {
	int pid;
	int tgid;
	struct task_struct *group_leader;
} PAI;

struct sock;
struct file;

#if defined(TRACEPOINT)
SEC("tracepoint/sched/sched_process_exec")
int p(void *context)
{
	return 0;
}
#elif defined(TRACEPOINT_MISSING)
SEC("tracepoint/sched/sched_never_was")
int p(void *context)
{
	return 0;
}
#elif defined(SYSCALL)
SEC("tracepoint/syscalls/sys_enter_openat")
int p(void *context)
{
	return 0;
}
#elif defined(RAW_TP)
SEC("raw_tp/sched_process_exec")
int p(void *context)
{
	return 0;
}
#elif defined(TP_BTF)
SEC("tp_btf/sched_process_exec")
int BPF_PROG(p, struct task_struct *task)
{
	return task->pid == 0x7fffffff;
}
#elif defined(FENTRY)
SEC("fentry/tcp_close")
int BPF_PROG(p, struct sock *sock)
{
	return 0;
}
#elif defined(FENTRY_MISSING)
SEC("fentry/tcp_never_was")
int BPF_PROG(p, struct sock *sock)
{
	return 0;
}
#elif defined(KPROBE)
SEC("kprobe/tcp_close")
int p(void *context)
{
	return 0;
}
#elif defined(KPROBE_MULTI)
SEC("kprobe.multi/tcp_close")
int p(void *context)
{
	return 0;
}
#elif defined(ITER)
SEC("iter/task")
int p(void *context)
{
	return 0;
}
#elif defined(SOCKET)
SEC("socket")
int p(void *context)
{
	return 0;
}
#elif defined(XDP)
SEC("xdp")
int p(void *context)
{
	return XDP_PASS;
}
#elif defined(TC)
SEC("tc")
int p(void *context)
{
	return 0;
}
#elif defined(RINGBUF)
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

SEC("raw_tp/sched_process_exec")
int p(void *context)
{
	__u64 *slot = bpf_ringbuf_reserve(&ring, 8, 0);

	if (slot)
		bpf_ringbuf_discard(slot, 0);
	return 0;
}
#elif defined(BLOOM)
struct {
	__uint(type, BPF_MAP_TYPE_BLOOM_FILTER);
	__type(value, __u32);
	__uint(max_entries, 64);
} bloom SEC(".maps");

SEC("raw_tp/sched_process_exec")
int p(void *context)
{
	__u32 value = 7;

	return bpf_map_push_elem(&bloom, &value, 0) == 1;
}
#elif defined(BIG_MAP)
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u64);
	__type(value, __u64);
	__uint(max_entries, 100000);
} big SEC(".maps");

SEC("socket")
int p(void *context)
{
	__u64 key = 1;

	return bpf_map_lookup_elem(&big, &key) != 0;
}
#elif defined(LOOP)
SEC("raw_tp/sched_process_exec")
int p(__u64 *context)
{
	__u64 sum = 0;

#pragma clang loop unroll(disable)
	for (int i = 0; i < 64; i++)
		sum += bpf_get_prandom_u32();
	return sum == 1;
}
#elif defined(NEW_HELPER)
SEC("raw_tp/sched_process_exec")
int p(void *context)
{
	return bpf_ktime_get_tai_ns() == 0;
}
#elif defined(WEAK_KFUNC)
extern int function_of_no_kernel(int) __ksym __weak;

SEC("tc")
int p(void *context)
{
	return function_of_no_kernel ? function_of_no_kernel(1) : 0;
}
#elif defined(GLOBAL)
int seen;

SEC("raw_tp/sched_process_exec")
int p(void *context)
{
	__sync_fetch_and_add(&seen, 1);
	return 0;
}
#elif defined(ATOMICS)
/* Adding that fetches: instruction set v3 in the compiler's words, Linux 5.12 in the kernel's. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} total SEC(".maps");

SEC("raw_tp/sched_process_exec")
int p(void *context)
{
	__u32 key = 0;
	__u64 *count = bpf_map_lookup_elem(&total, &key);

	return count ? __sync_fetch_and_add(count, 1) == 7 : 0;
}
#elif defined(XDP_FRAGS)
SEC("xdp.frags")
int p(void *context)
{
	return XDP_PASS;
}
#elif defined(FENTRY_SLEEPABLE)
SEC("fentry.s/tcp_close")
int BPF_PROG(p, struct sock *sock)
{
	return 0;
}
#elif defined(LSM)
SEC("lsm/file_open")
int BPF_PROG(p, struct file *file)
{
	return 0;
}
#elif defined(TASK_STORAGE)
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u64);
} kept SEC(".maps");

SEC("tp_btf/sched_process_exec")
int BPF_PROG(p, struct task_struct *task)
{
	return bpf_task_storage_get(&kept, task, 0, 1) == 0;
}
#elif defined(LOOP_HELPER)
static long step(__u32 index, void *context)
{
	return 0;
}

SEC("raw_tp/sched_process_exec")
int p(void *context)
{
	return bpf_loop(4, step, 0, 0) == 7;
}
#elif defined(FIELD)
SEC("raw_tp/sched_process_exec")
int p(void *context)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, group_leader, tgid) == -1;
}
#elif defined(FIELD_MISSING)
struct task_struct___odd {
	int never_was;
} PAI;

SEC("raw_tp/sched_process_exec")
int p(void *context)
{
	struct task_struct___odd *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, never_was) == -1;
}
#elif defined(FIELD_GUARDED)
struct task_struct___odd {
	int never_was;
} PAI;

SEC("raw_tp/sched_process_exec")
int p(void *context)
{
	struct task_struct___odd *task = (void *)bpf_get_current_task();

	if (bpf_core_field_exists(task->never_was))
		return BPF_CORE_READ(task, never_was) == -1;
	return 0;
}
#elif defined(RENAMED)
/* `state` became `__state` with 5.14: only old kernels have the first. */
struct task_struct___old {
	long state;
} PAI;

SEC("raw_tp/sched_process_exec")
int p(void *context)
{
	struct task_struct___old *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, state) == -1;
}
#elif defined(STRAY)
/* The verifier's work: a pointer that may be null is followed. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} counts SEC(".maps");

SEC("raw_tp/sched_process_exec")
int p(void *context)
{
	__u32 key = 0;
	__u64 *count = bpf_map_lookup_elem(&counts, &key);

	*count += 1;
	return 0;
}
#endif

char LICENSE[] SEC("license") = "GPL";
