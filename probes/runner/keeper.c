/* SPDX-License-Identifier: Apache-2.0 */
/* The process that holds a kept object: measures it, writes down how it stands, and ends it when it must.
 *
 * Links are not pinned: however this process ends, the kernel detaches. */
#define _GNU_SOURCE
#include "bpfrun.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_RECORDS (4 << 20) /* bytes of records kept, twice */
#define TICK_NS 1000000000ull

static void write_sample(const struct keeper *keeper)
{
	const struct measure *measure = &keeper->measure;

	json_object("sample");
	json_real("at", keeper->measured_at);
	json_real("window_s", measure->window_s);
	json_real("cpu_percent", measure->cpu_percent);
	if (measure->counted)
		json_real("kernel_percent", measure->kernel_percent);
	json_real("user_percent", measure->user_percent);
	if (measure->mean)
		json_real("ns_per_event", measure->ns_per_event);
	json_u64("events", measure->counted ? measure->events : measure->records);
	json_u64("memory_bytes", measure->memory_bytes);
	json_u64("lost", measure->lost);
	json_u64("records", measure->records);
	json_real("loss_percent", measure->loss_percent);
	json_object_end();
}

static void write_watchdog(const struct standing *standing)
{
	static const char *const words[] = {"ok", "warn", "trip"};

	json_object("watchdog");
	json_text("state", words[standing->state]);
	json_u64("strikes", standing->strikes);
	if (standing->budget) {
		json_object("last");
		json_text("budget", standing->budget);
		json_real("limit", standing->limit);
		json_real("seen", standing->seen);
		json_object_end();
	}
	json_object_end();
}

/* Replaces this order's status, one JSON line. */
static int write_status(struct keeper *keeper)
{
	char *text = NULL, name[FOLDER_NAME];
	FILE *out = stdout;
	size_t size;
	int error = -ENOMEM;

	stdout = open_memstream(&text, &size);
	if (stdout) {
		json_begin("status");
		json_text("state", keeper->state);
		json_text("reason", keeper->reason);
		json_text("build", keeper->options->build);
		json_text("boot_id", keeper->boot_id);
		json_u64("token", keeper->token);
		json_real("at", wall_s());
		describe_programs(keeper->streaming->held);
		if (keeper->measured_at > 0)
			write_sample(keeper);
		write_watchdog(&keeper->standing);
		json_end();
		fclose(stdout);
		folder_name("status", keeper->token, name);
		error = text ? folder_write(keeper->options->state, name, text) : -ENOMEM;
		free(text);
	}
	stdout = out;
	return error;
}

/* From here on stdout is the records' file, and the caller's session can end. */
static int take_leave(const char *folder)
{
	char path[FOLDER_PATH];
	int nothing = open("/dev/null", O_RDWR), records;

	folder_path(folder, "records.jsonl", path);
	records = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
	if (nothing < 0 || records < 0)
		return -errno;
	fflush(stdout);
	dup2(nothing, STDIN_FILENO);
	dup2(records, STDOUT_FILENO);
	dup2(nothing, STDERR_FILENO);
	close(nothing);
	close(records);
	return 0;
}

static void bound_records(const char *folder)
{
	char path[FOLDER_PATH], older[FOLDER_PATH];
	struct stat status;
	int fd;

	json_flush(); /* a full disk costs records, never the program */
	clearerr(stdout);
	if (fstat(STDOUT_FILENO, &status) || status.st_size < MAX_RECORDS)
		return;
	folder_path(folder, "records.jsonl", path);
	folder_path(folder, "records.jsonl.1", older);
	rename(path, older);
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
	if (fd >= 0) {
		dup2(fd, STDOUT_FILENO);
		close(fd);
	}
}

static bool lease_over(const char *folder, uint64_t token)
{
	char name[FOLDER_NAME];
	uint64_t until;

	folder_name("lease", token, name);
	until = folder_number(folder, name);

	return until && boot_ns() > until;
}

/* Watches until told to stop, over budget, or out of lease. */
static void watch(struct keeper *keeper, int signals)
{
	struct streaming *streaming = keeper->streaming;
	struct pollfd fds[] = {
		{.fd = signals, .events = POLLIN},
		{.fd = streaming->ring ? ring_buffer__epoll_fd(streaming->ring) : -1, .events = POLLIN},
		{.fd = streaming->perf ? perf_buffer__epoll_fd(streaming->perf) : -1, .events = POLLIN},
	};

	while (!strcmp(keeper->state, "running")) {
		uint64_t now = now_ns(), due = meter_due(&keeper->meter), left = due > now ? due - now : 0;

		poll(fds, 3, (int)((left < TICK_NS ? left : TICK_NS) / 1000000) + 1);
		stream_consume(streaming);
		bound_records(keeper->options->state);
		if (fds[0].revents) {
			keeper->state = "stopped";
		} else if (lease_over(keeper->options->state, keeper->token)) {
			keeper->state = "expired";
			snprintf(keeper->reason, sizeof(keeper->reason), "COR-AGT-021: nobody renewed the lease");
		} else if (meter_tick(&keeper->meter, &keeper->measure)) {
			keeper->measured_at = wall_s();
			judge(&keeper->standing, &keeper->measure, &keeper->budget);
			if (keeper->standing.state == STANDING_TRIP) {
				keeper->state = "tripped";
				snprintf(keeper->reason, sizeof(keeper->reason), "COR-AGT-020: %s %.4g over %.4g",
					 keeper->standing.budget, keeper->standing.seen, keeper->standing.limit);
			} else {
				write_status(keeper);
			}
		}
	}
}

/* The process that holds: answers over `ready` when the programs are attached, and lives on. */
int keeper_main(struct keeper *keeper, int ready)
{
	static struct held held;
	int signals = stop_signals(), code, error;
	uint64_t took_us;

	setsid();
	code = folder_live(keeper->options->state, keeper->token);
	if (code)
		return code;
	held = (struct held){.options = keeper->options, .stats_fd = -1};
	keeper->streaming->held = &held;
	code = load_object(keeper->options, &held.object, &took_us);
	if (!code)
		code = stream_begin(keeper->streaming);
	if (code)
		return code;
	error = write_status(keeper);
	if (error) {
		detach_all(&held);
		return fail(EXIT_UNEXPECTED, "state", error, NULL, "%s cannot be written: %s",
			    keeper->options->state, strerror(-error));
	}
	describe_held(&held);
	json_flush();
	if (take_leave(keeper->options->state) || write(ready, "k", 1) != 1) {
		detach_all(&held);
		return EXIT_UNEXPECTED;
	}
	close(ready);
	meter_begin(&keeper->meter, keeper->streaming, keeper->interval_s);
	watch(keeper, signals);
	detach_all(&held);
	stream_consume(keeper->streaming);
	while (write_status(keeper) && strcmp(keeper->state, "stopped"))
		sleep(1); /* why it ended must not be lost to a full disk */
	stream_free(keeper->streaming);
	return EXIT_OK;
}
