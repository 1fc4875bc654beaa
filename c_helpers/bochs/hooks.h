/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How functions of the emulator are replaced, in memory. Each is checked first to be what is expected; where one
 * is not, the program ends with one line: a machine that is extended by half must not look as if it were whole.
 */
#ifndef KVMTEST_BOCHS_HOOKS_H
#define KVMTEST_BOCHS_HOOKS_H

#include <stddef.h>
#include <stdint.h>

#include "build.h"

/* What the program exports by a name. */
HIDDEN void *hook_symbol(const char *name);

#define NO_LEA (-1)

/*
 * Have calls of a function go to ``ours``, and return the function as it was. It must begin with the instructions
 * ``bytes``, ``size`` bytes of whole ones, 14 or more, that can be moved: all but one "lea rsi, [rip + N]", which
 * is at ``lea``, may not depend on where they are.
 */
HIDDEN void *hook_function(const char *name, const uint8_t *bytes, size_t size, int lea, void *ours);

/* In a table of pointers, replace the one word that points to a function, and return the function. */
HIDDEN void *hook_word(const char *table, size_t words, const char *name, void *ours);

/* End the program: it can't be extended, because of ``what``. */
HIDDEN _Noreturn void hook_refuse(const char *what);

#endif
