/* SPDX-License-Identifier: Apache-2.0 */
/* Reads and writes map entries given as hexadecimal text. */
#define _GNU_SOURCE
#include "bpfrun.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool per_cpu(uint32_t type)
{
	return type == BPF_MAP_TYPE_PERCPU_HASH || type == BPF_MAP_TYPE_PERCPU_ARRAY ||
	       type == BPF_MAP_TYPE_LRU_PERCPU_HASH || type == BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE;
}

static size_t round_up_8(size_t size)
{
	return (size + 7) & ~(size_t)7;
}

/* The value of a per-CPU map is given once and written for every CPU. */
int set_entry(const struct bpf_map *map, const char *key_hex, const char *value_hex)
{
	size_t key_size = bpf_map__key_size(map), value_size = bpf_map__value_size(map);
	size_t copies = per_cpu(bpf_map__type(map)) ? libbpf_num_possible_cpus() : 1;
	size_t stride = copies > 1 ? round_up_8(value_size) : value_size;
	char *key = malloc(key_size), *value = calloc(copies, stride ? stride : 1);
	int error = key && value ? 0 : -ENOMEM;

	if (!error)
		error = parse_hex(key_hex, strlen(key_hex), key, key_size);
	if (!error)
		error = parse_hex(value_hex, strlen(value_hex), value, value_size);
	for (size_t copy = 1; !error && copy < copies; copy++)
		memcpy(value + copy * stride, value, value_size);
	if (!error && bpf_map_update_elem(bpf_map__fd(map), key, value, BPF_ANY))
		error = -errno;
	free(key);
	free(value);
	return error;
}

int delete_entry(const struct bpf_map *map, const char *key_hex)
{
	size_t key_size = bpf_map__key_size(map);
	char *key = malloc(key_size ? key_size : 1);
	int error = key ? parse_hex(key_hex, strlen(key_hex), key, key_size) : -ENOMEM;

	if (!error && bpf_map_delete_elem(bpf_map__fd(map), key))
		error = -errno;
	free(key);
	return error;
}

static struct bpf_map *find_map(const struct held *held, const char *name, size_t length)
{
	char copy[128];
	struct bpf_map *map;

	if (length >= sizeof(copy))
		return NULL;
	memcpy(copy, name, length);
	copy[length] = 0;
	map = bpf_object__find_map_by_name(held->object, copy);
	return map && bpf_map__fd(map) >= 0 ? map : NULL;
}

static int set_from_option(struct held *held, const char *text)
{
	const char *colon = strchr(text, ':'), *equals = colon ? strchr(colon, '=') : NULL;
	struct bpf_map *map;
	char *key;
	int error;

	if (!equals)
		return fail(EXIT_USAGE, "set", EINVAL, NULL, "%s is not MAP:HEXKEY=HEXVALUE", text);
	map = find_map(held, text, colon - text);
	if (!map)
		return fail(EXIT_USAGE, "set", ENOENT, NULL, "the object has no map %.*s", (int)(colon - text), text);
	key = strndup(colon + 1, equals - colon - 1);
	error = key ? set_entry(map, key, equals + 1) : -ENOMEM;
	free(key);
	if (error)
		return fail(error == -EINVAL ? EXIT_USAGE : EXIT_REFUSED, "set", error, NULL,
			    "%s: %s (key %u bytes, value %u bytes)", text, strerror(-error), bpf_map__key_size(map),
			    bpf_map__value_size(map));
	return 0;
}

static int fill_lines(const struct bpf_map *map, FILE *file, const char *path)
{
	char *line = NULL;
	size_t capacity = 0, number = 0;
	int code = 0;

	while (!code && getline(&line, &capacity, file) > 0) {
		char *place, *key = strtok_r(line, " \t\r\n", &place);
		char *value = key ? strtok_r(NULL, " \t\r\n", &place) : NULL;
		int error;

		number++;
		if (!key || *key == '#')
			continue;
		error = value && !strtok_r(NULL, " \t\r\n", &place) ? set_entry(map, key, value) : -EINVAL;
		if (error)
			code = fail(error == -EINVAL ? EXIT_USAGE : EXIT_REFUSED, "fill", error, NULL,
				    "%s line %zu: %s", path, number, strerror(-error));
	}
	free(line);
	return code;
}

static int fill_from_option(struct held *held, const char *text)
{
	const char *equals = strchr(text, '=');
	struct bpf_map *map;
	FILE *file;
	int code;

	if (!equals)
		return fail(EXIT_USAGE, "fill", EINVAL, NULL, "%s is not MAP=FILE", text);
	map = find_map(held, text, equals - text);
	if (!map)
		return fail(EXIT_USAGE, "fill", ENOENT, NULL, "the object has no map %.*s", (int)(equals - text), text);
	file = fopen(equals + 1, "re");
	if (!file)
		return fail(EXIT_USAGE, "fill", errno, NULL, "%s: %s", equals + 1, strerror(errno));
	code = fill_lines(map, file, equals + 1);
	fclose(file);
	return code;
}

/* Carries out --set and --fill, before anything is attached. */
int configure_maps(struct held *held)
{
	int code = 0;

	for (size_t i = 0; !code && i < held->options->set.count; i++)
		code = set_from_option(held, held->options->set.items[i]);
	for (size_t i = 0; !code && i < held->options->fill.count; i++)
		code = fill_from_option(held, held->options->fill.items[i]);
	return code;
}

/* Writes one "map" event with every entry. A map that changes meanwhile ends after twice its capacity. */
int dump_map(int fd, const char *name)
{
	struct bpf_map_info info;
	size_t copies, stride;
	uint64_t left;
	char *key, *value;
	bool more;

	if (map_info(fd, &info))
		return -errno;
	copies = per_cpu(info.type) ? libbpf_num_possible_cpus() : 1;
	stride = copies > 1 ? round_up_8(info.value_size) : info.value_size;
	key = malloc(info.key_size + 1);
	value = malloc(copies * stride + 8);
	if (!key || !value || (bpf_map_get_next_key(fd, NULL, key) && errno != ENOENT)) {
		int error = key && value ? -errno : -ENOMEM;

		free(key);
		free(value);
		return error;
	}
	json_begin("map");
	json_text("map", name);
	json_array("entries");
	more = !bpf_map_get_next_key(fd, NULL, key);
	for (left = 2ull * info.max_entries; more && left; left--) {
		if (!bpf_map_lookup_elem(fd, key, value)) {
			json_array(NULL);
			json_hex(NULL, key, info.key_size);
			json_array(NULL);
			for (size_t copy = 0; copy < copies; copy++)
				json_hex(NULL, value + copy * stride, info.value_size);
			json_array_end();
			json_array_end();
		}
		more = !bpf_map_get_next_key(fd, key, key);
	}
	json_array_end();
	json_end();
	free(key);
	free(value);
	return 0;
}

int verb_dump(const struct options *options)
{
	const char *slash = strrchr(options->argument, '/');
	int fd = bpf_obj_get(options->argument), error;

	if (fd < 0)
		return fail(EXIT_REFUSED, "dump", errno, NULL, "%s: %s", options->argument, strerror(errno));
	error = dump_map(fd, slash ? slash + 1 : options->argument);
	if (error)
		return fail(EXIT_REFUSED, "dump", error, NULL, "%s cannot be read: %s", options->argument,
			    strerror(-error));
	return EXIT_OK;
}
