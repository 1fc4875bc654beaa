#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# What `make run` does: decide what this machine can decide, and where that leaves out the properties
# of VMX, have a stock kernel decide them in the lab. Arguments are those of kvmtest run; with any
# there is no lab. The exit status is that of the first part that is not content.
set -u
kvmtest=$1
shift

"$kvmtest" run "$@"
status=$?
[ $# -eq 0 ] && [ $status -ne 130 ] || exit $status

# Exit 0 where doctor knows of nothing that keeps the first property of VMX from being decided.
"$kvmtest" doctor --json | python3 -c '
import json, sys
sys.exit(bool(json.load(sys.stdin)["properties"]["vmx.entry.fresh"]))' && exit $status

echo
echo "This machine can't decide the properties of VMX: a stock kernel in an emulated one does."
echo "The first time takes some minutes."
prerequisites=$(dirname "$0")/prerequisites.sh
# Without what builds the emulator, the distribution's decides most.
sh "$prerequisites" lab emulator || sh "$prerequisites" lab 2>/dev/null || exit
"$kvmtest" lab run
lab=$?
case $status in
0 | 4) exit $lab ;;
*) exit $status ;;
esac
