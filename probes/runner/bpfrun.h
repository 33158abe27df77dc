/* SPDX-License-Identifier: Apache-2.0 */
/* bpfrun: loads, attaches, holds and reads BPF objects, and says what it did as JSON lines on stdout.
 *
 * It decides nothing: which object, which BTF, where to attach and for how long comes from its caller.
 * One file per job; what they share is declared here. The JSON is described in docs/contracts.md.
 */
#ifndef BPFRUN_H
#define BPFRUN_H

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BPFRUN_VERSION "1"
#define MAX_LIST 64
#define MAX_ATTACHMENTS 256
#define MAX_FILTERS 32
#define LOG_TAIL 8192

enum { EXIT_OK = 0, EXIT_UNEXPECTED = 1, EXIT_USAGE = 2, EXIT_REFUSED = 3 };

/* ---- json.c: one event per line, bounded, always valid UTF-8 ---- */
void json_begin(const char *event);
void json_end(void);
void json_text(const char *key, const char *text);
void json_text_n(const char *key, const char *text, size_t size);
void json_u64(const char *key, uint64_t value);
void json_i64(const char *key, int64_t value);
void json_bool(const char *key, bool value);
void json_hex(const char *key, const void *bytes, size_t size);
void json_array(const char *key);
void json_array_end(void);
void json_object(const char *key);
void json_object_end(void);
bool json_flush(void); /* false once nobody reads us */

/* ---- options.c ---- */
struct list {
	const char *items[MAX_LIST];
	size_t count;
};

struct options {
	const char *argument; /* object, pin directory or pinned map, by verb */
	const char *btf, *record, *pin;
	struct list set, fill, attach, optional, carry;
	unsigned long ms;
	bool keep;
};

int parse_options(int argc, char **argv, const char *allowed, struct options *options);
bool list_has(const struct list *list, const char *item);
int parse_hex(const char *hex, size_t length, void *out, size_t size);

/* ---- errors.c ---- */
const char *errno_name(int error);
int fail(int exit_code, const char *stage, int error, const char *program, const char *format, ...)
	__attribute__((format(printf, 5, 6)));
void capture_start(void);           /* libbpf's own words, kept for the next report */
const char *captured_program(void); /* the program libbpf last complained about, or "" */
const char *captured_stage(const char *otherwise);
int fail_captured(const char *stage, int error);
void guard_parser(bool on); /* a crash of the parser on hostile input becomes one clear error */

/* ---- load.c ---- */
uint64_t now_ns(void);
void raise_memlock(void);
int open_btf(const char *path, struct btf **out);
int load_object(const struct options *options, struct bpf_object **out, uint64_t *took_us);
int verb_verify(const struct options *options);

/* ---- describe.c: what the kernel says about a program or a map ---- */
struct held;
int program_info(int fd, struct bpf_prog_info *info);
int map_info(int fd, struct bpf_map_info *info);
uint64_t memory_of(int fd);
void tag_text(const struct bpf_prog_info *info, char out[2 * BPF_TAG_SIZE + 1]);
void describe_maps(const struct bpf_object *object);
void describe_held(const struct held *held);

/* ---- attach.c ---- */
struct attachment {
	const struct bpf_program *program;
	struct bpf_link *link;
	char where[128];
	bool read_back; /* the kernel named this program there; false only where it cannot say */
};

struct filter { /* one tc attachment */
	const struct bpf_program *program;
	char interface[64];
	bool ingress, made_clsact;
	int ifindex, previous_fd; /* what it replaced, to be put back when a later step fails */
	uint32_t id;
};

struct held {
	const struct options *options;
	struct bpf_object *object;
	struct attachment attachments[MAX_ATTACHMENTS];
	struct filter filters[MAX_FILTERS];
	size_t attachment_count, filter_count;
	int stats_fd;
};

int attach_all(struct held *held);
void detach_all(struct held *held);

/* ---- tc.c ---- */
int parse_tc(const char *text, char *program, size_t size, struct filter *filter);
int tc_attach(struct held *held, const char *text);
void tc_undo(struct held *held);                     /* a later step failed: put back what was there */
void tc_release(struct held *held);                  /* the end: remove what is still ours */
int tc_remove(const char *text, const char *pin);    /* 1 removed, 0 was not there, <0 errno */
void tc_describe(const uint32_t *ids, size_t count); /* filters that run one of these programs */

/* ---- pins.c ---- */
int pin_prepare(const struct held *held);
void carry_maps(const struct options *options, struct bpf_object *object); /* --carry: go on with pinned maps */
int pin_all(struct held *held);
void unpin_all(struct held *held);
void remove_folders(const char *pin);
int each_pin(const char *dir, const char *kind, int (*visit)(const char *path, const char *name, void *context),
	     void *context);
int mark_clsact(const char *pin, const char *interface, bool add);

/* ---- undo.c ---- */
int verb_pins(const struct options *options);
int verb_detach(const struct options *options);

/* ---- maps.c ---- */
int set_entry(const struct bpf_map *map, const char *key, const char *value);
int delete_entry(const struct bpf_map *map, const char *key);
int configure_maps(struct held *held); /* --set and --fill */
int dump_map(int fd, const char *name);
int verb_dump(const struct options *options);

/* ---- sample.c ---- */
void sample(struct held *held);
int stats_switch(struct held *held, bool on);

/* ---- stream.c ---- */
int verb_hold(const struct options *options);

/* ---- decode.c ---- */
struct decoder {
	const struct btf *btf;
	uint32_t type;
	size_t size;
};
int decoder_open(struct decoder *decoder, const struct btf *btf, const char *name);
void decode_record(const struct decoder *decoder, const void *data, size_t size);

/* ---- hooks.c ---- */
#define HOOK_KINDS 7

struct hook {
	int program, event; /* descriptors, or -1; tc has no event */
};

struct hook_kind {
	const char *name;
	int (*attach)(struct hook *hook); /* an empty program; 0 or -errno */
	void (*hit)(void);
};

extern const struct hook_kind hook_kinds[HOOK_KINDS];
int attach_raw_tracepoint(struct hook *hook);
void hook_detach(struct hook *hook);
void hit_getppid(void);

/* ---- calibrate.c ---- */
int verb_calibrate(const struct options *options);

#endif
