/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A counter read in user space: the loop that include/uapi/linux/perf_event.h describes at struct
 * perf_event_mmap_page. Only the thread that the event counts may do it, as RDPMC reads the counter
 * of the CPU that it runs on.
 */
#ifndef KVMTEST_RDPMC_H
#define KVMTEST_RDPMC_H

#include <stdint.h>

/* The event's count with what its counter, width bits wide, adds to the kernel's offset. */
static inline uint64_t rdpmc_count(int64_t offset, uint64_t counter, unsigned int width)
{
	return (uint64_t)offset + (uint64_t)((int64_t)(counter << (64 - width)) >> (64 - width));
}

/*
 * Read the counters of events, given by the pages of their descriptors, one after the other.
 * Returns 0, or -1 where one can't be read: RDPMC is not allowed, or it is not on a counter now.
 */
int rdpmc_read(void *const *pages, unsigned int events, uint64_t *counts);

#endif
