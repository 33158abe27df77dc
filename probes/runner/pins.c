/* SPDX-License-Identifier: Apache-2.0 */
/* Pins: DIR/programs/NAME and DIR/maps/NAME on a bpffs, and DIR/clsact/IFNAME where we made the qdisc. */
#define _GNU_SOURCE
#include "bpfrun.h"

#include <dirent.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define FRESH "_fresh" /* pinned beside the old one, then renamed over it; bpffs takes no dots */

static bool join(char *out, size_t size, const char *dir, const char *kind, const char *name, const char *suffix)
{
	int length = snprintf(out, size, "%s/%s%s%s%s", dir, kind, *name ? "/" : "", name, suffix);

	for (char *at = out + strlen(dir); *at; at++)
		if (*at == '.') /* reserved on bpffs */
			*at = '_';
	return length > 0 && (size_t)length < size;
}

/* Notes or forgets that clsact on the interface is ours. Returns 1 when a note was there, else 0 or -errno. */
int mark_clsact(const char *pin, const char *interface, bool add)
{
	char path[512], parent[512];

	if (!join(parent, sizeof(parent), pin, "clsact", "", "") ||
	    !join(path, sizeof(path), pin, "clsact", interface, ""))
		return -ENAMETOOLONG;
	if (add) {
		mkdir(pin, 0700);
		mkdir(parent, 0700);
		return mkdir(path, 0700) ? -errno : 0;
	}
	if (rmdir(path))
		return errno == ENOENT ? 0 : -errno;
	rmdir(parent);
	return 1;
}

/* Calls visit for each entry of DIR/kind; returns what it returned other than 0. */
int each_pin(const char *dir, const char *kind, int (*visit)(const char *path, const char *name, void *context),
	     void *context)
{
	char path[512];
	struct dirent *entry;
	DIR *stream;
	int result = 0;

	if (!join(path, sizeof(path), dir, kind, "", "") || !(stream = opendir(path)))
		return 0;
	while (!result && (entry = readdir(stream))) {
		char full[800];

		if (entry->d_name[0] == '.')
			continue;
		snprintf(full, sizeof(full), "%s/%s", path, entry->d_name);
		result = visit(full, entry->d_name, context);
	}
	closedir(stream);
	return result;
}

static const char *next_pinnable(const struct held *held, const char *kind, void **place, int *fd)
{
	bool programs = *kind == 'p';

	for (;;) {
		*place = programs ? (void *)bpf_object__next_program(held->object, *place)
				  : (void *)bpf_object__next_map(held->object, *place);
		if (!*place)
			return NULL;
		*fd = programs ? bpf_program__fd(*place) : bpf_map__fd(*place);
		if (*fd >= 0)
			return programs ? bpf_program__name(*place) : bpf_map__name(*place);
	}
}

static const char *const kinds[] = {"programs", "maps"};

static int for_all(struct held *held, int (*act)(const char *fresh, const char *path, int fd))
{
	for (size_t i = 0; i < 2; i++) {
		void *place = NULL;
		const char *name;
		int fd;

		while ((name = next_pinnable(held, kinds[i], &place, &fd))) {
			char path[512], fresh[512];
			int error;

			if (!join(path, sizeof(path), held->options->pin, kinds[i], name, "") ||
			    !join(fresh, sizeof(fresh), held->options->pin, kinds[i], name, FRESH))
				return -ENAMETOOLONG;
			error = act(fresh, path, fd);
			if (error)
				return error;
		}
	}
	return 0;
}

static int pin_fresh(const char *fresh, const char *path, int fd)
{
	(void)path;
	unlink(fresh);
	return bpf_obj_pin(fd, fresh) ? -errno : 0;
}

static int rename_fresh(const char *fresh, const char *path, int fd)
{
	(void)fd;
	return rename(fresh, path) ? -errno : 0;
}

static int drop_fresh(const char *fresh, const char *path, int fd)
{
	(void)path;
	(void)fd;
	unlink(fresh);
	return 0;
}

