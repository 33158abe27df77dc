#!/usr/bin/env bash
# Ansible's sanity tests for the collection in this folder. Where its bootstrap of pip cannot be fetched, Python's own
# takes its place: the tests' environments are made by `venv`, and need nothing newer.
# Usage: cd COLLECTION && tools/ansible_sanity.sh [TEST…]
set -euo pipefail
cache="${HOME:?}/.ansible/test/cache"
wanted="$cache/get_pip_24_2.py"
mkdir -p "$cache"
[ -e "$wanted" ] || echo 'import ensurepip; ensurepip.bootstrap(upgrade=True, default_pip=True)' >"$wanted"
tests=()
for name in "$@"; do tests+=(--test "$name"); done
ansible-test sanity --color no --python "$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])')" "${tests[@]}"
rm -rf tests/output
