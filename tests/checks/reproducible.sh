#!/bin/sh
# Builds the static program of the last commit twice, from nothing, in two directories whose names differ, and
# compares the results byte for byte. Called by `make reproducible`.
set -eu
cd "$(dirname "$0")/../.."
program=target/static/p2p-gossip

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for place in "$work/a" "$work/another/place"; do
    mkdir -p "$place"
    git archive HEAD | tar -x -C "$place"
    "${MAKE:-make}" -C "$place" static CARGO_TARGET_DIR="$place/target"
done
cmp "$work/a/$program" "$work/another/place/$program"
sha256sum "$work/a/$program"
echo 'make: both builds are the same'
