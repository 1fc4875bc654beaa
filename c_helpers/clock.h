/* SPDX-License-Identifier: GPL-2.0-only */
/* The two clocks of the native loops: the TSC for stamps, CLOCK_MONOTONIC for deadlines. */
#ifndef KVMTEST_CLOCK_H
#define KVMTEST_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t clock_tsc(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

/* Nanoseconds of CLOCK_MONOTONIC. */
static inline int64_t clock_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

#endif
