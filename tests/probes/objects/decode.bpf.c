/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* A record with one member of each shape that the runner decodes. */
#include "stream.h"

enum colour { RED = 3, DEEP = -7 };

typedef __u32 count_t;

struct inner {
	__u8 low;
	__s16 minus;
};

struct every_shape {
	__u64 big;
	__s64 negative;
	count_t typedefed;
	enum colour colour;
	__u32 three : 3;
	__s32 minus_two : 5;
	__u8 bytes[4];
	char text[12];
	char full[4];
	__u16 numbers[3];
	struct inner inner;
	struct inner list[2];
	union {
		__u8 either;
		__u16 other;
	};
	union {
		__u32 whole;
		__u8 parts[4];
	} named;
	_Bool truth;
};

STREAM_RECORD(struct every_shape)

SEC("tracepoint/syscalls/sys_enter_getppid")
int shapes(void *context)
{
	struct every_shape *record = fresh_record();

	if (!record)
		return 0;
	record->big = 0xfedcba9876543210ull;
	record->negative = -5000000000ll;
	record->typedefed = 4000000000u;
	record->colour = DEEP;
	record->three = 5;
	record->minus_two = -2;
	record->bytes[0] = 0xde;
	record->bytes[3] = 0xad;
	record->text[0] = '"';
	record->text[1] = '\\';
	record->text[2] = '\n';
	record->text[3] = 0x1b;
	record->text[4] = 0xc3; /* U+00E9 */
	record->text[5] = 0xa9;
	record->text[6] = 0xff; /* never valid */
	record->text[7] = 'z';
	record->full[0] = record->full[1] = record->full[2] = record->full[3] = 'f';
	record->numbers[0] = 1;
	record->numbers[2] = 65535;
	record->inner.low = 255;
	record->inner.minus = -1;
	record->list[1].low = 9;
	record->other = 0x0102;
	record->named.whole = 0x04030201;
	record->truth = 1;
	stream(context, RING, record, sizeof(*record));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
