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
#include <sys/types.h>

#define BPFRUN_VERSION "1"
#define MAX_LIST 64
#define MAX_ATTACHMENTS 256
#define MAX_FILTERS 32
#define LOG_TAIL 8192
#define HOOK_KINDS 7

enum { EXIT_OK = 0, EXIT_UNEXPECTED = 1, EXIT_USAGE = 2, EXIT_REFUSED = 3 };

/* ---- json.c: one event per line, bounded, always valid UTF-8 ---- */
void json_begin(const char *event);
void json_end(void);
void json_text(const char *key, const char *text);
void json_text_n(const char *key, const char *text, size_t size);
void json_u64(const char *key, uint64_t value);
void json_i64(const char *key, int64_t value);
void json_bool(const char *key, bool value);
void json_real(const char *key, double value);
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
	const char *state, *token, *build, *lease, *interval, *budget; /* of a program that is kept */
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
void describe_programs(const struct held *held);
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

/* ---- decode.c ---- */
struct decoder {
	const struct btf *btf;
	uint32_t type;
	size_t size;
};
int decoder_open(struct decoder *decoder, const struct btf *btf, const char *name);
void decode_record(const struct decoder *decoder, const void *data, size_t size);

/* ---- stream.c ---- */
#define LINE_MAX_BYTES (1 << 16)

struct streaming {
	struct held *held;
	struct decoder decoder;
	struct ring_buffer *ring;
	struct perf_buffer *perf;
	uint64_t lost_seen; /* of the `lost` map: what the ring buffer had no room for */
	uint64_t records, lost;
	char line[LINE_MAX_BYTES];
	size_t line_used;
	bool quit;
};

int stop_signals(void);
int stream_begin(struct streaming *streaming);
void stream_consume(struct streaming *streaming);
void stream_free(struct streaming *streaming);
int verb_hold(const struct options *options);

/* ---- meter.c ---- */
struct budget {
	double cpu_percent, ns_per_event, memory_mib, loss_percent, strikes;
};

struct run {
	uint64_t count, time_ns;
};

struct runs {
	struct run each[MAX_ATTACHMENTS];
	uint64_t at_ns;
};

struct meter {
	struct streaming *streaming;
	double attach_ns[HOOK_KINDS], floor_ns;
	uint64_t interval_ns, since_ns, cpu_ns;
	struct runs before;
	bool counting, uncounted;
};

struct measure { /* one window; percent is of one core */
	double window_s, cpu_percent, kernel_percent, user_percent, ns_per_event, loss_percent;
	uint64_t events, memory_bytes, lost, records;
	bool counted, mean; /* whether the kernel's share, and a mean over events, were measured */
};

struct standing {
	enum { STANDING_OK, STANDING_WARN, STANDING_TRIP } state;
	unsigned strikes, recent;
	const char *budget; /* the last that was broken, or NULL */
	double limit, seen;
};

int parse_budget(const char *text, struct budget *budget);
void meter_begin(struct meter *meter, struct streaming *streaming, double interval_s);
uint64_t meter_due(const struct meter *meter);
bool meter_tick(struct meter *meter, struct measure *measure);
void judge(struct standing *standing, const struct measure *measure, const struct budget *budget);

/* ---- folder.c ---- */
#define FOLDER_PATH 512
#define FOLDER_NAME 64

uint64_t boot_ns(void);
double wall_s(void);
void folder_name(const char *what, uint64_t token, char out[FOLDER_NAME]);
void folder_path(const char *folder, const char *name, char out[FOLDER_PATH]);
int folder_make(const char *folder);
int folder_lock(const char *folder);
bool folder_busy(const char *folder);
int folder_write(const char *folder, const char *name, const char *text);
void folder_read(const char *folder, const char *name, char *out, size_t size);
uint64_t folder_number(const char *folder, const char *name);
int folder_set_number(const char *folder, const char *name, uint64_t value);
int folder_live(const char *folder, uint64_t token);
pid_t folder_holder(const char *folder, uint64_t token);
int folder_end_all(const char *folder, uint64_t but);

/* ---- keeper.c ---- */
struct keeper {
	const struct options *options;
	struct streaming *streaming;
	struct meter meter;
	struct measure measure;
	struct standing standing;
	struct budget budget;
	double interval_s, measured_at;
	uint64_t token;
	const char *state;
	char reason[256], boot_id[64];
};

int keeper_main(struct keeper *keeper, int ready);

/* ---- keep.c ---- */
int set_lease(const char *folder, uint64_t token, double lease_s);
int parse_number(const char *option, const char *text, double least, double most, double *out);
int verb_keep(const struct options *options);

/* ---- kept.c ---- */
void boot_id(char *out, size_t size);
int verb_kept(const struct options *options);
int verb_renew(const struct options *options);
int verb_stop(const struct options *options);

/* ---- hooks.c ---- */

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
int calibrate_kind(const char *name, uint64_t slice_ns, double *attach_ns); /* 0, or -errno and *attach_ns as it was */
int calibrate_floor(uint64_t slice_ns, double *floor_ns);
int verb_calibrate(const struct options *options);

#endif
