#!/usr/bin/env bash
# Runs test levels one after the other and prints the time of each; ends at the first that fails. Usage: levels.sh LEVEL...
set -euo pipefail
cd "$(dirname "$0")/.."

summary=()
started=$SECONDS

finish() {
    printf '\n== levels\n'
    printf '%s\n' "${summary[@]}" "$(printf '%-8s %5d s' all $((SECONDS - started)))"
}
trap finish EXIT

for level in "$@"; do
    target=$([ "$level" = check ] && echo check || echo "test-$level")
    [ "$level" != fast ] || target="test-fast --old-file=check" # check has run as a level of its own
    printf '\n== level %s\n' "$level"
    began=$SECONDS
    # shellcheck disable=SC2086 # the target may carry an option
    if make --no-print-directory $target; then verdict=passed; else verdict=FAILED; fi
    summary+=("$(printf '%-8s %5d s  %s' "$level" $((SECONDS - began)) "$verdict")")
    echo "${summary[-1]}"
    [ "$verdict" = passed ] || exit 1
done
