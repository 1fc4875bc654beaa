/* SPDX-License-Identifier: GPL-2.0-only */
/* What the lab adds to a machine, as a part of the machine's saved state. */
#ifndef KVMTEST_BOCHS_STATE_H
#define KVMTEST_BOCHS_STATE_H

/* When the CPUs are made: name all that is to be saved, and restored. */
void state_register(void);

void state_before_save(void);

/* Write a part of a machine's state to a file of its own, or read it back, all of it; return whether that was done. */
bool state_write_data(const char *path, const Bit8u *data, size_t size);
bool state_read_data(const char *path, Bit8u *data, size_t size);

#endif
