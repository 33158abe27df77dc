/* SPDX-License-Identifier: Apache-2.0 */
/* Keeps an object with nobody beside it: fenced by a token, measured against its budget, ended by its lease.
 *
 * For hosts that have no Python, so no agent. The caller waits until the programs are attached and gets the answer; a
 * process of its own (keeper.c) then holds them. What ran before goes on until the new one stands. */
#define _GNU_SOURCE
#include "bpfrun.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

int parse_number(const char *option, const char *text, double least, double most, double *out)
{
	char *end;

	*out = text ? strtod(text, &end) : 0;
	if (text && (end == text || *end || !(*out >= least && *out <= most)))
		return fail(EXIT_USAGE, "usage", EINVAL, NULL, "%s takes a number from %g to %g", option, least, most);
	return 0;
}

/* Whether exactly this order is what is held; `token` fences, `holding` is the order whose programs stand. */
static bool stands(const struct options *options, uint64_t token)
{
	char build[256];

	if (folder_number(options->state, "holding") != token)
		return false;
	folder_read(options->state, "build", build, sizeof(build));
	build[strcspn(build, "\n")] = 0;
	return !strcmp(build, options->build) && folder_holder(options->state, token) > 0;
}

int set_lease(const char *folder, uint64_t token, double lease_s)
{
	char name[FOLDER_NAME];

	folder_name("lease", token, name);
	return folder_set_number(folder, name, lease_s > 0 ? boot_ns() + (uint64_t)(lease_s * 1e9) : 0);
}

/* Under the folder's lock: fences, starts the keeper, and ends what it replaces. */
static int replace(struct keeper *keeper, double lease_s, int lock)
{
	const struct options *options = keeper->options;
	uint64_t before = folder_number(options->state, "token");
	int channel[2], code = EXIT_UNEXPECTED, status, error;
	char answer = 0;
	pid_t child;

	if (before > keeper->token)
		return fail(EXIT_REFUSED, "token", ESTALE, NULL, "the host obeys token %llu, this order has %llu",
			    (unsigned long long)before, (unsigned long long)keeper->token);
	if (before == keeper->token && stands(options, before)) {
		json_begin("kept");
		json_bool("already", true);
		json_end();
		return EXIT_OK;
	}
	error = folder_set_number(options->state, "token", keeper->token);
	if (!error)
		error = set_lease(options->state, keeper->token, lease_s);
	if (error || pipe2(channel, O_CLOEXEC))
		return fail(EXIT_UNEXPECTED, "state", error ? error : errno, NULL, "%s cannot be written", options->state);
	if (before == keeper->token) { /* the same order again: its keeper is gone, was never ready, or is of another build */
		uint64_t holding = folder_number(options->state, "holding");

		error = folder_end_all(options->state, holding == before ? 0 : holding);
		if (error)
			return fail(EXIT_UNEXPECTED, "stop", error, NULL, "what ran before does not end");
	}
	json_flush();
	child = fork();
	if (!child) {
		close(lock);
		close(channel[0]);
		status = keeper_main(keeper, channel[1]);
		json_flush();
		_exit(status);
	}
	close(channel[1]);
	if (child > 0 && read(channel[0], &answer, 1) == 1 && answer == 'k') {
		code = EXIT_OK;
		folder_write(options->state, "build", options->build);
		folder_set_number(options->state, "holding", keeper->token);
		if (folder_end_all(options->state, keeper->token))
			code = fail(EXIT_UNEXPECTED, "stop", ETIMEDOUT, NULL, "what ran before does not end");
	} else if (child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status)) {
		code = WEXITSTATUS(status);
	}
	close(channel[0]);
	return code;
}

int verb_keep(const struct options *options)
{
	static struct streaming streaming;
	static struct keeper keeper;
	double lease_s = 0, token = 0;
	int code, lock;

	keeper = (struct keeper){.options = options, .streaming = &streaming, .state = "running", .interval_s = 5};
	if (!options->state || !options->token || !options->build)
		return fail(EXIT_USAGE, "usage", EINVAL, NULL, "keep needs --state, --token and --build");
	code = parse_budget(options->budget, &keeper.budget);
	if (!code)
		code = parse_number("--token", options->token, 1, 9e15, &token);
	if (!code)
		code = parse_number("--lease", options->lease, 0, 3e8, &lease_s);
	if (!code && options->interval)
		code = parse_number("--interval", options->interval, 0.2, 3600, &keeper.interval_s);
	if (!code)
		code = folder_make(options->state);
	if (code)
		return code;
	keeper.token = (uint64_t)token;
	boot_id(keeper.boot_id, sizeof(keeper.boot_id));
	lock = folder_lock(options->state);
	if (lock < 0)
		return EXIT_UNEXPECTED;
	code = replace(&keeper, lease_s, lock);
	close(lock);
	return code;
}
