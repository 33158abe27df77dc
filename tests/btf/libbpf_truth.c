/* What libbpf itself makes of objects on one BTF, told line by line: its own words, and the instructions it leaves.
 *
 *   libbpf_truth [--kernel] [--all] [--code] [--quiet] [--kconfig=TEXT] BTF|- OBJECT...
 *
 * Relocation is libbpf's work and needs no kernel, so bpf() is answered here: whatever is asked for is granted, and no
 * verifier, privilege or feature of the running kernel is in the way. --kernel lets the calls through instead. --all
 * also loads the programs an object marks as optional, --code prints the instructions, --quiet leaves out libbpf's
 * words, --kconfig gives options of a kernel that come before the running one's. "-" is the running kernel's BTF.
 */
#define _GNU_SOURCE
#include <bpf/libbpf.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int through; /* to the running kernel */

static long granted(long command, union bpf_attr *attr)
{
	switch (command) {
	case BPF_MAP_CREATE:
	case BPF_PROG_LOAD:
	case BPF_BTF_LOAD:
		return open("/dev/null", O_RDWR | O_CLOEXEC);
	case BPF_BTF_GET_NEXT_ID:
	case BPF_MAP_GET_NEXT_ID:
		errno = ENOENT; /* no modules */
		return -1;
	case BPF_OBJ_GET_INFO_BY_FD:
		memset((void *)(long)attr->info.info, 0, attr->info.info_len);
		return 0;
	default:
		return 0;
	}
}

/* Stands before the C library's for libbpf, too. */
long syscall(long number, ...)
{
	static long (*next)(long, ...);
	va_list list;
	long a[6];
	int i;

	va_start(list, number);
	for (i = 0; i < 6; i++)
		a[i] = va_arg(list, long);
	va_end(list);
	if (number == SYS_bpf && !through)
		return granted(a[0], (union bpf_attr *)a[1]);
	if (!next)
		next = dlsym(RTLD_NEXT, "syscall");
	return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static int narrate(enum libbpf_print_level level, const char *format, va_list list)
{
	static char text[1 << 16];
	char *line, *rest = text;

	vsnprintf(text, sizeof(text), format, list);
	while ((line = strsep(&rest, "\n")))
		if (*line && (level != LIBBPF_DEBUG || through || strstr(line, "CO-RE") || strstr(line, "prog '")))
			printf("log %s\n", line);
	return 0;
}

static void tell_code(struct bpf_object *object)
{
	struct bpf_program *program;
	size_t i, size;

	bpf_object__for_each_program(program, object) {
		const unsigned char *code = (const unsigned char *)bpf_program__insns(program);

		printf("code %s ", bpf_program__name(program));
		for (size = 8 * bpf_program__insn_cnt(program), i = 0; i < size; i++)
			printf("%02x", code[i]);
		printf("\n");
	}
}

int main(int count, char **words)
{
	LIBBPF_OPTS(bpf_object_open_opts, options);
	int all = 0, code = 0, quiet = 0, i = 1;

	for (; i < count && !strncmp(words[i], "--", 2); i++) {
		through |= !strcmp(words[i], "--kernel");
		all |= !strcmp(words[i], "--all");
		code |= !strcmp(words[i], "--code");
		quiet |= !strcmp(words[i], "--quiet");
		if (!strncmp(words[i], "--kconfig=", 10))
			options.kconfig = words[i] + 10;
	}
	if (i >= count)
		return 2;
	options.btf_custom_path = strcmp(words[i], "-") ? words[i] : NULL;
	libbpf_set_print(quiet ? NULL : narrate);
	printf("libbpf %s\n", libbpf_version_string());
	while (++i < count) {
		struct bpf_object *object;
		struct bpf_program *program;

		printf("object %s\n", words[i]);
		fflush(stdout); /* it may be the last word */
		object = bpf_object__open_file(words[i], &options);
		if (!object) {
			printf("unopened %d\n", -errno);
			continue;
		}
		if (all)
			bpf_object__for_each_program(program, object)
				bpf_program__set_autoload(program, true);
		printf("loaded %d\n", bpf_object__load(object));
		if (code)
			tell_code(object);
		bpf_object__close(object);
		fflush(stdout);
	}
	return 0;
}
