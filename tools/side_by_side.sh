#!/usr/bin/env bash
# Runs one command with several shares of arguments at once, each share a word list: what they say comes line by line with
# the share's number before it, their last lines once more at the end. Fails when one of them does.
#   tools/side_by_side.sh "COMMAND" "SHARE" "SHARE" …
set -u
command=$1
shift
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
number=0
pids=()
for share; do
    number=$((number + 1))
    # shellcheck disable=SC2086 - both are word lists
    (set -o pipefail; $command $share 2>&1 | tee "$folder/$number" | sed -u "s/^/$number  /") &
    pids+=($!)
done
code=0
for pid in "${pids[@]}"; do wait "$pid" || code=1; done
# What failed is told again here, or it is lost among the lines of the others.
for n in $(seq "$number"); do
    grep -E '^(FAILED|ERROR) ' "$folder/$n"
    tail -n 1 "$folder/$n"
done
exit $code
