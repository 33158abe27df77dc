/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs that look at pins and undo what a holder kept. */
#include "bpfrun.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MAX_PINNED 256

struct pinned_ids {
	uint32_t ids[MAX_PINNED];
	size_t count;
};

static int show_program(const char *path, const char *name, void *context)
{
	struct pinned_ids *seen = context;
	struct bpf_prog_info info;
	char tag[2 * BPF_TAG_SIZE + 1];
	int fd = bpf_obj_get(path);

	if (fd >= 0 && !program_info(fd, &info)) {
		const char *type = libbpf_bpf_prog_type_str(info.type);

		tag_text(&info, tag);
		json_object(NULL);
		json_text("name", name);
		json_text("type", type ? type : "unknown");
		json_u64("id", info.id);
		json_text("tag", tag);
		json_object_end();
		if (seen->count < MAX_PINNED)
			seen->ids[seen->count++] = info.id;
	}
	if (fd >= 0)
		close(fd);
	return 0;
}

static int show_map(const char *path, const char *name, void *context)
{
	struct bpf_map_info info;
	int fd = bpf_obj_get(path);

	(void)context;
	if (fd >= 0 && !map_info(fd, &info)) {
		const char *type = libbpf_bpf_map_type_str(info.type);

		json_object(NULL);
		json_text("name", name);
		json_text("type", type ? type : "unknown");
		json_u64("id", info.id);
		json_u64("memory_bytes", memory_of(fd));
		json_object_end();
	}
	if (fd >= 0)
		close(fd);
	return 0;
}

int verb_pins(const struct options *options)
{
	static struct pinned_ids seen;

	json_begin("pins");
	json_array("programs");
	each_pin(options->argument, "programs", show_program, &seen);
	json_array_end();
	json_array("maps");
	each_pin(options->argument, "maps", show_map, NULL);
	json_array_end();
	tc_describe(seen.ids, seen.count);
	json_end();
	return EXIT_OK;
}

static int remove_pin(const char *path, const char *name, void *context)
{
	char text[300];

	(void)context;
	if (!unlink(path)) {
		snprintf(text, sizeof(text), "pin:%s", name);
		json_text(NULL, text);
	}
	return 0;
}

/* Goes on after a failure, so that as much as can be is undone, and then says what failed. */
int verb_detach(const struct options *options)
{
	const char *failed = NULL;
	int error = 0;

	json_begin("detached");
	json_array("removed");
	for (size_t i = 0; i < options->attach.count; i++) {
		const char *text = options->attach.items[i];
		int result = tc_remove(text, options->pin);

		if (result > 0)
			json_text(NULL, strchr(text, '=') + 1);
		if (result < 0 && !failed) {
			failed = text;
			error = result;
		}
	}
	for (size_t i = 0; options->pin && i < 2; i++)
		each_pin(options->pin, i ? "maps" : "programs", remove_pin, NULL);
	json_array_end();
	json_end();
	remove_folders(options->pin);
	if (failed)
		return fail(EXIT_REFUSED, "detach", error, NULL, "%s: %s", failed, strerror(-error));
	return EXIT_OK;
}
