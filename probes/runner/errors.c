/* SPDX-License-Identifier: Apache-2.0 */
/* Errors as JSON, with the words of libbpf and of the verifier kept beside the errno. */
#define _GNU_SOURCE
#include "bpfrun.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PARSE_SECONDS 120

static struct {
	char words[768]; /* warnings in order, joined */
	char log[LOG_TAIL + 1];
	char program[128];
	const char *stage;
} captured;

const char *errno_name(int error)
{
	const char *name;

	error = error < 0 ? -error : error;
	if (error == 524) /* the kernel's own ENOTSUPP has no name in the C library */
		return "ENOTSUPP";
	name = strerrorname_np(error);
	return name ? name : "EUNKNOWN";
}

static void report(const char *stage, int error, const char *program, const char *message, const char *log)
{
	json_begin("error");
	json_text("stage", stage);
	json_text("errno", errno_name(error));
	if (program && *program)
		json_text("program", program);
	json_text("message", message);
	if (log && *log)
		json_text("log", log);
	json_end();
	json_flush();
}

int fail(int exit_code, const char *stage, int error, const char *program, const char *format, ...)
{
	char message[512];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(message, sizeof(message), format, arguments);
	va_end(arguments);
	report(stage, error, program, message, NULL);
	return exit_code;
}

static void keep_name(const char *line)
{
	const char *start = strstr(line, "prog '");
	const char *end = start ? strchr(start + 6, '\'') : NULL;

	if (end && (size_t)(end - start - 6) < sizeof(captured.program)) {
		memcpy(captured.program, start + 6, end - start - 6);
		captured.program[end - start - 6] = 0;
		captured.stage = "load";
	} else if (strstr(line, "map '")) {
		captured.stage = "map";
	}
}

static void keep_log(const char *text)
{
	const char *begin = strchr(strstr(text, "BEGIN PROG LOAD LOG"), '\n');
	const char *end = begin ? strstr(begin, "-- END PROG LOAD LOG --") : NULL;
	size_t size;

	if (!begin)
		return;
	begin++;
	size = end ? (size_t)(end - begin) : strlen(begin);
	if (size > LOG_TAIL) {
		begin += size - LOG_TAIL;
		size = LOG_TAIL;
	}
	memcpy(captured.log, begin, size);
	captured.log[size] = 0;
}

static void keep_words(char *line)
{
	size_t used = strlen(captured.words);

	line[strcspn(line, "\n")] = 0;
	if (!strncmp(line, "libbpf: ", 8))
		line += 8;
	if (*line && used < sizeof(captured.words) - 3)
		snprintf(captured.words + used, sizeof(captured.words) - used, "%s%s", used ? "; " : "", line);
}

static int on_print(enum libbpf_print_level level, const char *format, va_list arguments)
{
	char *text;

	if (level > LIBBPF_WARN || vasprintf(&text, format, arguments) < 0)
		return 0;
	keep_name(text);
	if (strstr(text, "BEGIN PROG LOAD LOG"))
		keep_log(text);
	else
		keep_words(text);
	free(text);
	return 0;
}

void capture_start(void)
{
	memset(&captured, 0, sizeof(captured));
	libbpf_set_print(on_print);
}

const char *captured_program(void)
{
	return captured.program;
}

const char *captured_stage(const char *otherwise)
{
	return captured.stage ? captured.stage : otherwise;
}

int fail_captured(const char *stage, int error)
{
	const char *message = *captured.words ? captured.words : strerror(error < 0 ? -error : error);

	report(stage, error, captured.program, message, captured.log);
	return strcmp(stage, "open") ? EXIT_REFUSED : EXIT_USAGE;
}

/* Only async-signal-safe calls here: the heap may be broken. */
static void on_crash(int signal_number)
{
	static const char crashed[] = "{\"event\":\"error\",\"stage\":\"open\",\"errno\":\"EINVAL\",\"message\":"
				      "\"the file is malformed: reading it broke the loader\"}\n";
	static const char slow[] = "{\"event\":\"error\",\"stage\":\"open\",\"errno\":\"ETIMEDOUT\",\"message\":"
				   "\"the file is malformed: reading it does not end\"}\n";
	const char *line = signal_number == SIGALRM ? slow : crashed;

	(void)!write(STDOUT_FILENO, line, strlen(line));
	_exit(EXIT_USAGE);
}

void guard_parser(bool on)
{
	static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGALRM};
	static char stack[64 * 1024]; /* a parser that recursed until its stack ended has none left */
	struct sigaction action = {.sa_handler = on ? on_crash : SIG_DFL, .sa_flags = SA_ONSTACK};

	sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = sizeof(stack)}, NULL);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		sigaction(signals[i], &action, NULL);
	alarm(on ? PARSE_SECONDS : 0);
}
