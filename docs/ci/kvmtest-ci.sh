#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Run kvmtest, say what changed since the last good run of this machine, and keep a good run as the
# next one's last good. The CI recipes beside this file call it.
#
#     kvmtest-ci.sh OUTPUT [OPTION OF kvmtest run]...
#
# KVMTEST_KEPT is the folder of what is kept, by default /var/lib/kvmtest-ci. OUTPUT gets what
# kvmtest run writes, and page.html, summary.md and comparison.txt. The exit status is that of the
# run; 1 also for a regression. A run is good if its status is 0 and nothing regressed.
set -eu
output=$1
shift
good=${KVMTEST_KEPT:-/var/lib/kvmtest-ci}/last-good

status=0
kvmtest run -o "$output" "$@" || status=$?
# Without evidence there is nothing to report or compare: the run said why. After 2, wrong usage, what
# lies in OUTPUT is another run's.
if [ "$status" = 2 ] || [ ! -e "$output/evidence.json" ]; then
	exit "$status"
fi
kvmtest report "$output" --html "$output/page.html"
kvmtest report "$output" --markdown >"$output/summary.md"

compared=0
if [ -e "$good/evidence.json" ]; then
	kvmtest compare "$good" "$output" >"$output/comparison.txt" 2>&1 || compared=$?
else
	echo "There is no last good run in $good." >"$output/comparison.txt"
fi
cat "$output/comparison.txt"

# 1 is a regression. 2 and 3: the machine changed, or the last good run can't be read; the run's own
# status stands, and this run becomes the last good one.
if [ "$status" = 0 ] && [ "$compared" = 1 ]; then
	status=1
fi
if [ "$status" = 0 ]; then
	new=$good.$$
	mkdir -p "$new"
	cp "$output/evidence.json" "$new"
	rm -rf "$good"
	mv "$new" "$good"
fi
exit "$status"
