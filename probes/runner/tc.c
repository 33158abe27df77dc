/* SPDX-License-Identifier: Apache-2.0 */
/* tc filters: clsact, direct action, at one fixed priority and handle, replaced in one step.
 *
 * A filter outlives its holder, so everything here first asks what is there: a filter that runs a program of another
 * name is never touched, and a filter that a newer holder replaced is not removed by the older one.
 */
#define _GNU_SOURCE
#include "bpfrun.h"

#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TC_PRIORITY 0xc0
#define TC_HANDLE 1
#define KERNEL_NAME_MAX (BPF_OBJ_NAME_LEN - 1)

/* Reads PROGRAM=tc:IFNAME:ingress|egress; returns 0 or -EINVAL. */
int parse_tc(const char *text, char *program, size_t size, struct filter *filter)
{
	const char *equals = strchr(text, '='), *last = strrchr(text, ':');
	size_t length;

	*filter = (struct filter){.previous_fd = -1};
	if (!equals || strncmp(equals, "=tc:", 4) || last <= equals + 4 || (size_t)(equals - text) >= size)
		return -EINVAL;
	length = last - (equals + 4);
	if (!length || length >= IFNAMSIZ || (strcmp(last + 1, "ingress") && strcmp(last + 1, "egress")))
		return -EINVAL;
	snprintf(program, size, "%.*s", (int)(equals - text), text);
	snprintf(filter->interface, sizeof(filter->interface), "%.*s", (int)length, equals + 4);
	filter->ingress = last[1] == 'i';
	filter->ifindex = (int)if_nametoindex(filter->interface);
	return 0;
}

static struct bpf_tc_hook hook_of(const struct filter *filter)
{
	return (struct bpf_tc_hook){.sz = sizeof(struct bpf_tc_hook), .ifindex = filter->ifindex,
				    .attach_point = filter->ingress ? BPF_TC_INGRESS : BPF_TC_EGRESS};
}

static struct bpf_tc_hook clsact_of(const struct filter *filter)
{
	return (struct bpf_tc_hook){.sz = sizeof(struct bpf_tc_hook), .ifindex = filter->ifindex,
				    .attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS};
}

/* The id of the program at our place, 0 when nothing is there. Without the qdisc the kernel says EINVAL. */
static int query(const struct filter *filter, uint32_t *id)
{
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = TC_HANDLE, .priority = TC_PRIORITY);
	struct bpf_tc_hook hook = hook_of(filter);
	int error = bpf_tc_query(&hook, &opts);

	*id = error ? 0 : opts.prog_id;
	return error == -ENOENT || error == -EINVAL ? 0 : error;
}

static int put(const struct filter *filter, int fd)
{
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = TC_HANDLE, .priority = TC_PRIORITY, .prog_fd = fd,
		    .flags = BPF_TC_F_REPLACE);
	struct bpf_tc_hook hook = hook_of(filter);

	return bpf_tc_attach(&hook, &opts);
}

static int drop(const struct filter *filter)
{
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = TC_HANDLE, .priority = TC_PRIORITY);
	struct bpf_tc_hook hook = hook_of(filter);

	return bpf_tc_detach(&hook, &opts);
}

static bool runs_program_named(int fd, const char *name)
{
	struct bpf_prog_info info;

	return fd >= 0 && !program_info(fd, &info) && !strncmp(info.name, name, KERNEL_NAME_MAX);
}

/* True when any filter, ours or not, is left on the interface's clsact; also when the kernel cannot be asked. */
static bool has_filters(int ifindex)
{
	static const uint32_t parents[] = {TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS),
					   TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)};
	bool found = false;
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	if (fd < 0)
		return true;
	for (int i = 0; !found && i < 2; i++) {
		struct {
			struct nlmsghdr header;
			struct tcmsg tc;
		} request = {
			{.nlmsg_len = sizeof(request), .nlmsg_type = RTM_GETTFILTER,
			 .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
			{.tcm_family = AF_UNSPEC, .tcm_ifindex = ifindex, .tcm_parent = parents[i]},
		};
		_Alignas(struct nlmsghdr) char buffer[16384];
		bool more = send(fd, &request, sizeof(request), 0) == sizeof(request);

		found = !more;
		while (more) {
			ssize_t got = recv(fd, buffer, sizeof(buffer), 0);
			struct nlmsghdr *message = (struct nlmsghdr *)buffer;

			found = found || got <= 0;
			more = got > 0;
			for (; more && NLMSG_OK(message, got); message = NLMSG_NEXT(message, got)) {
				found = found || message->nlmsg_type == RTM_NEWTFILTER;
				more = message->nlmsg_type != NLMSG_DONE && message->nlmsg_type != NLMSG_ERROR;
			}
		}
	}
	close(fd);
	return found;
}

