/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The toggler: writes two texts in turn to one file at a given rate until a stop flag, stamping each
 * write. It runs in a worker thread with the GIL released. The caller opens the file, and has recorded
 * it in the journal.
 */
#ifndef KVMTEST_TOGGLER_H
#define KVMTEST_TOGGLER_H

#include <stdint.h>

struct toggle_stamp {
	uint64_t before, after;         /* TSC around the write */
	int64_t value;                  /* which of the two texts: 0 or 1 */
};

struct toggler {
	int fd;
	int wake_fd;                    /* an eventfd: readable means stop at once */
	const char *text[2];
	int64_t interval;               /* ns from one write to the next, 0: as fast as it goes */
	int64_t spread;                 /* ns that an interval may be longer, at random */
	uint64_t seed;                  /* of what is random, not 0 */
	volatile uint32_t stop;
	uint64_t limit;                 /* writes to make, 0: until stopped */
	uint64_t writes;                /* out */
	int error;                      /* out: errno of the write that failed, 0: none */
	uint64_t capacity;              /* room in stamps: a ring, the newest win */
	struct toggle_stamp *stamps;
};

/* Write until stopped, the limit, or an error; the first text written is text[1]. */
void toggler_run(struct toggler *toggler);

#endif
