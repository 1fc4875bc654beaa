/* SPDX-License-Identifier: GPL-2.0-only */
/* Instructions that C has no words for. */
#ifndef KVMTEST_SELFTEST_CPU_H
#define KVMTEST_SELFTEST_CPU_H

#include <stdint.h>

#include "machine.h"

#define BIT(n) (1ull << (n))

static inline uint64_t rdmsr(uint32_t index)
{
	uint32_t low, high;

	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index) : "memory");
	return low | (uint64_t)high << 32;
}

static inline void wrmsr(uint32_t index, uint64_t value)
{
	__asm__ volatile("wrmsr" : : "c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

static inline uint64_t rdpmc(uint32_t index)
{
	uint32_t low, high;

	__asm__ volatile("rdpmc" : "=a"(low), "=d"(high) : "c"(index) : "memory");
	return low | (uint64_t)high << 32;
}

static inline uint64_t rdtsc(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return low | (uint64_t)high << 32;
}

static inline void outb(uint8_t value, uint16_t port)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "d"(port));
}

static inline void outl(uint32_t value, uint16_t port)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "d"(port));
}

#define READ_CR(number)                                                         \
	({                                                                      \
		uint64_t value_;                                                \
		__asm__ volatile("mov %%cr" #number ", %0" : "=r"(value_));     \
		value_;                                                         \
	})
#define WRITE_CR(number, value) __asm__ volatile("mov %0, %%cr" #number : : "r"((uint64_t)(value)) : "memory")

static inline volatile uint32_t *apic(uint32_t at)
{
	return (volatile uint32_t *)(uintptr_t)(APIC + at);
}

#endif
