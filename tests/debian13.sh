#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Run kvmtest's commands in a bare Debian 13, made for it in a temporary folder: a clean clone of this
# checkout's HEAD with Debian 13's Python, compiler, libraries and emulators. Needs root, and some 3 GB.
# The cache of this host's user is used there, as it saves fetching kernels.
#
#     tests/debian13.sh [COMMAND]      by default: make run && make test
#     tests/debian13.sh --wheel WHEEL  installs a wheel there, without make or a compiler, and runs it
#
# The exit status is the command's; 77 where there can be no such Debian here, which one line says.
set -eu
checkout=$(cd "$(dirname "$0")/.." && pwd)
wheel=
if [ "${1:-}" = --wheel ]; then
	wheel=$(realpath "$2")
	packages=python3-venv
	command="! command -v cc && ! command -v gcc && python3 -m venv /venv &&
		/venv/bin/pip install --quiet ./*.whl && cd / &&
		/venv/bin/kvmtest run --only kernel.fix-present --only guest.rdmsr-hides"
else
	packages=make
	command=${1:-make run && make test}
fi
suite=trixie
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
cache=${KVMTEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kvmtest}
certificates=/etc/ssl/certs/ca-certificates.crt

skip() {
	echo "debian13: not run: $1"
	exit 77
}

is_reachable() {
	python3 -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=30)' \
		"$mirror/dists/$suite/Release" 2>/dev/null
}

[ -z "${KVMTEST_DEBIAN13:-}" ] || skip "this is such a Debian already"
[ "$(id -u)" = 0 ] || skip "a Debian of its own needs root"
is_reachable || skip "no $mirror/dists/$suite/Release"
if ! command -v debootstrap >/dev/null; then
	# A test installs nothing on the machine that it runs on.
	[ -z "$wheel" ] || skip "debootstrap is missing; apt-get install debootstrap"
	{ apt-get update && apt-get install --yes --no-install-recommends debootstrap; } >/dev/null 2>&1 ||
		skip "debootstrap is missing; apt-get install debootstrap"
fi

work=$(mktemp -d)
child=
# What is mounted is mounted in a namespace of the child alone, and gone when the child is. What the
# child had started may be writing while the folder is removed the first time.
clean() {
	[ -z "$child" ] || { kill -KILL "$child" && wait "$child"; } 2>/dev/null || true
	rm -rf --one-file-system "$work" 2>/dev/null || rm -rf --one-file-system "$work"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

echo "debian13: making a bare Debian 13 in $work"
debootstrap --variant=minbase --include=ca-certificates,$packages "$suite" "$work/root" "$mirror" \
	>"$work/log" 2>&1 || {
	tail -n 5 "$work/log" >&2
	echo "debian13: debootstrap failed" >&2
	exit 1
}
if [ "$wheel" ]; then
	mkdir "$work/root/kvmtest"
	cp "$wheel" "$work/root/kvmtest/"
else
	git clone --quiet "$checkout" "$work/root/kvmtest"
fi
mkdir -p "$cache" "$work/root/cache"
# The network is reached as from here, be it through a proxy with a certificate of its own.
cp /etc/resolv.conf "$work/root/etc/"
[ ! -e $certificates ] || cp $certificates "$work/root$certificates"

# Words of the script below: the new root, the cache, the command. It is the first process of a PID
# namespace: its end is the end of all that it started, and it reaps orphans while it waits.
enter='
mount -t proc proc "$1/proc"
for folder in sys dev; do mount --rbind "/$folder" "$1/$folder"; done
mount --bind "$2" "$1/cache"
chroot "$1" sh -c "cd /kvmtest && $3" || exit
'
echo "debian13: $command"
env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
	TERM="${TERM:-dumb}" KVMTEST_CACHE=/cache KVMTEST_DEBIAN13=1 ${KVMTEST_LAB_TESTS:+KVMTEST_LAB_TESTS="$KVMTEST_LAB_TESTS"} \
	${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
	setpriv --pdeathsig KILL unshare --mount --propagation private --pid --kill-child \
	sh -euc "$enter" enter "$work/root" "$cache" "$command" </dev/null &
child=$!
status=0
wait "$child" || status=$?
child=
echo "debian13: ended with status $status"
exit "$status"
