/* SPDX-License-Identifier: GPL-2.0-only */
/* The build of Bochs that the library is loaded into, and how to change it. */
#ifndef KVMTEST_BOCHS_BUILD_H
#define KVMTEST_BOCHS_BUILD_H

#include <stdbool.h>
#include <stddef.h>

#define HIDDEN __attribute__((visibility("hidden")))

/* What the emulator ends with where the library fails it; Bochs itself ends with 0 or 1. */
#define FAILED 75

/* Whether the program is the one build whose insides are known here: Debian's 2.7+dfsg-4+deb12u1, amd64. */
HIDDEN bool bochs_is_known(void);

/* Write bytes over the program's code or constants. Ends the program where that can't be done. */
HIDDEN void bochs_overwrite(void *place, const void *bytes, size_t size, int protection);

#endif