/* Removes the qdisc with its last filter, if we made it; the note in the pin folder must outlive our first filter. */
static void drop_clsact(const struct filter *filter, const char *pin)
{
	struct bpf_tc_hook hook = clsact_of(filter);
	bool ours = filter->made_clsact;

	if (has_filters(filter->ifindex))
		return;
	if (pin && mark_clsact(pin, filter->interface, false) > 0)
		ours = true;
	if (ours)
		bpf_tc_hook_destroy(&hook);
}

static int refuse(const struct filter *filter, const char *program, int error, const char *what)
{
	return fail(EXIT_REFUSED, "attach", error, program, "tc %s %s: %s: %s", filter->interface,
		    filter->ingress ? "ingress" : "egress", what, strerror(error < 0 ? -error : error));
}

int tc_attach(struct held *held, const char *text)
{
	struct filter *filter = &held->filters[held->filter_count];
	struct bpf_tc_hook hook;
	char name[128];
	uint32_t id;
	struct bpf_prog_info info;
	int error, fd;

	if (held->filter_count == MAX_FILTERS || parse_tc(text, name, sizeof(name), filter))
		return fail(EXIT_USAGE, "attach", EINVAL, NULL, "%s is not PROGRAM=tc:IFNAME:ingress|egress", text);
	filter->program = bpf_object__find_program_by_name(held->object, name);
	fd = filter->program ? bpf_program__fd(filter->program) : -1;
	if (fd < 0 || bpf_program__type(filter->program) != BPF_PROG_TYPE_SCHED_CLS)
		return fail(EXIT_USAGE, "attach", ENOENT, name, "the object has no such tc program");
	if (!filter->ifindex)
		return refuse(filter, name, ENODEV, "no such interface");
	hook = clsact_of(filter);
	error = bpf_tc_hook_create(&hook);
	if (error && error != -EEXIST)
		return refuse(filter, name, error, "clsact cannot be made");
	filter->made_clsact = !error;
	error = query(filter, &id);
	if (!error && id)
		filter->previous_fd = bpf_prog_get_fd_by_id(id);
	held->filter_count++; /* from here on tc_undo() knows of it */
	if (error)
		return refuse(filter, name, error, "cannot be read");
	if (id && !runs_program_named(filter->previous_fd, name)) {
		close(filter->previous_fd);
		held->filter_count--;
		return refuse(filter, name, EEXIST, "another program is in our place");
	}
	error = put(filter, fd);
	if (error)
		return refuse(filter, name, error, "the filter is refused");
	if (program_info(fd, &info) || query(filter, &id) || id != info.id)
		return refuse(filter, name, ENOENT, "the kernel does not name this program there");
	filter->id = info.id;
	if (filter->made_clsact && held->options->pin)
		mark_clsact(held->options->pin, filter->interface, true);
	return 0;
}

void tc_undo(struct held *held)
{
	while (held->filter_count) {
		struct filter *filter = &held->filters[--held->filter_count];

		if (filter->previous_fd >= 0) {
			put(filter, filter->previous_fd);
			close(filter->previous_fd);
		} else {
			drop(filter);
		}
		drop_clsact(filter, held->options->pin);
	}
}

void tc_release(struct held *held)
{
	for (size_t i = 0; i < held->filter_count; i++) {
		struct filter *filter = &held->filters[i];
		uint32_t id;

		if (!query(filter, &id) && id == filter->id)
			drop(filter);
	}
	for (size_t i = 0; i < held->filter_count; i++)
		drop_clsact(&held->filters[i], held->options->pin);
}

int tc_remove(const char *text, const char *pin)
{
	struct filter filter;
	char name[128];
	uint32_t id;
	int error = parse_tc(text, name, sizeof(name), &filter), fd;
	bool ours;

	if (error)
		return error;
	if (!filter.ifindex)
		return 0;
	error = query(&filter, &id);
	if (error)
		return error;
	fd = id ? bpf_prog_get_fd_by_id(id) : -1;
	ours = runs_program_named(fd, name);
	if (fd >= 0)
		close(fd);
	error = ours ? drop(&filter) : 0;
	if (!error)
		drop_clsact(&filter, pin);
	return error ? error : ours;
}

/* Writes the array "filters" of the filters at our place that run one of these programs. */
void tc_describe(const uint32_t *ids, size_t count)
{
	struct if_nameindex *interfaces = if_nameindex();

	json_array("filters");
	for (struct if_nameindex *at = interfaces; at && at->if_index; at++) {
		for (int ingress = 1; ingress >= 0; ingress--) {
			struct filter filter = {.ifindex = (int)at->if_index, .ingress = ingress};
			uint32_t id;

			if (query(&filter, &id) || !id)
				continue;
			for (size_t i = 0; i < count; i++) {
				if (ids[i] != id)
					continue;
				json_object(NULL);
				json_text("interface", at->if_name);
				json_text("direction", ingress ? "ingress" : "egress");
				json_u64("program_id", id);
				json_object_end();
			}
		}
	}
	json_array_end();
	if_freenameindex(interfaces);
}
