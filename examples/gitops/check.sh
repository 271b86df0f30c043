#!/bin/sh
# Shows in a pull request what a merge would change. Fails only if the plan cannot be made.
set -u
netsonde plan "$(dirname "$0")/fleet.toml" --exit-code "$@"
code=$?
[ "$code" -eq 2 ] && exit 0 # something would change
exit "$code"
