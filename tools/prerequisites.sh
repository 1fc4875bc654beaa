#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Finds the system packages that kvmtest needs: without an argument to build it, with "lab" for the
# lab's emulated machines, with "mutants" to build KVM for them. What is missing is named in one line
# with the command that installs it; root on a Debian-family system gets it installed at once.
set -u
PYTHON=${PYTHON:-python3}
CC=${CC:-cc}
purpose=${1:-build}
missing=

need() { # PACKAGE COMMAND...: the package is missing where the command fails
	package=$1
	shift
	"$@" >/dev/null 2>&1 || missing="$missing $package"
}

compiles() { echo "#include <$1>" | $CC -E -x c -; }

find_missing() {
	missing=
	find_missing_for_${purpose}
	missing=${missing# }
}

find_missing_for_lab() {
	need bochs bochs-bin --help
	need bochs-term test -e /usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so
	need bochsbios test -e /usr/share/bochs/BIOS-bochs-latest
	need vgabios test -e /usr/share/bochs/VGABIOS-lgpl-latest
	need qemu-system-x86 qemu-system-x86_64 --version
	need seabios test -e /usr/share/seabios/bios-256k.bin
	need ovmf test -e /usr/share/OVMF/OVMF_CODE_4M.secboot.fd
	need isolinux test -e /usr/lib/ISOLINUX/isolinux.bin
	need syslinux-common test -e /usr/lib/syslinux/modules/bios/ldlinux.c32
	need xorriso xorriso -version
	need busybox-static busybox_is_static
	need util-linux setpriv --version
}

busybox_is_static() { command -v busybox && ! ldd "$(command -v busybox)"; }

find_missing_for_mutants() {
	need make make --version
	need patch patch --version
	need xz-utils xz --version
	need dwarves pahole --version
}

find_missing_for_build() {
	need python3 "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'
	need python3-venv "$PYTHON" -c 'import ensurepip, venv'
	need python3-dev "$PYTHON" -c 'import os, sysconfig
os.stat(os.path.join(sysconfig.get_paths()["include"], "Python.h"))'
	need gcc $CC --version
	need binutils ld --version
	need libc6-dev compiles stdlib.h
	need linux-libc-dev compiles linux/kvm.h
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
