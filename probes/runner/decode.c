/* SPDX-License-Identifier: Apache-2.0 */
/* Writes a record as JSON by the BTF of its struct: numbers, char[] as text, other byte arrays as hexadecimal text. */
#include "bpfrun.h"

#include <string.h>

#define MAX_NESTING 8

static const struct btf_type *resolve(const struct btf *btf, uint32_t id)
{
	const struct btf_type *type = btf__type_by_id(btf, id);

	for (int hops = 0; type && hops < 32; hops++) {
		if (!btf_is_mod(type) && !btf_is_typedef(type))
			return type;
		type = btf__type_by_id(btf, type->type);
	}
	return NULL;
}

int decoder_open(struct decoder *decoder, const struct btf *btf, const char *name)
{
	int id = btf ? btf__find_by_name_kind(btf, name, BTF_KIND_STRUCT) : -ENOENT;

	if (id < 0)
		return fail(EXIT_USAGE, "record", -id, NULL, "the object has no struct %s", name);
	*decoder = (struct decoder){btf, id, btf__type_by_id(btf, id)->size};
	return 0;
}

static uint64_t read_bits(const unsigned char *data, uint32_t bit, uint32_t bits)
{
	uint64_t value = 0;

	/* Bits are numbered from the least significant in a little-endian kernel, from the most significant otherwise. */
	for (uint32_t i = 0; i < bits; i++) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
		value |= (uint64_t)(data[(bit + i) / 8] >> ((bit + i) % 8) & 1) << i;
#else
		value = value << 1 | (data[(bit + i) / 8] >> (7 - (bit + i) % 8) & 1);
#endif
	}
	return value;
}

static void put_number(const char *key, uint64_t value, uint32_t bits, bool negative_too)
{
	if (negative_too && bits < 64 && value >> (bits - 1) & 1)
		value |= ~0ull << bits;
	if (negative_too)
		json_i64(key, (int64_t)value);
	else
		json_u64(key, value);
}

/* Compilers before clang 15 do not flag a signed enum: a negative value shows it. */
static bool is_signed(const struct btf_type *type)
{
	if (btf_is_int(type))
		return btf_int_encoding(type) & BTF_INT_SIGNED;
	for (uint32_t i = 0; btf_is_enum(type) && i < btf_vlen(type); i++)
		if (btf_enum(type)[i].val < 0)
			return true;
	return (btf_is_enum(type) || btf_is_enum64(type)) && btf_kflag(type);
}

static bool is_char(const struct btf *btf, const struct btf_type *type)
{
	return btf_is_int(type) && type->size == 1 && !strcmp(btf__name_by_offset(btf, type->name_off), "char");
}

static void put_value(const struct btf *btf, const char *key, uint32_t id, const unsigned char *data, uint32_t bit,
		      uint32_t bitfield, int depth);

static void put_members(const struct btf *btf, const struct btf_type *type, const unsigned char *data, uint32_t bit,
			int depth)
{
	const struct btf_member *member = btf_members(type);

	for (uint32_t i = 0; i < btf_vlen(type); i++) {
		const char *name = btf__name_by_offset(btf, member[i].name_off);
		uint32_t at = bit + btf_member_bit_offset(type, i);
		const struct btf_type *inner = resolve(btf, member[i].type);

		if (!*name && inner && btf_is_composite(inner) && depth < MAX_NESTING)
			put_members(btf, inner, data, at, depth + 1); /* an anonymous struct: its members are ours */
		else if (*name)
			put_value(btf, name, member[i].type, data, at, btf_member_bitfield_size(type, i), depth + 1);
	}
}

static void put_array(const struct btf *btf, const char *key, const struct btf_array *array,
		      const unsigned char *data, uint32_t bit, int depth)
{
	const struct btf_type *element = resolve(btf, array->type);
	int64_t size = btf__resolve_size(btf, array->type);

	if (element && is_char(btf, element)) {
		json_text_n(key, (const char *)data + bit / 8, strnlen((const char *)data + bit / 8, array->nelems));
	} else if (size == 1) {
		json_hex(key, data + bit / 8, array->nelems);
	} else {
		json_array(key);
		for (uint32_t i = 0; size > 0 && i < array->nelems; i++)
			put_value(btf, NULL, array->type, data, bit + i * (uint32_t)size * 8, 0, depth + 1);
		json_array_end();
	}
}

static void put_value(const struct btf *btf, const char *key, uint32_t id, const unsigned char *data, uint32_t bit,
		      uint32_t bitfield, int depth)
{
	const struct btf_type *type = resolve(btf, id);
	int64_t size = btf__resolve_size(btf, id);

	if (!type || size <= 0 || depth > MAX_NESTING)
		return;
	if (btf_is_array(type)) {
		put_array(btf, key, btf_array(type), data, bit, depth);
	} else if (btf_is_struct(type)) {
		json_object(key);
		put_members(btf, type, data, bit, depth);
		json_object_end();
	} else if (size <= 8 && !btf_is_union(type)) {
		uint32_t bits = bitfield ? bitfield : (uint32_t)size * 8;

		put_number(key, read_bits(data, bit, bits), bits, is_signed(type));
	} else {
		json_hex(key, data + bit / 8, size);
	}
}

/* Writes one "record" event; a record that is shorter than its struct is shown as the bytes it has. */
void decode_record(const struct decoder *decoder, const void *data, size_t size)
{
	json_begin("record");
	if (decoder->btf && size >= decoder->size) {
		json_object("data");
		put_members(decoder->btf, btf__type_by_id(decoder->btf, decoder->type), data, 0, 0);
		json_object_end();
	} else {
		json_hex("raw", data, size);
	}
	json_end();
}
