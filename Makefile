# Two commands for everyone: `make run` and `make test` set up a fresh Debian machine by themselves.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
STAMP := .cache/setup.stamp
BIN := $(VENV)/bin

PROGRAM_DIRS := $(wildcard probes/programs/*/) $(wildcard tests/programs/*/)
OBJECTS := $(foreach d,$(PROGRAM_DIRS),$(if $(wildcard $(d)core.bpf.c),$(d)core.bpf.o))
RUNNER := probes/runner/bpfrun
COLLECTION := playbooks/collections/ansible_collections/corollout/fleet

.PHONY: run test lint bench faults fuzz proof ansible-sanity build setup clean

run: setup build
	$(BIN)/python -m fleet.lab.tour

# Three shares at once, for most of a test is waiting. What shares this machine's kernel by name is in one of them.
SHARE_1 := tests/probes tests/inventory $(wildcard tests/fleet/test_[f-h]*.py)
SHARE_2 := tests/btf tests/fuzz $(wildcard tests/fleet/test_[a-e]*.py)
SHARE_3 := $(wildcard tests/fleet/test_[i-z]*.py)

test: setup build lint
	tools/side_by_side.sh "$(BIN)/python -m pytest -q" $(foreach s,1 2 3,"$(SHARE_$(s))")

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@cd $(COLLECTION) && PATH="$(CURDIR)/$(BIN):$$PATH" ANSIBLE_COLLECTIONS_PATH=$(CURDIR)/playbooks/collections \
	  ansible-lint --nocolor -q .

# Ansible's own tests of a collection, in environments of their own, without containers. It fetches what they pin.
ansible-sanity: setup
	cd $(COLLECTION) && PATH=$(CURDIR)/$(BIN):$$PATH $(CURDIR)/tools/ansible_sanity.sh

bench: setup build
	@for f in bench/bench_*.py; do echo "== $$f"; $(BIN)/python $$f || exit 1; done

# Full guests as a fleet's hosts, as root; then everything on every kernel in every profile, written to docs/proof.md.
# An hour and a half on two cores, and half an hour more the first time, when it fetches and builds.
proof: setup build
	tools/setup.sh "$(PYTHON)" "$(VENV)" proof
	$(BIN)/python -m pytest -v -s -m proof
	$(BIN)/python tools/proof.py docs/proof.md .cache/kernels

# Every fault at every boundary: scripted hosts, workers on a server, real agents, a guest that reboots. As root; to docs/faults.md.
# Hours on two cores; FAULTS="agents 10" names a level, and one of so many rows. What came of each row is kept in
# docs/faults.jsonl, so a run goes on where another ended, on whichever machine.
faults: setup build
	nice $(BIN)/python tools/faults.py docs/faults.md $(FAULTS)

# A million damaged inputs; FUZZ="--seconds 600 --target object" sets how many and of what. It goes on where it ended.
FUZZ ?= --inputs 1000000
fuzz: setup build
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[fuzz]' \
	  || echo "fuzz: atheris has no build for this machine or Python: going by chance, without coverage"
	nice $(BIN)/python tests/fuzz/fuzz_run.py $(FUZZ)

setup: $(STAMP)

# The system packages come through apt when root; otherwise they are named and the rest goes on.
$(STAMP): pyproject.toml constraints.txt tools/setup.sh
	tools/setup.sh "$(PYTHON)" "$(VENV)"
	@mkdir -p $(@D) && touch $@

build: setup $(RUNNER) $(OBJECTS)

include probes/build.mk

clean:
	rm -rf $(VENV) .cache run dist $(RUNNER) $(OBJECTS)
