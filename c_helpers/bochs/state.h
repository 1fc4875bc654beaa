/* SPDX-License-Identifier: GPL-2.0-only */
/* What the extension adds to a machine, in a file of its own beside the machine's saved state. */
#ifndef KVMTEST_BOCHS_STATE_H
#define KVMTEST_BOCHS_STATE_H

#include "build.h"

/* Save it to a folder; whether that was done. On another build there is nothing to save. */
HIDDEN bool state_save(const char *folder);

#endif
