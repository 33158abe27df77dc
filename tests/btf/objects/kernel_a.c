/* A kernel in miniature: its BTF is what the fixtures are relocated against. */
typedef unsigned int u32;
typedef unsigned long long u64;
enum state { RUNNING, SLEEPING = 5, DEAD = 9 };
enum wide { SMALL = 1, HUGE = 0x123456789abULL };
struct inner { int pad; int deep; };
union choice { u64 whole; struct { u32 low, high; }; };
struct task {
	u64 flags;
	struct { int before; struct { int anonymous_field; }; };
	int pid;
	char comm[16];
	u32 narrow;
	u32 bit_a : 3, bit_b : 7;
	int sbit : 5;
	struct inner nested[4];
	struct task *parent;
	enum state state;
	union choice choice;
	const volatile struct inner *pointed;
	void (*callback)(struct task *, int);
	int tail[];
};
struct gone_new { int x; };
typedef struct { int a, b; } pair_t;
struct task *task; enum state state; enum wide wide; struct gone_new *gone_new; pair_t pair;
