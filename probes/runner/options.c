/* SPDX-License-Identifier: Apache-2.0 */
/* The command line: verbs as a table, options as a table. */
#include "bpfrun.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool list_has(const struct list *list, const char *item)
{
	for (size_t i = 0; i < list->count; i++)
		if (!strcmp(list->items[i], item))
			return true;
	return false;
}

/* Reads exactly size bytes of hexadecimal text; returns 0 or -EINVAL. */
int parse_hex(const char *hex, size_t length, void *out, size_t size)
{
	if (length != 2 * size)
		return -EINVAL;
	for (size_t i = 0; i < size; i++) {
		char byte[3] = {hex[2 * i], hex[2 * i + 1], 0};

		if (!isxdigit((unsigned char)byte[0]) || !isxdigit((unsigned char)byte[1]))
			return -EINVAL;
		((unsigned char *)out)[i] = (unsigned char)strtoul(byte, NULL, 16);
	}
	return 0;
}

static int add(struct list *list, const char *item)
{
	if (list->count == MAX_LIST)
		return fail(EXIT_USAGE, "usage", E2BIG, NULL, "an option is given more than %d times", MAX_LIST);
	list->items[list->count++] = item;
	return 0;
}

/* Fills options from argv. allowed: letters of the options of this verb, '.' for its one argument. */
int parse_options(int argc, char **argv, const char *allowed, struct options *options)
{
	const struct {
		const char *name;
		char letter;
		const char **one;
		struct list *many;
	} rows[] = {
		{"--btf", 'b', &options->btf, NULL},        {"--record", 'r', &options->record, NULL},
		{"--pin", 'p', &options->pin, NULL},        {"--set", 's', NULL, &options->set},
		{"--fill", 'f', NULL, &options->fill},      {"--attach", 'a', NULL, &options->attach},
		{"--optional", 'o', NULL, &options->optional}, {"--ms", 'm', NULL, NULL},
		{"--keep", 'k', NULL, NULL},                {"--carry", 'c', NULL, &options->carry},
		{"--state", 'S', &options->state, NULL},    {"--token", 't', &options->token, NULL},
		{"--build", 'u', &options->build, NULL},    {"--lease", 'l', &options->lease, NULL},
		{"--interval", 'i', &options->interval, NULL}, {"--budget", 'B', &options->budget, NULL},
	};
	const size_t count = sizeof(rows) / sizeof(rows[0]);

	*options = (struct options){.ms = 200};
	for (int i = 0; i < argc; i++) {
		size_t row = 0;

		while (row < count && strcmp(argv[i], rows[row].name))
			row++;
		if (row == count && argv[i][0] != '-' && strchr(allowed, '.') && !options->argument) {
			options->argument = argv[i];
			continue;
		}
		if (row == count || !strchr(allowed, rows[row].letter))
			return fail(EXIT_USAGE, "usage", EINVAL, NULL, "%s is not understood here", argv[i]);
		if (rows[row].letter == 'k') {
			options->keep = true;
			continue;
		}
		if (++i == argc)
			return fail(EXIT_USAGE, "usage", EINVAL, NULL, "%s needs a value", rows[row].name);
		if (rows[row].one) {
			*rows[row].one = argv[i];
		} else if (rows[row].many) {
			int error = add(rows[row].many, argv[i]);

			if (error)
				return error;
		} else {
			char *end;

			options->ms = strtoul(argv[i], &end, 10);
			if (*end || !options->ms || options->ms > 10000)
				return fail(EXIT_USAGE, "usage", EINVAL, NULL, "--ms takes 1 to 10000");
		}
	}
	if (strchr(allowed, '.') && !options->argument)
		return fail(EXIT_USAGE, "usage", EINVAL, NULL, "an argument is missing");
	return 0;
}
