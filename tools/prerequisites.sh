#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Finds the system packages that the build needs. What is missing is named in one line with the
# command that installs it; root on a Debian-family system gets it installed at once.
set -u
PYTHON=${PYTHON:-python3}
CC=${CC:-cc}
missing=

need() { # PACKAGE COMMAND...: the package is missing where the command fails
	package=$1
	shift
	"$@" >/dev/null 2>&1 || missing="$missing $package"
}

compiles() { echo "#include <$1>" | $CC -E -x c -; }

find_missing() {
	missing=
	need python3 "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'
	need python3-venv "$PYTHON" -c 'import ensurepip, venv'
	need python3-dev "$PYTHON" -c 'import os, sysconfig
os.stat(os.path.join(sysconfig.get_paths()["include"], "Python.h"))'
	need gcc $CC --version
	need binutils ld --version
	need libc6-dev compiles stdlib.h
	need linux-libc-dev compiles linux/kvm.h
	missing=${missing# }
}

find_missing
[ -n "$missing" ] || exit 0
install="apt-get install --yes --no-install-recommends $missing"
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	echo "kvmtest: installing $missing"
	{ apt-get update && DEBIAN_FRONTEND=noninteractive $install; } >/dev/null || {
		echo "kvmtest: $install failed; run it by hand" >&2
		exit 1
	}
	find_missing
	[ -n "$missing" ] || exit 0
	echo "kvmtest: still missing after the install: $missing (is $PYTHON 3.11 or later?)" >&2
	exit 1
fi
echo "kvmtest: missing $missing; install it: sudo $install" >&2
exit 1
