/* SPDX-License-Identifier: Apache-2.0 */
/* Finds the verb and runs it. */
#include "bpfrun.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

static int verb_version(const struct options *options)
{
	char version[32];

	(void)options;
	snprintf(version, sizeof(version), "%s", libbpf_version_string());
	json_begin("version");
	json_text("bpfrun", BPFRUN_VERSION);
	json_text("libbpf", version[0] == 'v' ? version + 1 : version);
	json_end();
	return EXIT_OK;
}

static const struct verb {
	const char *name, *allowed, *usage;
	int (*run)(const struct options *options);
} verbs[] = {
	{"version", "", "", verb_version},
	{"verify", ".bo", "OBJECT [--btf FILE] [--optional PROGRAM]...", verb_verify},
	{"hold", ".brsfaopkc",
	 "OBJECT [--btf FILE] [--record STRUCT] [--set MAP:HEXKEY=HEXVALUE]... [--fill MAP=FILE]...\n"
	 "         [--attach PROGRAM=tc:IFNAME:ingress|egress]... [--optional PROGRAM]... [--pin DIR] [--keep]\n"
	 "         [--carry MAP]...",
	 verb_hold},
	{"pins", ".", "DIR", verb_pins},
	{"dump", ".", "PINNED_MAP", verb_dump},
	{"detach", "pa", "[--pin DIR] [--attach PROGRAM=tc:IFNAME:ingress|egress]...", verb_detach},
	{"calibrate", "m", "[--ms N]", verb_calibrate},
	{"keep", ".brsoStuliB",
	 "OBJECT --state DIR --token N --build NAME [--lease S] [--interval S] [--budget NAME=NUMBER,...]\n"
	 "         [--btf FILE] [--record STRUCT] [--set MAP:HEXKEY=HEXVALUE]... [--optional PROGRAM]...",
	 verb_keep},
	{"kept", ".", "ROOT", verb_kept},
	{"renew", "Sl", "--state DIR --lease S", verb_renew},
	{"stop", "St", "--state DIR --token N", verb_stop},
};

int main(int argc, char **argv)
{
	struct options options;

	signal(SIGPIPE, SIG_IGN); /* a reader that went away shows as a failed write */
	capture_start();
	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
		int code;

		if (argc < 2 || strcmp(argv[1], verbs[i].name))
			continue;
		code = parse_options(argc - 2, argv + 2, verbs[i].allowed, &options);
		if (!code)
			code = verbs[i].run(&options);
		if (!json_flush() && code == EXIT_OK)
			code = EXIT_UNEXPECTED;
		return code;
	}
	fputs("usage:\n", stderr);
	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
		fprintf(stderr, "  bpfrun %s %s\n", verbs[i].name, verbs[i].usage);
	return EXIT_USAGE;
}
