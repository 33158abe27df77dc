/* SPDX-License-Identifier: Apache-2.0 */
/* Writes JSON lines. Text from kernels and objects is hostile: what is not valid UTF-8 becomes U+FFFD. */
#include "bpfrun.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static bool comma;

static void put(const char *text)
{
	fputs(text, stdout);
}

/* Returns the length of a valid UTF-8 sequence at text, or 0. */
static size_t utf8_length(const unsigned char *text, size_t left)
{
	static const struct {
		unsigned char first, last, low, high; /* lead bytes, and the bounds of the second byte */
		size_t length;
	} rows[] = {
		{0x20, 0x7e, 0, 0, 1},          {0xc2, 0xdf, 0x80, 0xbf, 2},    {0xe0, 0xe0, 0xa0, 0xbf, 3},
		{0xe1, 0xec, 0x80, 0xbf, 3},    {0xed, 0xed, 0x80, 0x9f, 3},    {0xee, 0xef, 0x80, 0xbf, 3},
		{0xf0, 0xf0, 0x90, 0xbf, 4},    {0xf1, 0xf3, 0x80, 0xbf, 4},    {0xf4, 0xf4, 0x80, 0x8f, 4},
	};

	for (size_t row = 0; row < sizeof(rows) / sizeof(rows[0]); row++) {
		if (text[0] < rows[row].first || text[0] > rows[row].last)
			continue;
		if (left < rows[row].length)
			return 0;
		if (rows[row].length > 1 && (text[1] < rows[row].low || text[1] > rows[row].high))
			return 0;
		for (size_t i = 2; i < rows[row].length; i++)
			if ((text[i] & 0xc0) != 0x80)
				return 0;
		return rows[row].length;
	}
	return 0;
}

static void put_string(const char *text, size_t size)
{
	const unsigned char *at = (const unsigned char *)text;

	putchar('"');
	for (size_t i = 0; i < size;) {
		size_t length = utf8_length(at + i, size - i);

		if (at[i] == '"' || at[i] == '\\') {
			printf("\\%c", at[i++]);
		} else if (length) {
			fwrite(at + i, 1, length, stdout);
			i += length;
		} else if (at[i] == '\n') {
			put("\\n");
			i++;
		} else if (at[i] < 0x20 || at[i] == 0x7f) {
			printf("\\u%04x", at[i++]);
		} else {
			put("\\ufffd");
			i++;
		}
	}
	putchar('"');
}

static void put_key(const char *key)
{
	if (comma)
		putchar(',');
	comma = true;
	if (key) {
		put_string(key, strlen(key));
		putchar(':');
	}
}

void json_begin(const char *event)
{
	comma = false;
	putchar('{');
	json_text("event", event);
}

void json_end(void)
{
	put("}\n");
}

void json_text_n(const char *key, const char *text, size_t size)
{
	put_key(key);
	put_string(text, size);
}

void json_text(const char *key, const char *text)
{
	json_text_n(key, text, strlen(text));
}

void json_u64(const char *key, uint64_t value)
{
	put_key(key);
	printf("%" PRIu64, value);
}

void json_i64(const char *key, int64_t value)
{
	put_key(key);
	printf("%" PRId64, value);
}

void json_real(const char *key, double value)
{
	put_key(key);
	printf("%.4f", value);
}

void json_bool(const char *key, bool value)
{
	put_key(key);
	put(value ? "true" : "false");
}

void json_hex(const char *key, const void *bytes, size_t size)
{
	put_key(key);
	putchar('"');
	for (size_t i = 0; i < size; i++)
		printf("%02x", ((const unsigned char *)bytes)[i]);
	putchar('"');
}

void json_array(const char *key)
{
	put_key(key);
	putchar('[');
	comma = false;
}

void json_array_end(void)
{
	putchar(']');
	comma = true;
}

void json_object(const char *key)
{
	put_key(key);
	putchar('{');
	comma = false;
}

void json_object_end(void)
{
	putchar('}');
	comma = true;
}

bool json_flush(void)
{
	return fflush(stdout) == 0 && !ferror(stdout);
}
