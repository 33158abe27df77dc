/* SPDX-License-Identifier: Apache-2.0 */
/* Holds an object: streams its records and answers commands until told to stop or until nobody listens. */
#define _GNU_SOURCE
#include "bpfrun.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define PERF_PAGES 64 /* of each CPU's perf buffer */
#define TICK_MS 1000

static int on_ring_record(void *context, void *data, size_t size)
{
	struct streaming *streaming = context;

	streaming->records++;
	decode_record(&streaming->decoder, data, size);
	return 0;
}

static void on_perf_record(void *context, int cpu, void *data, __u32 size)
{
	(void)cpu;
	on_ring_record(context, data, size);
}

static void report_lost(struct streaming *streaming, uint64_t count)
{
	streaming->lost += count;
	json_begin("lost");
	json_u64("count", count);
	json_end();
}

static void on_perf_lost(void *context, int cpu, __u64 count)
{
	(void)cpu;
	report_lost(context, count);
}

/* A ring buffer does not count what it refused; the program does, in the per-CPU array `lost`. */
static void check_lost(struct streaming *streaming)
{
	struct bpf_map *map = bpf_object__find_map_by_name(streaming->held->object, "lost");
	int cpus = libbpf_num_possible_cpus();
	uint64_t *counts, sum = 0;
	uint32_t zero = 0;

	if (!map || bpf_map__fd(map) < 0 || bpf_map__type(map) != BPF_MAP_TYPE_PERCPU_ARRAY ||
	    bpf_map__value_size(map) != sizeof(*counts) || cpus < 1)
		return;
	counts = calloc(cpus, sizeof(*counts));
	if (counts && !bpf_map_lookup_elem(bpf_map__fd(map), &zero, counts)) {
		for (int cpu = 0; cpu < cpus; cpu++)
			sum += counts[cpu];
		if (sum > streaming->lost_seen)
			report_lost(streaming, sum - streaming->lost_seen);
		streaming->lost_seen = sum;
	}
	free(counts);
}

static int command_fault(const char *command, int error)
{
	fail(0, command, error, NULL, "%s: %s", command, error == -EINVAL ? "not understood" : strerror(-error));
	return 0;
}

static void done(const char *command)
{
	json_begin("done");
	json_text("command", command);
	json_end();
}

static void run_command(struct streaming *streaming, char *line)
{
	struct held *held = streaming->held;
	char *place, *words[5] = {NULL};
	struct bpf_map *map = NULL;
	int error = -EINVAL;

	for (size_t i = 0; i < 5 && (words[i] = strtok_r(i ? NULL : line, " \t\r", &place)); i++)
		;
	if (!words[0])
		return;
	if (words[1])
		map = bpf_object__find_map_by_name(held->object, words[1]);
	if (map && bpf_map__fd(map) < 0)
		map = NULL;
	if (!strcmp(words[0], "quit") && !words[1]) {
		streaming->quit = true;
		return;
	}
	if (!strcmp(words[0], "sample") && !words[1]) {
		check_lost(streaming);
		sample(held);
		return;
	}
	if (!strcmp(words[0], "stats") && words[1] && !words[2]) {
		if (!strcmp(words[1], "on") || !strcmp(words[1], "off"))
			error = stats_switch(held, words[1][1] == 'n');
	} else if (!strcmp(words[0], "dump") && words[1] && !words[2]) {
		error = map ? dump_map(bpf_map__fd(map), words[1]) : -ENOENT;
		if (!error)
			return;
	} else if (!strcmp(words[0], "set") && words[3] && !words[4]) {
		error = map ? set_entry(map, words[2], words[3]) : -ENOENT;
	} else if (!strcmp(words[0], "delete") && words[2] && !words[3]) {
		error = map ? delete_entry(map, words[2]) : -ENOENT;
	}
	if (error)
		command_fault(words[0], error);
	else
		done(words[0]);
}

/* Reads what there is on stdin and runs every whole line; the end of input is the end of us. */
static void read_commands(struct streaming *streaming)
{
	ssize_t got = read(STDIN_FILENO, streaming->line + streaming->line_used,
			   sizeof(streaming->line) - 1 - streaming->line_used);
	char *end;

	if (got <= 0) {
		streaming->quit = got == 0 || (errno != EINTR && errno != EAGAIN);
		return;
	}
	streaming->line_used += got;
	streaming->line[streaming->line_used] = 0;
	while ((end = memchr(streaming->line, '\n', streaming->line_used))) {
		size_t size = end - streaming->line + 1;

		*end = 0;
		run_command(streaming, streaming->line);
		streaming->line_used -= size;
		memmove(streaming->line, end + 1, streaming->line_used);
	}
	if (streaming->line_used == sizeof(streaming->line) - 1) {
		command_fault("command", -E2BIG);
		streaming->line_used = 0;
	}
}

