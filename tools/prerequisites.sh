#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Finds the system packages that kvmtest needs: without an argument to build it, with "lab" for the
# lab's machines, "emulator" to build that of the Intel machine, "stock" for the distribution's, which
# the lab goes on with where it can't build its own, "amd" for the AMD machines, "mutants" to build KVM
# for all. What is missing is named in one line with the command that installs it, in the words of this
# distribution (kvmtest/distributions.txt); root on a Debian-family system gets it installed at once.
set -u
PYTHON=${PYTHON:-python3}
CC=${CC:-cc}
CXX=${CXX:-c++}
OS_RELEASE=${OS_RELEASE:-/etc/os-release}
table=$(dirname "$0")/../kvmtest/distributions.txt
purposes=${*:-build}
missing=

# NAME: the row's cell in this distribution's column.
cell() { awk -F ' *[|] *' -v name="$1" -v column="$column" '$1 == name { print $column }' "$table"; }

# The number of this distribution's column, or nothing.
find_column() {
	awk -F ' *[|] *' -v ids="$(. "$OS_RELEASE" 2>/dev/null && echo "${ID-} ${ID_LIKE-}")" '
	$1 == "ids" {
		n = split(ids, id, " ")
		for (i = 1; i <= n; i++)
			for (c = 2; c <= NF; c++)
				if (index(" " $c " ", " " id[i] " ")) { print c; exit }
	}' "$table"
}

need() { # PACKAGE COMMAND...: the package (by Debian's name) is missing where the command fails
	package=$(cell "$1")
	shift
	case " $missing - " in *" $package "*) return ;; esac
	"$@" >/dev/null 2>&1 || missing="$missing $package"
}

compiles() { echo "#include <$1>" | $CC -E -x c -; }

# NAME: some distribution's path of the file exists.
has_file() {
	awk -F ' *[|] *' -v name="$1" '$1 == name { for (c = 2; c <= NF; c++) print $c }' "$table" | {
		while read -r path; do
			[ -e "$path" ] && exit 0
		done
		exit 1
	}
}

find_missing() {
	missing=
	for purpose in $purposes; do
		find_missing_for_${purpose}
	done
	missing=${missing# }
}

find_missing_for_lab() {
	need busybox-static busybox_is_static
	need util-linux setpriv --version
}

find_missing_for_emulator() {
	need g++ $CXX --version
	need make make --version
	need patch patch --version
	need xz-utils xz --version
}

find_missing_for_stock() {
	need bochs bochs-bin --help
	need bochs-term test -e /usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so
	need bochsbios test -e /usr/share/bochs/BIOS-bochs-latest
	need vgabios test -e /usr/share/bochs/VGABIOS-lgpl-latest
}

find_missing_for_amd() {
	need qemu-system-x86 qemu-system-x86_64 --version
	need seabios has_file bios-256k.bin
	need ovmf has_file OVMF_CODE
	find_missing_for_lab
}

busybox_is_static() { command -v busybox && ! ldd "$(command -v busybox)"; }

find_missing_for_mutants() {
	need make make --version
	need patch patch --version
	need xz-utils xz --version
	need dwarves pahole --version
}

find_missing_for_build() {
	need python3 "$PYTHON" --version
	need python3-venv "$PYTHON" -c 'import ensurepip, venv'
	need python3-dev "$PYTHON" -c 'import os, sysconfig
os.stat(os.path.join(sysconfig.get_paths()["include"], "Python.h"))'
	need gcc $CC --version
	need binutils ld --version
	need libc6-dev compiles stdlib.h
	need linux-libc-dev compiles linux/kvm.h
}

column=$(find_column)
is_known=$column
: "${column:=2}"
if [ "$purposes" = build ] && "$PYTHON" --version >/dev/null 2>&1 &&
	! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
	echo "kvmtest: $PYTHON is $("$PYTHON" --version), and 3.11 or later is needed; install one and" \
		"name it: make PYTHON=python3.12 ..." >&2
	exit 1
fi
find_missing
[ -n "$missing" ] || exit 0
if [ -z "$is_known" ]; then
	echo "kvmtest: missing what Debian calls $missing; install it" >&2
	exit 1
fi
install="$(cell install) $missing"
if [ "$(id -u)" = 0 ] && [ "$(cell family)" = debian ]; then
	echo "kvmtest: installing $missing"
	yes="$(cell install) --yes $missing"
	{ apt-get update && DEBIAN_FRONTEND=noninteractive $yes; } >/dev/null || {
		echo "kvmtest: $install failed; run it by hand" >&2
		exit 1
	}
	find_missing
	[ -n "$missing" ] || exit 0
	echo "kvmtest: still missing after the install: $missing" >&2
	exit 1
fi
[ "$(id -u)" = 0 ] || install="sudo $install"
echo "kvmtest: missing $missing; install it: $install" >&2
exit 1
