/* SPDX-License-Identifier: Apache-2.0 */
/* Opens an object, fits it to this kernel and loads it. Attaches nothing. */
#include "bpfrun.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_OBJECT (64 << 20)
#define KERNEL_BTF "/sys/kernel/btf/vmlinux"

uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + now.tv_nsec;
}

/* Before Linux 5.11 maps are charged to RLIMIT_MEMLOCK; what cannot be raised is left, and the map says EPERM. */
void raise_memlock(void)
{
	struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};

	libbpf_set_memlock_rlim(0);
	if (setrlimit(RLIMIT_MEMLOCK, &limit) && !getrlimit(RLIMIT_MEMLOCK, &limit)) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_MEMLOCK, &limit);
	}
}

static int readable_file(const char *path, const char *what)
{
	struct stat status;

	if (stat(path, &status))
		return fail(EXIT_USAGE, "open", errno, NULL, "%s %s: %s", what, path, strerror(errno));
	if (!S_ISREG(status.st_mode) || status.st_size > MAX_OBJECT)
		return fail(EXIT_USAGE, "open", EINVAL, NULL, "%s %s: not a file of at most %d MiB", what, path,
			    MAX_OBJECT >> 20);
	return 0;
}

/* Parses a BTF file by itself, so that a broken one is named and not mistaken for a broken object. */
int open_btf(const char *path, struct btf **out)
{
	int code = readable_file(path, "BTF");

	if (code)
		return code;
	*out = btf__parse(path, NULL);
	if (!*out)
		return fail(EXIT_USAGE, "btf", errno, NULL, "BTF %s cannot be read: %s", path, strerror(errno));
	return 0;
}

static bool is_stream_of(const struct bpf_program *program, const struct bpf_object *object, bool perf)
{
	const char *name = bpf_program__name(program);
	size_t length = strlen(name);
	char other[128];

	if (perf) { /* NAME_perf, when NAME is there as well */
		if (length < 6 || length - 5 >= sizeof(other) || strcmp(name + length - 5, "_perf"))
			return false;
		snprintf(other, sizeof(other), "%.*s", (int)(length - 5), name);
	} else {
		snprintf(other, sizeof(other), "%s_perf", name);
	}
	return bpf_object__find_program_by_name(object, other) != NULL;
}

/* An object may bring its streaming programs in pairs: NAME writes to the ring buffer `events`, NAME_perf to the perf
 * buffer `events_perf`. Ring buffers came with Linux 5.8 and were backported, so the kernel is asked. */
static void choose_transport(struct bpf_object *object)
{
	struct bpf_map *ring = bpf_object__find_map_by_name(object, "events");
	struct bpf_map *perf = bpf_object__find_map_by_name(object, "events_perf");
	struct bpf_program *program;
	bool use_perf, pairs = false;

	bpf_object__for_each_program(program, object)
		pairs = pairs || is_stream_of(program, object, true);
	if (!ring || !perf || !pairs)
		return;
	use_perf = libbpf_probe_bpf_map_type(BPF_MAP_TYPE_RINGBUF, NULL) != 1;
	bpf_map__set_autocreate(use_perf ? ring : perf, false);
	bpf_object__for_each_program(program, object)
		if (is_stream_of(program, object, !use_perf))
			bpf_program__set_autoload(program, false);
}

/* For a type that the kernel's own BTF has not, libbpf goes through the BTF of the modules; where the kernel does not let
 * it (without CAP_SYS_ADMIN), libbpf 1.1 gives up on the object, even if the program only asked whether the type is there.
 * Types that are named by path are looked for in no other place. */
static const char *types_for(const struct options *options)
{
	__u32 id = 0;

	if (options->btf || !bpf_btf_get_next_id(0, &id) || errno != EPERM || access(KERNEL_BTF, R_OK))
		return options->btf;
	return KERNEL_BTF;
}

static int open_object(const struct options *options, const struct list *absent, struct bpf_object **out)
{
	LIBBPF_OPTS(bpf_object_open_opts, opts, .btf_custom_path = types_for(options));
	struct bpf_object *object;

	object = bpf_object__open_file(options->argument, &opts);
	if (!object)
		return fail_captured("open", errno);
	if (!bpf_object__next_program(object, NULL)) {
		bpf_object__close(object);
		return fail(EXIT_USAGE, "open", ENOENT, NULL, "the object has no programs");
	}
	choose_transport(object);
	for (size_t i = 0; i < absent->count; i++)
		bpf_program__set_autoload(bpf_object__find_program_by_name(object, absent->items[i]), false);
	carry_maps(options, object);
	*out = object;
	return 0;
}

static int known_programs(const struct bpf_object *object, const struct list *names)
{
	for (size_t i = 0; i < names->count; i++)
		if (!bpf_object__find_program_by_name(object, names->items[i]))
			return fail(EXIT_USAGE, "open", ENOENT, names->items[i], "the object has no such program");
	return 0;
}

/* Loads the object. An optional program the kernel refuses is left out and the rest is loaded again. */
int load_object(const struct options *options, struct bpf_object **out, uint64_t *took_us)
{
	struct list absent = {.count = 0};
	struct bpf_object *object = NULL;
	struct btf *btf = NULL;
	uint64_t start = now_ns();
	int code = readable_file(options->argument, "object");

	guard_parser(true);
	if (!code && options->btf) {
		code = open_btf(options->btf, &btf);
		btf__free(btf);
	}
	raise_memlock();
	while (!code) {
		size_t refused = 0;
		int error;

		capture_start();
		code = open_object(options, &absent, &object);
		if (code)
			break;
		code = known_programs(object, &options->optional);
		if (code) {
			bpf_object__close(object);
			break;
		}
		error = bpf_object__load(object);
		if (!error) {
			*out = object;
			break;
		}
		bpf_object__close(object);
		while (refused < options->optional.count &&
		       strcmp(options->optional.items[refused], captured_program()))
			refused++;
		if (refused < options->optional.count && !list_has(&absent, options->optional.items[refused]))
			absent.items[absent.count++] = options->optional.items[refused];
		else
			code = fail_captured(captured_stage("load"), error);
	}
	guard_parser(false);
	*took_us = (now_ns() - start) / 1000;
	return code;
}

static void describe_program(const struct bpf_program *program)
{
	const char *type = libbpf_bpf_prog_type_str(bpf_program__type(program));
	int fd = bpf_program__fd(program);
	struct bpf_prog_info info;
	char tag[2 * BPF_TAG_SIZE + 1];

	json_object(NULL);
	json_text("name", bpf_program__name(program));
	json_text("section", bpf_program__section_name(program));
	json_text("type", type ? type : "unknown");
	json_u64("insns", bpf_program__insn_cnt(program));
	json_bool("loaded", fd >= 0);
	if (fd >= 0 && !program_info(fd, &info)) {
		tag_text(&info, tag);
		json_text("tag", tag);
		json_u64("jited_bytes", info.jited_prog_len);
		if (info.verified_insns)
			json_u64("verified_insns", info.verified_insns);
	}
	json_object_end();
}

int verb_verify(const struct options *options)
{
	struct bpf_object *object;
	struct bpf_program *program;
	uint64_t took_us;
	int code = load_object(options, &object, &took_us);

	if (code)
		return code;
	json_begin("verified");
	json_array("programs");
	bpf_object__for_each_program(program, object)
		describe_program(program);
	json_array_end();
	describe_maps(object);
	json_u64("took_us", took_us);
	json_end();
	bpf_object__close(object);
	return EXIT_OK;
}
