/* SPDX-License-Identifier: GPL-2.0-only */
/* Counters read in user space: see rdpmc.h. */
#include "rdpmc.h"

#include <linux/perf_event.h>

static inline uint64_t rdpmc(uint32_t counter)
{
	uint32_t low, high;

	__asm__ volatile("rdpmc" : "=a"(low), "=d"(high) : "c"(counter));
	return (uint64_t)high << 32 | low;
}

static inline void barrier(void)
{
	__asm__ volatile("" ::: "memory");
}

/* The kernel rewrites the page on this very CPU, whenever it interrupts us: no fences needed. */
static inline int read_one(const volatile struct perf_event_mmap_page *page, uint64_t *count)
{
	uint32_t lock, index;

	do {
		lock = page->lock;
		barrier();
		index = page->index;
		if (!page->cap_user_rdpmc || !index)
			return -1;
		*count = rdpmc_count(page->offset, rdpmc(index - 1), page->pmc_width);
		barrier();
	} while (page->lock != lock);
	return 0;
}

int rdpmc_read(void *const *pages, unsigned int events, uint64_t *counts)
{
	for (unsigned int at = 0; at < events; at++) {
		if (read_one(pages[at], &counts[at]))
			return -1;
	}
	return 0;
}
