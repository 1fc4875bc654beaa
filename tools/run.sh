#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# What `make run` does: decide what this machine can decide. Where that leaves out the properties of
# VMX, it says so in two lines and has a stock kernel decide them in the lab. Arguments are those of
# kvmtest run; with any there is no lab. The exit status is that of the first part that is not
# content.
set -u
kvmtest=$1
shift

# Exit 0 where doctor knows of nothing that keeps the first property of VMX from being decided.
if [ $# -ne 0 ] || "$kvmtest" doctor --seconds 0 --json | python3 -c '
import json, sys
sys.exit(bool(json.load(sys.stdin)["properties"]["vmx.entry.fresh"]))'; then
	exec "$kvmtest" run "$@"
fi

kept=$(mktemp -d) || exit
trap 'rm -rf "$kept"' EXIT
"$kvmtest" run -q -o "$kept/run"
status=$?
case $status in
0 | 4) ;;
130) exit $status ;;
*) [ ! -e "$kept/run/evidence.json" ] || "$kvmtest" report "$kept/run" ;;
esac
echo "It can't decide those of VMX: a stock kernel on an emulated CPU follows, in minutes."
prerequisites=$(dirname "$0")/prerequisites.sh
# Without what builds the emulator, the distribution's decides most.
sh "$prerequisites" lab emulator || sh "$prerequisites" lab 2>/dev/null || exit
"$kvmtest" lab run
lab=$?
case $status in
0 | 4) exit $lab ;;
*) exit $status ;;
esac
