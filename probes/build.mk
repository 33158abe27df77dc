# How BPF objects and the runner are compiled. Objects are written for the low floor: instruction set v2.
CLANG ?= clang
CC ?= gcc
# <asm/types.h> lives in the multiarch folder, which clang does not search for -target bpf. Asked when used: on a fresh
# machine the compiler comes with `make setup`.
MULTIARCH = $(shell $(CC) -print-multiarch 2>/dev/null)
BPF_CFLAGS = -target bpf -mcpu=v2 -O2 -g -Wall -Wextra -Werror -Iprobes/include \
	$(if $(MULTIARCH),-idirafter /usr/include/$(MULTIARCH))
RUNNER_CFLAGS := -std=gnu11 -O2 -g -Wall -Wextra -Werror -static

%core.bpf.o: %core.bpf.c $(wildcard probes/include/*.h probes/programs/*/*.h)
	@echo "  BPF     $@"
	@$(CLANG) $(BPF_CFLAGS) -c $< -o $@

$(RUNNER): $(wildcard probes/runner/*.c probes/runner/*.h)
	@echo "  CC      $@"
	@$(CC) $(RUNNER_CFLAGS) -o $@ $(filter %.c,$^) -lbpf -lelf -lz
