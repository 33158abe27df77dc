/* SPDX-License-Identifier: Apache-2.0 */
/* Kinds of hook for calibration: how to attach an empty program to each, and what to do so that it is hit.
 *
 * The kernel hooks are hit by a system call, so their cost includes the slower entry that tracing system calls switches
 * on: too much rather than too little for hooks elsewhere.
 */
#define _GNU_SOURCE
#include "bpfrun.h"

#include <arpa/inet.h>
#include <linux/perf_event.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

/* The system call's function, by architecture; before Linux 4.17 it had no prefix. */
static const char *const getppid_symbols[] = {"__x64_sys_getppid", "__arm64_sys_getppid", "__s390x_sys_getppid",
					      "__riscv_sys_getppid", "sys_getppid"};
static const size_t symbol_count = sizeof(getppid_symbols) / sizeof(getppid_symbols[0]);

static __attribute__((noinline)) void uprobe_target(void)
{
	__asm__ volatile("" ::: "memory");
}

void hit_getppid(void)
{
	syscall(SYS_getppid);
}

static int packet_socket = -1;

static void hit_packet(void)
{
	char byte = 0;

	if (write(packet_socket, &byte, 1) == 1)
		(void)!read(packet_socket, &byte, 1);
}

static int load_empty(enum bpf_prog_type type, struct bpf_prog_load_opts *opts)
{
	static const struct bpf_insn nothing[] = {
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 0},
		{.code = BPF_JMP | BPF_EXIT},
	};
	int fd = bpf_prog_load(type, "calibrate", "GPL", nothing, 2, opts);

	return fd < 0 ? -errno : fd;
}

