#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Run the tests of the native module and of the emulator's parts with AddressSanitizer and
# UndefinedBehaviorSanitizer, in a copy of the package of its own: the normal build stays as it is.
#
#     tests/sanitize.sh [PYTHON] [pytest arguments]
set -eu
cd "$(dirname "$0")/.."
python=${1:-python3}
[ $# -gt 0 ] && shift

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r kvmtest c_helpers guests setup.py pyproject.toml README.md LICENSE "$work"
rm -f "$work"/kvmtest/_native*.so
mkdir -p "$work/tests"
cp -r tests/*.py tests/support tests/kvm tests/unit tests/suite "$work/tests"

# Also for tests that compile what they test (tests/support/bochs_part.py).
export KVMTEST_SANITIZE=1
(cd "$work" && "$python" setup.py --quiet build_ext --inplace)

compiler=${CC:-cc}
# Python's own memory is not ours to check for leaks.
export ASAN_OPTIONS="detect_leaks=0:abort_on_error=0:exitcode=99"
export UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1:exitcode=99"
# Each of cffi's objects in a block of its own, with a red zone around it.
export PYTHONMALLOC=malloc
export PYTHONPATH="$work" PYTHONDONTWRITEBYTECODE=1
preload="$($compiler -print-file-name=libasan.so) $($compiler -print-file-name=libubsan.so)"

cd "$work"
LD_PRELOAD=$preload "$python" -c "
import kvmtest._native as native
assert native.__file__.startswith('$work'), native.__file__
print('sanitized:', native.__file__)"
# Captured by pytest, a report would be lost with the process that it ends.
LD_PRELOAD=$preload "$python" -m pytest -p no:cacheprovider -q --capture=sys \
	tests/kvm tests/unit/kvm tests/unit/host/changes/test_toggler.py tests/unit/pmu \
	tests/unit/c_helpers/bochs "$@"
