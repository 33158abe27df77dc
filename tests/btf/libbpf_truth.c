/* What libbpf itself makes of objects on one BTF, told line by line: its own words, and the instructions it leaves.
 *
 *   libbpf_truth [--kernel] [--all] [--code] [--quiet] [--kconfig=TEXT] [--module=FILE]... BTF|- OBJECT...
 *
 * Relocation is libbpf's work and needs no kernel, so bpf() is answered here: whatever is asked for is granted, and no
 * verifier, privilege or feature of the running kernel is in the way. --kernel lets the calls through instead. --all
 * also loads the programs an object marks as optional, --code prints the instructions, --quiet leaves out libbpf's
 * words, --kconfig gives options of a kernel that come before the running one's. "-" is the running kernel's BTF.
 * With modules, BTF stands for the running kernel's and they for its modules': libbpf asks no module beside BTF that it
 * was told to use.
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

#define MODULES 8
#define VMLINUX "/sys/kernel/btf/vmlinux"
static const char *vmlinux;
static struct { char *data; size_t size; int fd; } modules[MODULES];
static int module_count;

static void add_module(const char *path)
{
	FILE *file = fopen(path, "rb");
	long size;

	if (!file || module_count == MODULES || fseek(file, 0, SEEK_END) || (size = ftell(file)) <= 0)
		exit(2);
	rewind(file);
	modules[module_count].data = malloc(size);
	modules[module_count].size = fread(modules[module_count].data, 1, size, file);
	modules[module_count++].fd = -1;
	fclose(file);
}

/* What the kernel says of a module's BTF: its name, and as many of its bytes as there is room for. */
static void tell_module(int i, struct bpf_btf_info *info)
{
	if (info->btf && info->btf_size)
		memcpy((void *)(long)info->btf, modules[i].data,
		       info->btf_size < modules[i].size ? info->btf_size : modules[i].size);
	info->btf_size = modules[i].size;
	info->kernel_btf = 1;
	info->id = i + 1;
	if (info->name && info->name_len)
		snprintf((char *)(long)info->name, info->name_len, "module%d", i);
}

static long granted(long command, union bpf_attr *attr)
{
	switch (command) {
	case BPF_MAP_CREATE:
	case BPF_PROG_LOAD:
	case BPF_BTF_LOAD:
		return open("/dev/null", O_RDWR | O_CLOEXEC);
	case BPF_BTF_GET_NEXT_ID:
		if ((int)attr->start_id < module_count) {
			attr->next_id = attr->start_id + 1;
			return 0;
		}
		errno = ENOENT;
		return -1;
	case BPF_BTF_GET_FD_BY_ID:
		return modules[attr->btf_id - 1].fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	case BPF_OBJ_GET_INFO_BY_FD:
		for (int i = 0; i < module_count; i++)
			if (modules[i].fd == (int)attr->info.bpf_fd) {
				tell_module(i, (void *)(long)attr->info.info);
				return 0;
			}
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

static FILE *opened(const char *name, const char *path, const char *mode)
{
	FILE *(*next)(const char *, const char *) = dlsym(RTLD_NEXT, name);

	return next(vmlinux && !strcmp(path, VMLINUX) ? vmlinux : path, mode);
}

FILE *fopen(const char *path, const char *mode)
{
	return opened("fopen", path, mode);
}

FILE *fopen64(const char *path, const char *mode)
{
	return opened("fopen64", path, mode);
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
		if (!strncmp(words[i], "--module=", 9))
			add_module(words[i] + 9);
	}
	if (i >= count)
		return 2;
	vmlinux = module_count ? words[i] : NULL;
	options.btf_custom_path = strcmp(words[i], "-") && !module_count ? words[i] : NULL;
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
