/* SPDX-License-Identifier: Apache-2.0 */
/* Attaches every loaded program where its section or an --attach says, and reads back what the kernel holds. */
#define _GNU_SOURCE
#include "bpfrun.h"

#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#define TRACING "/sys/kernel/tracing"
#define DEBUG_TRACING "/sys/kernel/debug/tracing"

static bool holds_tracefs(const char *path)
{
	struct statfs status;

	/* Kernels before 4.1, and RHEL 7, have the files inside debugfs. */
	return !statfs(path, &status) && (status.f_type == TRACEFS_MAGIC || status.f_type == DEBUGFS_MAGIC);
}

/* The category and name of "tracepoint/category/name" or "tp/category/name"; false for another section. */
static bool tracepoint_of(const char *section, char *name, size_t size)
{
	const char *rest = NULL;

	for (size_t i = 0; !rest && i < 2; i++) {
		const char *prefix = i ? "tp/" : "tracepoint/";

		if (!strncmp(section, prefix, strlen(prefix)))
			rest = section + strlen(prefix);
	}
	if (!rest)
		return false;
	snprintf(name, size, "%s", rest);
	return true;
}

static int explain(const struct bpf_program *program, int error)
{
	const char *section = bpf_program__section_name(program), *name = bpf_program__name(program);
	const char *root = holds_tracefs(TRACING) ? TRACING : holds_tracefs(DEBUG_TRACING) ? DEBUG_TRACING : NULL;
	char event[128], path[256];

	if (error == -EOPNOTSUPP || error == -ESRCH)
		return fail(EXIT_REFUSED, "attach", error, name, "%s cannot be attached by its section alone", section);
	if (!tracepoint_of(section, event, sizeof(event)))
		return fail_captured("attach", error);
	if (!root)
		return fail(EXIT_REFUSED, "attach", error, name,
			    "tracefs is not mounted on %s, so tracepoint %s cannot be found", TRACING, event);
	snprintf(path, sizeof(path), "%s/events/%s/id", root, event);
	if (access(path, F_OK) && errno == ENOENT)
		return fail(EXIT_REFUSED, "attach", error, name, "this kernel has no tracepoint %s", event);
	return fail_captured("attach", error);
}

/* Asks the kernel which program sits behind the attachment. 0 = it cannot say, <0 = another program. */
static int read_back(struct attachment *attachment)
{
	int fd = bpf_link__fd(attachment->link);
	struct bpf_link_info link = {0};
	struct bpf_prog_info info;
	__u32 size = sizeof(link), id = 0, type, length;
	__u64 offset, address;
	char name[64];

	length = sizeof(name);
	if (program_info(bpf_program__fd(attachment->program), &info) || !info.id)
		return 0; /* ids came with Linux 4.13 */
	if (!bpf_obj_get_info_by_fd(fd, &link, &size))
		id = link.prog_id;
	else if (bpf_task_fd_query(getpid(), fd, 0, name, &length, &id, &type, &offset, &address))
		return 0;
	attachment->read_back = id == info.id;
	return attachment->read_back ? 0 : -ENOENT;
}

static int attach_program(struct held *held, const struct bpf_program *program)
{
	struct attachment *attachment = &held->attachments[held->attachment_count];
	const char *section = bpf_program__section_name(program);
	struct bpf_link *link;
	int error;

	if (held->attachment_count == MAX_ATTACHMENTS)
		return fail(EXIT_USAGE, "attach", E2BIG, NULL, "more than %d programs", MAX_ATTACHMENTS);
	capture_start();
	link = bpf_program__attach(program);
	error = link ? 0 : -errno;
	if (error && list_has(&held->options->optional, bpf_program__name(program)))
		return 0;
	if (error)
		return explain(program, error);
	*attachment = (struct attachment){.program = program, .link = link};
	snprintf(attachment->where, sizeof(attachment->where), "%s", section);
	for (char *at = attachment->where; *at; at++)
		if (*at == '/')
			*at = ':';
	held->attachment_count++;
	error = read_back(attachment);
	if (error)
		return fail(EXIT_REFUSED, "attach", error, bpf_program__name(program),
			    "the kernel does not name this program at %s", attachment->where);
	return 0;
}

/* Attaches all or nothing; what went before is undone by the caller through detach_all(). */
int attach_all(struct held *held)
{
	struct bpf_program *program;
	int code;

	bpf_object__for_each_program(program, held->object) {
		/* A tc program belongs to an interface, which only --attach can name. */
		if (bpf_program__fd(program) < 0 || bpf_program__type(program) == BPF_PROG_TYPE_SCHED_CLS)
			continue;
		code = attach_program(held, program);
		if (code)
			return code;
	}
	for (size_t i = 0; i < held->options->attach.count; i++) {
		code = tc_attach(held, held->options->attach.items[i]);
		if (code)
			return code;
	}
	return 0;
}

void detach_all(struct held *held)
{
	while (held->attachment_count)
		bpf_link__destroy(held->attachments[--held->attachment_count].link);
}