static int attach_event(struct hook *hook, struct perf_event_attr *attr)
{
	attr->size = sizeof(*attr);
	hook->event = (int)syscall(SYS_perf_event_open, attr, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
	if (hook->event < 0)
		return -errno;
	if (ioctl(hook->event, PERF_EVENT_IOC_SET_BPF, hook->program) || ioctl(hook->event, PERF_EVENT_IOC_ENABLE, 0))
		return -errno;
	return 0;
}

static long read_number(const char *path)
{
	FILE *file = fopen(path, "re");
	long number = -1;

	if (!file)
		return -1;
	if (fscanf(file, "%ld", &number) != 1)
		number = -1;
	fclose(file);
	return number;
}

static int attach_tracepoint(struct hook *hook)
{
	long id = read_number("/sys/kernel/tracing/events/syscalls/sys_enter_getppid/id");
	struct perf_event_attr attr = {.type = PERF_TYPE_TRACEPOINT, .sample_period = 1, .wakeup_events = 1};

	if (id < 0)
		id = read_number("/sys/kernel/debug/tracing/events/syscalls/sys_enter_getppid/id");
	if (id < 0)
		return -ENOENT;
	attr.config = (__u64)id;
	hook->program = load_empty(BPF_PROG_TYPE_TRACEPOINT, NULL);
	return hook->program < 0 ? hook->program : attach_event(hook, &attr);
}

int attach_raw_tracepoint(struct hook *hook)
{
	hook->program = load_empty(BPF_PROG_TYPE_RAW_TRACEPOINT, NULL);
	if (hook->program < 0)
		return hook->program;
	hook->event = bpf_raw_tracepoint_open("sys_enter", hook->program);
	return hook->event < 0 ? -errno : 0;
}

static int attach_tracing(struct hook *hook, const char *name, enum bpf_attach_type type)
{
	LIBBPF_OPTS(bpf_prog_load_opts, opts, .expected_attach_type = type);
	int id = libbpf_find_vmlinux_btf_id(name, type);

	if (id < 0)
		return id;
	opts.attach_btf_id = (__u32)id;
	hook->program = load_empty(BPF_PROG_TYPE_TRACING, &opts);
	if (hook->program < 0)
		return hook->program;
	hook->event = bpf_raw_tracepoint_open(NULL, hook->program);
	return hook->event < 0 ? -errno : 0;
}

static int attach_tp_btf(struct hook *hook)
{
	return attach_tracing(hook, "sys_enter", BPF_TRACE_RAW_TP);
}

static int attach_fentry(struct hook *hook)
{
	return attach_tracing(hook, "__do_sys_getppid", BPF_TRACE_FENTRY);
}

static int load_kprobe(struct hook *hook)
{
	LIBBPF_OPTS(bpf_prog_load_opts, opts);
	unsigned int major, minor, patch;
	struct utsname name;

	/* Kernels before 5.0 want their version; where uname misstates it, the load fails and the kind is absent. */
	if (!uname(&name) && sscanf(name.release, "%u.%u.%u", &major, &minor, &patch) == 3)
		opts.kern_version = major << 16 | minor << 8 | (patch > 255 ? 255 : patch);
	hook->program = load_empty(BPF_PROG_TYPE_KPROBE, &opts);
	return hook->program < 0 ? hook->program : 0;
}

static int attach_kprobe(struct hook *hook)
{
	long type = read_number("/sys/bus/event_source/devices/kprobe/type");
	int error = type < 0 ? -ENOENT : load_kprobe(hook);

	for (size_t i = 0; !error && i < symbol_count; i++) {
		struct perf_event_attr attr = {.type = (__u32)type, .config1 = (__u64)(uintptr_t)getppid_symbols[i]};

		if (!attach_event(hook, &attr))
			return 0;
	}
	return error ? error : -ENOENT;
}

/* Where an address of ours lies in our own file. */
static uint64_t file_offset(uintptr_t address)
{
	unsigned long start, end, offset;
	uint64_t found = 0;
	char line[512];
	FILE *file = fopen("/proc/self/maps", "re");

	while (file && !found && fgets(line, sizeof(line), file))
		if (sscanf(line, "%lx-%lx %*s %lx", &start, &end, &offset) == 3 && address >= start && address < end)
			found = address - start + offset;
	if (file)
		fclose(file);
	return found;
}

static int attach_uprobe(struct hook *hook)
{
	long type = read_number("/sys/bus/event_source/devices/uprobe/type");
	struct perf_event_attr attr = {.config1 = (__u64)(uintptr_t) "/proc/self/exe"};
	int error = type < 0 ? -ENOENT : load_kprobe(hook);

	attr.type = (__u32)type;
	attr.config2 = file_offset((uintptr_t)uprobe_target);
	return error ? error : attach_event(hook, &attr);
}

/* Packets go round a loopback of our own: nobody else's traffic passes the hook. */
static int own_loopback(void)
{
	struct sockaddr_in self = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
	socklen_t size = sizeof(self);

	if (unshare(CLONE_NEWNET))
		return -errno;
	packet_socket = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (packet_socket < 0 || ioctl(packet_socket, SIOCSIFFLAGS, &request) ||
	    bind(packet_socket, (struct sockaddr *)&self, size) ||
	    getsockname(packet_socket, (struct sockaddr *)&self, &size) ||
	    connect(packet_socket, (struct sockaddr *)&self, size))
		return -errno;
	return 0;
}

static int attach_tc(struct hook *hook)
{
	LIBBPF_OPTS(bpf_tc_hook, place, .attach_point = BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts);
	int error = packet_socket < 0 ? own_loopback() : 0;

	if (error)
		return error;
	hook->program = load_empty(BPF_PROG_TYPE_SCHED_CLS, NULL);
	if (hook->program < 0)
		return hook->program;
	place.ifindex = (int)if_nametoindex("lo");
	opts.prog_fd = hook->program;
	error = bpf_tc_hook_create(&place);
	return error && error != -EEXIST ? error : bpf_tc_attach(&place, &opts);
}

void hook_detach(struct hook *hook)
{
	LIBBPF_OPTS(bpf_tc_hook, place, .attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS);

	if (hook->event >= 0) {
		close(hook->event);
	} else if (packet_socket >= 0) {
		place.ifindex = (int)if_nametoindex("lo");
		bpf_tc_hook_destroy(&place);
	}
	if (hook->program >= 0)
		close(hook->program);
}

/* Each kind is a row. tc is last: it moves this process into a network namespace of its own. */
const struct hook_kind hook_kinds[HOOK_KINDS] = {
	{"raw_tracepoint", attach_raw_tracepoint, hit_getppid}, {"tracepoint", attach_tracepoint, hit_getppid},
	{"tp_btf", attach_tp_btf, hit_getppid},			{"fentry", attach_fentry, hit_getppid},
	{"kprobe", attach_kprobe, hit_getppid},			{"uprobe", attach_uprobe, uprobe_target},
	{"tc", attach_tc, hit_packet},
};