/* The id of what is pinned, of a program or of a map; 0 when it cannot be read. */
static uint32_t id_of(int fd, bool program)
{
	struct bpf_prog_info info;
	struct bpf_map_info map;

	if (program)
		return program_info(fd, &info) ? 0 : info.id;
	return map_info(fd, &map) ? 0 : map.id;
}

static int drop_own(const char *fresh, const char *path, int fd)
{
	bool program = strstr(path, "/programs/") != NULL;
	int pinned = bpf_obj_get(path);

	(void)fresh;
	if (pinned >= 0 && id_of(pinned, program) == id_of(fd, program))
		unlink(path);
	if (pinned >= 0)
		close(pinned);
	return 0;
}

/* Only empty ones go. */
void remove_folders(const char *pin)
{
	char path[512];

	if (!pin)
		return;
	for (size_t i = 0; i < 2; i++)
		if (join(path, sizeof(path), pin, kinds[i], "", ""))
			rmdir(path);
	if (join(path, sizeof(path), pin, "clsact", "", ""))
		rmdir(path);
	rmdir(pin);
}

/* Makes the folders, before anything is attached: a place that cannot be pinned to is refused early. */
int pin_prepare(const struct held *held)
{
	const char *pin = held->options->pin;
	struct statfs status;
	char path[512];
	bool made;

	if (!pin)
		return 0;
	made = !mkdir(pin, 0700);
	if (statfs(pin, &status))
		return fail(EXIT_USAGE, "pin", errno, NULL, "%s: %s", pin, strerror(errno));
	if (status.f_type != BPF_FS_MAGIC) {
		if (made)
			rmdir(pin);
		return fail(EXIT_USAGE, "pin", EINVAL, NULL, "%s is not on a bpffs", pin);
	}
	for (size_t i = 0; i < 2; i++)
		if (join(path, sizeof(path), pin, kinds[i], "", ""))
			mkdir(path, 0700);
	return 0;
}

static int forget_stale(const char *path, const char *name, void *context)
{
	const struct held *held = context;

	for (size_t i = 0; i < 2; i++) {
		const char *known;
		void *place = NULL;
		int fd;

		while ((known = next_pinnable(held, kinds[i], &place, &fd)))
			if (!strcmp(known, name))
				return 0;
	}
	unlink(path); /* of an older generation that had other names */
	return 0;
}

/* Lets the object go on with maps that an older generation pinned, where they are of the same make. */
void carry_maps(const struct options *options, struct bpf_object *object)
{
	for (size_t i = 0; options->pin && i < options->carry.count; i++) {
		const char *name = options->carry.items[i];
		struct bpf_map *map = bpf_object__find_map_by_name(object, name);
		struct bpf_map_info old;
		char path[512];
		int fd;

		if (!map || !join(path, sizeof(path), options->pin, "maps", name, ""))
			continue;
		fd = bpf_obj_get(path);
		if (fd < 0)
			continue;
		if (!map_info(fd, &old) && old.type == bpf_map__type(map) && old.key_size == bpf_map__key_size(map) &&
		    old.value_size == bpf_map__value_size(map) && old.max_entries == bpf_map__max_entries(map) &&
		    old.map_flags == bpf_map__map_flags(map))
			bpf_map__reuse_fd(map, fd);
		close(fd);
	}
}

/* Pins everything beside what is there, then renames it over: a failure leaves the old pins as they were. */
int pin_all(struct held *held)
{
	const char *pin = held->options->pin;
	int error;

	if (!pin)
		return 0;
	error = for_all(held, pin_fresh);
	if (!error)
		error = for_all(held, rename_fresh);
	if (error) {
		for_all(held, drop_fresh);
		return fail(EXIT_REFUSED, "pin", error, NULL, "%s: %s", pin, strerror(-error));
	}
	for (size_t i = 0; i < 2; i++)
		each_pin(pin, kinds[i], forget_stale, held);
	return 0;
}

void unpin_all(struct held *held)
{
	if (!held->options->pin)
		return;
	for_all(held, drop_own);
	remove_folders(held->options->pin);
}
