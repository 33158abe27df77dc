/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel says about programs and maps. Old kernels fill less of the structs: what is missing stays 0. */
#include "bpfrun.h"

#include <stdio.h>
#include <string.h>

int program_info(int fd, struct bpf_prog_info *info)
{
	__u32 size = sizeof(*info);

	memset(info, 0, sizeof(*info));
	return bpf_obj_get_info_by_fd(fd, info, &size);
}

int map_info(int fd, struct bpf_map_info *info)
{
	__u32 size = sizeof(*info);

	memset(info, 0, sizeof(*info));
	return bpf_obj_get_info_by_fd(fd, info, &size);
}

/* The kernel's own account of a program's or map's memory; 0 where fdinfo does not say. */
uint64_t memory_of(int fd)
{
	unsigned long long bytes = 0;
	char path[64], line[128];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	file = fopen(path, "re");
	if (!file)
		return 0;
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "memlock: %llu", &bytes) == 1)
			break;
	fclose(file);
	return bytes;
}

void tag_text(const struct bpf_prog_info *info, char out[2 * BPF_TAG_SIZE + 1])
{
	for (int i = 0; i < BPF_TAG_SIZE; i++)
		snprintf(out + 2 * i, 3, "%02x", info->tag[i]);
}

/* Writes the array "maps" of the maps that exist in the kernel. */
void describe_maps(const struct bpf_object *object)
{
	struct bpf_map *map;

	json_array("maps");
	bpf_object__for_each_map(map, object) {
		const char *type = libbpf_bpf_map_type_str(bpf_map__type(map));
		int fd = bpf_map__fd(map);
		struct bpf_map_info info;

		if (fd < 0)
			continue;
		json_object(NULL);
		json_text("name", bpf_map__name(map));
		json_text("type", type ? type : "unknown");
		json_u64("key_size", bpf_map__key_size(map));
		json_u64("value_size", bpf_map__value_size(map));
		json_u64("max_entries", bpf_map__max_entries(map));
		json_u64("memory_bytes", memory_of(fd));
		if (!map_info(fd, &info))
			json_u64("id", info.id);
		json_object_end();
	}
	json_array_end();
}

/* Writes the array "programs": what is loaded and where the kernel holds it. */
void describe_programs(const struct held *held)
{
	struct bpf_program *program;

	json_array("programs");
	bpf_object__for_each_program(program, held->object) {
		const char *type = libbpf_bpf_prog_type_str(bpf_program__type(program));
		int fd = bpf_program__fd(program);
		struct bpf_prog_info info;
		char tag[2 * BPF_TAG_SIZE + 1];

		if (fd < 0)
			continue;
		json_object(NULL);
		json_text("name", bpf_program__name(program));
		json_text("type", type ? type : "unknown");
		if (!program_info(fd, &info)) {
			tag_text(&info, tag);
			json_u64("id", info.id);
			json_text("tag", tag);
		}
		json_array("attached");
		for (size_t i = 0; i < held->attachment_count; i++)
			if (held->attachments[i].program == program)
				json_text(NULL, held->attachments[i].where);
		for (size_t i = 0; i < held->filter_count; i++) {
			char where[96];

			snprintf(where, sizeof(where), "tc:%s:%s", held->filters[i].interface,
				 held->filters[i].ingress ? "ingress" : "egress");
			if (held->filters[i].program == program)
				json_text(NULL, where);
		}
		json_array_end();
		json_object_end();
	}
	json_array_end();
}

/* Writes the event "ready". */
void describe_held(const struct held *held)
{
	json_begin("ready");
	describe_programs(held);
	describe_maps(held->object);
	json_end();
}
