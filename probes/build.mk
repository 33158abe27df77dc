# How BPF objects and the runner are compiled. Objects are written for the low floor: instruction set v2.
CLANG ?= clang
CC ?= gcc
BPF_CFLAGS := -target bpf -mcpu=v2 -O2 -g -Wall -Wextra -Werror -Iprobes/include

%core.bpf.o: %core.bpf.c $(wildcard probes/include/*.h)
	@echo "  BPF     $@"
	@$(CLANG) $(BPF_CFLAGS) -c $< -o $@

$(RUNNER): $(wildcard probes/runner/*.c probes/runner/*.h)
	@echo "  CC      $@"
	@$(CC) -O2 -g -Wall -Wextra -Werror -static -o $@ $(filter %.c,$^) -lbpf -lelf -lz
