/* SPDX-License-Identifier: Apache-2.0 */
/* What holding an object costs, window by window, and whether that is within its budget. The arithmetic and the rules
 * are those of the agent (probes/agent/cost.py, watchdog.py): this is for hosts where only the runner can live. */
#include "bpfrun.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MIN_EVENTS 500 /* a mean over fewer runs is mostly cold caches */
#define DUTY_NS 1000000000ull
#define SLICE_NS 10000000ull
#define CALM 0.7
#define RECENT 5
#define OF_RECENT 3

static const struct hook_of {
	enum bpf_prog_type type;
	const char *kind;
	double otherwise_ns; /* where this host cannot tell */
} hooks_of[] = {
	{BPF_PROG_TYPE_TRACEPOINT, "tracepoint", 40}, {BPF_PROG_TYPE_RAW_TRACEPOINT, "raw_tracepoint", 25},
	{BPF_PROG_TYPE_TRACING, "tp_btf", 40},        {BPF_PROG_TYPE_KPROBE, "kprobe", 150},
	{BPF_PROG_TYPE_SCHED_CLS, "tc", 30},
};

int parse_budget(const char *text, struct budget *budget)
{
	const struct {
		const char *name;
		double *value;
	} rows[] = {{"cpu_percent", &budget->cpu_percent},
		    {"ns_per_event", &budget->ns_per_event},
		    {"memory_mib", &budget->memory_mib},
		    {"loss_percent", &budget->loss_percent},
		    {"strikes", &budget->strikes}};

	*budget = (struct budget){1e9, 1e9, 1e9, 100, 2};
	while (text && *text) {
		size_t row = 0, length = strcspn(text, "=");
		char *end;

		while (row < 5 && (strlen(rows[row].name) != length || strncmp(rows[row].name, text, length)))
			row++;
		if (row == 5 || text[length] != '=')
			return fail(EXIT_USAGE, "usage", EINVAL, NULL, "--budget takes NAME=NUMBER,...: %.64s", text);
		*rows[row].value = strtod(text + length + 1, &end);
		if ((*end && *end != ',') || !(*rows[row].value >= 0))
			return fail(EXIT_USAGE, "usage", EINVAL, NULL, "--budget takes NAME=NUMBER,...: %.64s", text);
		text = *end ? end + 1 : end;
	}
	return 0;
}

static uint64_t own_cpu_ns(void)
{
	struct timespec cpu;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
	return (uint64_t)cpu.tv_sec * 1000000000ull + cpu.tv_nsec;
}

static uint64_t own_memory(void)
{
	unsigned long long kib = 0;
	char line[128];
	FILE *file = fopen("/proc/self/status", "re");

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "RssAnon: %llu", &kib) == 1 || sscanf(line, "VmRSS: %llu", &kib) == 1)
			if (line[0] == 'R')
				break;
	if (file)
		fclose(file);
	return kib * 1024;
}

static double attach_ns_of(struct meter *meter, enum bpf_prog_type type)
{
	for (size_t i = 0; i < sizeof(hooks_of) / sizeof(hooks_of[0]); i++)
		if (hooks_of[i].type == type)
			return meter->attach_ns[i];
	return 150;
}

static void count_runs(struct meter *meter, struct runs *runs)
{
	struct bpf_program *program;
	size_t at = 0;

	bpf_object__for_each_program(program, meter->streaming->held->object) {
		struct bpf_prog_info info = {0};

		if (at < MAX_ATTACHMENTS && bpf_program__fd(program) >= 0 && !program_info(bpf_program__fd(program), &info))
			runs->each[at] = (struct run){info.run_cnt, info.run_time_ns};
		at++;
	}
	runs->at_ns = now_ns();
}

/* Calibrates the kinds of hook that the held programs sit at: what attaching costs differs between hosts. */
void meter_begin(struct meter *meter, struct streaming *streaming, double interval_s)
{
	struct bpf_program *program;

	*meter = (struct meter){.streaming = streaming, .interval_ns = interval_s * 1e9, .floor_ns = 30};
	calibrate_floor(SLICE_NS, &meter->floor_ns);
	for (size_t i = 0; i < sizeof(hooks_of) / sizeof(hooks_of[0]); i++) {
		bool used = false;

		bpf_object__for_each_program(program, streaming->held->object)
			used |= bpf_program__fd(program) >= 0 && bpf_program__type(program) == hooks_of[i].type;
		meter->attach_ns[i] = hooks_of[i].otherwise_ns;
		if (used)
			calibrate_kind(hooks_of[i].kind, SLICE_NS, &meter->attach_ns[i]);
	}
	meter->since_ns = now_ns();
	meter->cpu_ns = own_cpu_ns();
}

