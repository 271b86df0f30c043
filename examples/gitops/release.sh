#!/bin/sh
# Releases the policies after a merge, batch by batch, and checks that each host took them.
set -eu
netsonde apply "$(dirname "$0")/fleet.toml" "$@"
netsonde drift "$@"
