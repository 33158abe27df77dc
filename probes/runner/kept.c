/* SPDX-License-Identifier: Apache-2.0 */
/* Programs that are kept: what stands, read back from the kernel; a longer lease; the end. */
#define _GNU_SOURCE
#include "bpfrun.h"

#include <dirent.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#define MAX_STATUS 65536
#define MAX_NOTES 65536

void boot_id(char *out, size_t size)
{
	folder_read("/proc/sys/kernel/random", "boot_id", out, size);
	out[strcspn(out, "\n")] = 0;
}

/* The GNU build-id of the running kernel as hexadecimal text, or "". */
static void kernel_build_id(char *out, size_t size)
{
	static char notes[MAX_NOTES];
	FILE *file = fopen("/sys/kernel/notes", "re");
	size_t got = file ? fread(notes, 1, sizeof(notes), file) : 0, at = 0;

	if (file)
		fclose(file);
	out[0] = 0;
	while (at + sizeof(Elf64_Nhdr) <= got) {
		Elf64_Nhdr header;
		size_t name, text;

		memcpy(&header, notes + at, sizeof(header));
		name = at + sizeof(header);
		text = name + ((header.n_namesz + 3) & ~3u);
		if (header.n_namesz > got || header.n_descsz > got || text + header.n_descsz > got)
			return;
		if (header.n_type == NT_GNU_BUILD_ID && header.n_namesz == 4 && !memcmp(notes + name, "GNU", 4)) {
			for (size_t i = 0; i < header.n_descsz && 2 * i + 2 < size; i++)
				snprintf(out + 2 * i, 3, "%02x", (unsigned char)notes[text + i]);
			return;
		}
		at = text + ((header.n_descsz + 3) & ~3u);
	}
}

/* Whether the kernel still has every program of a status line, by id and tag. */
static bool in_kernel(const char *status)
{
	const char *at = status;
	int found = 0;

	while ((at = strstr(at, "\"id\":"))) {
		char tag[2 * BPF_TAG_SIZE + 1], wanted[64];
		struct bpf_prog_info info;
		int fd = bpf_prog_get_fd_by_id((__u32)strtoul(at + 5, NULL, 10)), error;

		if (fd < 0)
			return false;
		error = program_info(fd, &info);
		close(fd);
		tag_text(&info, tag);
		snprintf(wanted, sizeof(wanted), "\"tag\":\"%s\"", tag);
		if (error || !strstr(at, wanted))
			return false;
		found++;
		at += 5;
	}
	return found > 0;
}

static void tell(const char *root, const char *program)
{
	static char status[MAX_STATUS];
	char folder[FOLDER_PATH], build[256], name[FOLDER_NAME];
	uint64_t token, holding, until;
	size_t size;
	bool holds;

	snprintf(folder, sizeof(folder), "%s/%s", root, program);
	token = folder_number(folder, "token");
	if (!token)
		return; /* no program's folder */
	holding = folder_number(folder, "holding");
	folder_name("status", holding, name);
	folder_read(folder, name, status, sizeof(status));
	folder_read(folder, "build", build, sizeof(build));
	size = strlen(status);
	if (size && status[size - 1] == '\n') { /* as it was written, one line */
		fputs(status, stdout);
	} else {
		status[0] = 0;
	}
	holds = folder_holder(folder, holding) > 0;
	folder_name("lease", holding, name);
	until = folder_number(folder, name);
	json_begin("standing");
	json_text("program", program);
	json_u64("token", token);
	json_u64("holding", holding);
	json_text_n("build", build, strcspn(build, "\n"));
	json_bool("status", status[0] != 0);
	json_bool("busy", folder_busy(folder));
	json_bool("holder", holds);
	json_bool("alive", holds && in_kernel(status));
	if (until)
		json_real("lease_expires", wall_s() + ((double)until - (double)boot_ns()) / 1e9);
	json_end();
}

int verb_kept(const struct options *options)
{
	char boot[64], build[128];
	struct dirent **entries = NULL;
	struct utsname names;
	int count;

	uname(&names);
	boot_id(boot, sizeof(boot));
	kernel_build_id(build, sizeof(build));
	json_begin("host");
	json_text("boot_id", boot);
	json_text("release", names.release);
	json_text("build_id", build);
	json_real("now", wall_s());
	json_end();
	count = scandir(options->argument, &entries, NULL, alphasort);
	for (int i = 0; i < count; i++) {
		if (entries[i]->d_name[0] != '.')
			tell(options->argument, entries[i]->d_name);
		free(entries[i]);
	}
	free(entries);
	return EXIT_OK;
}

int verb_renew(const struct options *options)
{
	uint64_t holding;
	double lease_s;
	int code, error;

	if (!options->state || !options->lease)
		return fail(EXIT_USAGE, "usage", EINVAL, NULL, "renew needs --state and --lease");
	code = parse_number("--lease", options->lease, 0.1, 3e8, &lease_s);
	if (code)
		return code;
	holding = folder_number(options->state, "holding");
	if (folder_holder(options->state, holding) <= 0)
		return fail(EXIT_REFUSED, "renew", ESRCH, NULL, "nothing is kept in %s", options->state);
	error = set_lease(options->state, holding, lease_s);
	if (error)
		return fail(EXIT_UNEXPECTED, "state", error, NULL, "%s cannot be written", options->state);
	json_begin("renewed");
	json_real("expires", wall_s() + lease_s);
	json_end();
	return EXIT_OK;
}

/* Ends what is kept and leaves the token, which fences older orders, and nothing else. */
int verb_stop(const struct options *options)
{
	static const char *const names[] = {"build", "holding", "records.jsonl", "records.jsonl.1"};
	uint64_t before;
	double token;
	int code, lock;

	if (!options->state || !options->token)
		return fail(EXIT_USAGE, "usage", EINVAL, NULL, "stop needs --state and --token");
	code = parse_number("--token", options->token, 1, 9e15, &token);
	if (!code)
		code = folder_make(options->state);
	if (code)
		return code;
	lock = folder_lock(options->state);
	if (lock < 0)
		return EXIT_UNEXPECTED;
	before = folder_number(options->state, "token");
	if (before > (uint64_t)token) {
		code = fail(EXIT_REFUSED, "token", ESTALE, NULL, "the host obeys token %llu, this order has %llu",
			    (unsigned long long)before, (unsigned long long)token);
	} else if (folder_set_number(options->state, "token", (uint64_t)token)) {
		code = fail(EXIT_UNEXPECTED, "state", errno, NULL, "%s cannot be written", options->state);
	} else if (folder_end_all(options->state, 0)) {
		code = fail(EXIT_UNEXPECTED, "stop", ETIMEDOUT, NULL, "what is kept does not end");
	} else {
		for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
			char path[FOLDER_PATH];

			folder_path(options->state, names[i], path);
			unlink(path);
		}
		json_begin("stopped");
		json_u64("token", (uint64_t)token);
		json_end();
	}
	close(lock);
	return code;
}
