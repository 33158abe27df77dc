/* SPDX-License-Identifier: Apache-2.0 */
/* What an empty program costs at each kind of hook on this host, beyond what the kernel's own statistics report.
 *
 * Bare and attached slices alternate and the fastest batch of each counts: whatever else the host does only adds time.
 */
#include "bpfrun.h"

#include <string.h>
#include <unistd.h>

#define ROUNDS 5
#define BATCH 16

/* Lowers *best to the fastest batch of a slice, in nanoseconds for each hit. */
static void time_hits(uint64_t slice_ns, void (*hit)(void), double *best)
{
	uint64_t start = now_ns(), last = start, now;

	do {
		double each;

		for (int i = 0; i < BATCH; i++)
			hit();
		now = now_ns();
		each = (double)(now - last) / BATCH;
		if (each < *best)
			*best = each;
		last = now;
	} while (now - start < slice_ns);
}

static double beyond(double bare, double with)
{
	return with > bare ? with - bare : 0;
}

static int measure(const struct hook_kind *kind, uint64_t slice_ns, double *attach_ns)
{
	double bare = 1e18, attached = 1e18;

	for (int round = 0; round < ROUNDS; round++) {
		struct hook hook = {-1, -1};
		int error = kind->attach(&hook);

		if (!error)
			time_hits(slice_ns, kind->hit, &attached);
		hook_detach(&hook);
		if (error)
			return error;
		time_hits(slice_ns, kind->hit, &bare);
	}
	*attach_ns = beyond(bare, attached);
	return 0;
}

/* What an empty program reports of itself, and what it costs to have that reported. Absent before Linux 5.8. */
static int measure_stats(uint64_t slice_ns, double *floor_ns, double *stats_ns)
{
	double bare = 1e18, counted = 1e18;
	struct hook hook = {-1, -1};
	struct bpf_prog_info info;
	int error = attach_raw_tracepoint(&hook);

	for (int round = 0; !error && round < ROUNDS; round++) {
		int stats;

		time_hits(slice_ns, hit_getppid, &bare);
		stats = bpf_enable_stats(BPF_STATS_RUN_TIME);
		if (stats < 0) {
			error = -errno;
			break;
		}
		time_hits(slice_ns, hit_getppid, &counted);
		close(stats);
	}
	if (!error)
		error = program_info(hook.program, &info) || !info.run_cnt ? -ENODATA : 0;
	if (!error) {
		*floor_ns = (double)info.run_time_ns / (double)info.run_cnt;
		*stats_ns = beyond(bare, counted);
	}
	hook_detach(&hook);
	return error;
}

int calibrate_kind(const char *name, uint64_t slice_ns, double *attach_ns)
{
	double measured;
	int error = -ENOENT;

	for (size_t i = 0; i < HOOK_KINDS; i++)
		if (!strcmp(hook_kinds[i].name, name))
			error = measure(&hook_kinds[i], slice_ns, &measured);
	if (!error)
		*attach_ns = measured;
	return error;
}

int calibrate_floor(uint64_t slice_ns, double *floor_ns)
{
	double measured, stats_ns;
	int error = measure_stats(slice_ns, &measured, &stats_ns);

	if (!error)
		*floor_ns = measured;
	return error;
}

int verb_calibrate(const struct options *options)
{
	uint64_t slice_ns = options->ms * 1000000ull / (2 * ROUNDS);
	double floor_ns = 0, stats_ns = 0, attach_ns[HOOK_KINDS];
	int stats_error, errors[HOOK_KINDS];

	raise_memlock();
	stats_error = measure_stats(slice_ns, &floor_ns, &stats_ns);
	for (size_t i = 0; i < HOOK_KINDS; i++)
		errors[i] = measure(&hook_kinds[i], slice_ns, &attach_ns[i]);
	json_begin("calibration");
	if (!stats_error) {
		json_u64("floor_ns", (uint64_t)(floor_ns + 0.5));
		json_u64("stats_ns", (uint64_t)(stats_ns + 0.5));
	}
	json_object("attach_ns");
	for (size_t i = 0; i < HOOK_KINDS; i++)
		if (!errors[i])
			json_u64(hook_kinds[i].name, (uint64_t)(attach_ns[i] + 0.5));
	json_object_end();
	json_array("absent");
	if (stats_error)
		json_text(NULL, "stats");
	for (size_t i = 0; i < HOOK_KINDS; i++)
		if (errors[i])
			json_text(NULL, hook_kinds[i].name);
	json_array_end();
	json_object("errors");
	for (size_t i = 0; i < HOOK_KINDS; i++)
		if (errors[i])
			json_text(hook_kinds[i].name, errno_name(errors[i]));
	json_object_end();
	json_end();
	return EXIT_OK;
}