static int open_streams(struct streaming *streaming)
{
	struct bpf_object *object = streaming->held->object;
	struct bpf_map *ring = bpf_object__find_map_by_name(object, "events");
	struct bpf_map *perf = bpf_object__find_map_by_name(object, "events_perf");

	if (ring && bpf_map__fd(ring) >= 0 && bpf_map__type(ring) == BPF_MAP_TYPE_RINGBUF) {
		streaming->ring = ring_buffer__new(bpf_map__fd(ring), on_ring_record, streaming, NULL);
		if (!streaming->ring)
			return fail_captured("stream", errno);
	}
	if (perf && bpf_map__fd(perf) >= 0 && bpf_map__type(perf) == BPF_MAP_TYPE_PERF_EVENT_ARRAY) {
		streaming->perf = perf_buffer__new(bpf_map__fd(perf), PERF_PAGES, on_perf_record, on_perf_lost,
						   streaming, NULL);
		if (!streaming->perf)
			return fail_captured("stream", errno);
	}
	return 0;
}

void stream_consume(struct streaming *streaming)
{
	if (streaming->ring)
		ring_buffer__consume(streaming->ring);
	if (streaming->perf)
		perf_buffer__consume(streaming->perf);
	check_lost(streaming);
}

static void loop(struct streaming *streaming, int signals)
{
	struct pollfd fds[] = {
		{.fd = STDIN_FILENO, .events = POLLIN},
		{.fd = signals, .events = POLLIN},
		{.fd = streaming->ring ? ring_buffer__epoll_fd(streaming->ring) : -1, .events = POLLIN},
		{.fd = streaming->perf ? perf_buffer__epoll_fd(streaming->perf) : -1, .events = POLLIN},
	};
	uint64_t checked = 0;

	while (!streaming->quit && json_flush()) {
		if (poll(fds, 4, TICK_MS) < 0 && errno != EINTR)
			break;
		if (fds[2].revents)
			ring_buffer__consume(streaming->ring);
		/* Not perf_buffer__poll(): asking whether a perf descriptor is ready clears that it is. */
		if (fds[3].revents)
			perf_buffer__consume(streaming->perf);
		if (now_ns() - checked > TICK_MS * 1000000ull) {
			checked = now_ns();
			check_lost(streaming);
		}
		if (fds[0].revents)
			read_commands(streaming);
		if (fds[1].revents)
			streaming->quit = true;
	}
	stream_consume(streaming); /* what was recorded before the end still counts */
}

/* From the start: a stop while attaching waits until all is undone. Returns a descriptor that is readable then. */
int stop_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC);
}

/* Configures, attaches and pins what was loaded, all or nothing. */
int stream_begin(struct streaming *streaming)
{
	struct held *held = streaming->held;
	const char *record = held->options->record;
	int code = 0;

	if (record)
		code = decoder_open(&streaming->decoder, bpf_object__btf(held->object), record);
	if (!code)
		code = configure_maps(held);
	if (!code)
		code = open_streams(streaming);
	if (!code)
		code = pin_prepare(held);
	if (!code)
		code = attach_all(held);
	if (!code)
		code = pin_all(held);
	if (code) {
		detach_all(held);
		tc_undo(held);
		remove_folders(held->options->pin);
		return code;
	}
	return 0;
}

void stream_free(struct streaming *streaming)
{
	stats_switch(streaming->held, false);
	ring_buffer__free(streaming->ring);
	perf_buffer__free(streaming->perf);
	bpf_object__close(streaming->held->object);
}

static int hold(struct streaming *streaming, int signals)
{
	struct held *held = streaming->held;
	int code = stream_begin(streaming);

	if (code)
		return code;
	describe_held(held);
	loop(streaming, signals);
	detach_all(held);
	if (!held->options->keep) {
		tc_release(held);
		unpin_all(held);
	}
	json_begin("bye");
	json_end();
	return EXIT_OK;
}

int verb_hold(const struct options *options)
{
	static struct held held;
	static struct streaming streaming;
	uint64_t took_us;
	int signals = stop_signals(), code;

	held = (struct held){.options = options, .stats_fd = -1};
	streaming.held = &held;
	code = load_object(options, &held.object, &took_us);
	if (code)
		return code;
	code = hold(&streaming, signals);
	stream_free(&streaming);
	return code;
}
