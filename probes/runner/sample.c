/* SPDX-License-Identifier: Apache-2.0 */
/* What the held programs and this process cost, as the kernel counts it. */
#include "bpfrun.h"

#include <time.h>
#include <unistd.h>

/* Statistics are on only while a descriptor is held, so a crash switches them off.
 * Since Linux commit d46edd671a14 ("bpf: Sharing bpf runtime stats with BPF_ENABLE_STATS") (v5.8) */
int stats_switch(struct held *held, bool on)
{
	if (!on && held->stats_fd >= 0) {
		close(held->stats_fd);
		held->stats_fd = -1;
	} else if (on && held->stats_fd < 0) {
		int fd = bpf_enable_stats(BPF_STATS_RUN_TIME);

		if (fd < 0)
			return -errno;
		held->stats_fd = fd;
	}
	return 0;
}

void sample(struct held *held)
{
	struct bpf_program *program;
	struct bpf_map *map;
	struct timespec cpu;

	json_begin("sample");
	json_u64("at_ns", now_ns());
	json_array("programs");
	bpf_object__for_each_program(program, held->object) {
		int fd = bpf_program__fd(program);
		struct bpf_prog_info info;

		if (fd < 0 || program_info(fd, &info))
			continue;
		json_object(NULL);
		json_text("name", bpf_program__name(program));
		json_u64("id", info.id);
		json_u64("run_cnt", info.run_cnt);
		json_u64("run_time_ns", info.run_time_ns);
		json_u64("recursion_misses", info.recursion_misses);
		json_object_end();
	}
	json_array_end();
	json_array("maps");
	bpf_object__for_each_map(map, held->object) {
		if (bpf_map__fd(map) < 0)
			continue;
		json_object(NULL);
		json_text("name", bpf_map__name(map));
		json_u64("memory_bytes", memory_of(bpf_map__fd(map)));
		json_object_end();
	}
	json_array_end();
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
	json_u64("self_cpu_ns", (uint64_t)cpu.tv_sec * 1000000000ull + cpu.tv_nsec);
	json_end();
}