uint64_t meter_due(const struct meter *meter)
{
	uint64_t duty = DUTY_NS < meter->interval_ns / 2 ? DUTY_NS : meter->interval_ns / 2;

	return meter->since_ns + meter->interval_ns - (meter->counting || meter->uncounted ? 0 : duty);
}

static void kernel_cost(struct meter *meter, struct measure *measure)
{
	struct bpf_program *program;
	struct runs after = {0};
	double cost = 0, events = 0, window;
	size_t at = 0;

	count_runs(meter, &after);
	window = (double)(after.at_ns - meter->before.at_ns);
	bpf_object__for_each_program(program, meter->streaming->held->object) {
		struct run *first = &meter->before.each[at], *last = &after.each[at];
		double runs = at < MAX_ATTACHMENTS ? (double)(last->count - first->count) : 0, reported;

		at++;
		if (runs <= 0)
			continue;
		reported = (double)(last->time_ns - first->time_ns) / runs;
		events += runs;
		cost += runs * (attach_ns_of(meter, bpf_program__type(program)) +
				(reported > meter->floor_ns ? reported - meter->floor_ns : 0));
	}
	measure->counted = window > 0;
	measure->kernel_percent = window > 0 ? 100 * cost / window : 0;
	measure->mean = events >= MIN_EVENTS;
	measure->ns_per_event = events > 0 ? cost / events : 0;
	measure->events = window > 0 ? events * measure->window_s * 1e9 / window : 0;
}

/* True when a window is over, which *measure then describes. */
bool meter_tick(struct meter *meter, struct measure *measure)
{
	struct streaming *streaming = meter->streaming;
	uint64_t now = now_ns(), cpu = own_cpu_ns();
	struct bpf_map *map;
	double seen;

	if (now < meter_due(meter))
		return false;
	if (!meter->counting && !meter->uncounted) { /* statistics cost, too: they are on for the end of a window */
		meter->uncounted = stats_switch(streaming->held, true) != 0;
		meter->counting = !meter->uncounted;
		count_runs(meter, &meter->before);
		return false;
	}
	*measure = (struct measure){.window_s = (double)(now - meter->since_ns) / 1e9};
	if (meter->counting)
		kernel_cost(meter, measure);
	stats_switch(streaming->held, false);
	measure->user_percent = 100.0 * (double)(cpu - meter->cpu_ns) / (double)(now - meter->since_ns);
	measure->cpu_percent = measure->user_percent + measure->kernel_percent;
	measure->memory_bytes = own_memory();
	bpf_object__for_each_map(map, streaming->held->object)
		if (bpf_map__fd(map) >= 0)
			measure->memory_bytes += memory_of(bpf_map__fd(map));
	measure->records = streaming->records;
	measure->lost = streaming->lost;
	seen = (double)(measure->records + measure->lost);
	measure->loss_percent = seen > 0 ? 100.0 * (double)measure->lost / seen : 0;
	streaming->records = streaming->lost = 0;
	meter->counting = meter->uncounted = false;
	meter->since_ns = now;
	meter->cpu_ns = cpu;
	return true;
}

/* Judges one more window: one breach warns, enough in a row or three of five trip, too much memory trips at once. */
void judge(struct standing *standing, const struct measure *measure, const struct budget *budget)
{
	const struct {
		const char *name;
		double seen, limit;
		bool known, hard;
	} rows[] = {
		{"memory_mib", (double)measure->memory_bytes / (1 << 20), budget->memory_mib, true, true},
		{"cpu_percent", measure->cpu_percent, budget->cpu_percent, true, false},
		{"ns_per_event", measure->ns_per_event, budget->ns_per_event, measure->mean, false},
		{"loss_percent", measure->loss_percent, budget->loss_percent, true, false},
	};
	bool breached = false, hard = false, calm = true;
	unsigned recent = 0;

	for (size_t i = 4; i-- > 0;) { /* the first row that is over is the one that is told */
		if (rows[i].known && !rows[i].hard && rows[i].seen > CALM * rows[i].limit)
			calm = false;
		if (!rows[i].known || rows[i].seen <= rows[i].limit)
			continue;
		breached = true;
		hard |= rows[i].hard;
		standing->budget = rows[i].name;
		standing->limit = rows[i].limit;
		standing->seen = rows[i].seen;
	}
	standing->recent = (standing->recent << 1 | breached) & ((1 << RECENT) - 1);
	for (unsigned bits = standing->recent; bits; bits >>= 1)
		recent += bits & 1;
	if (!breached) {
		if (standing->state == STANDING_OK || calm) {
			standing->state = STANDING_OK;
			standing->strikes = 0;
		}
		return;
	}
	standing->strikes++;
	standing->state = hard || standing->strikes >= budget->strikes ||
					  (recent >= OF_RECENT && recent >= budget->strikes)
				  ? STANDING_TRIP
				  : STANDING_WARN;
}
