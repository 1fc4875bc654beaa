// SPDX-License-Identifier: GPL-2.0-only
#ifndef STAND_IN_CPUID_H
#define STAND_IN_CPUID_H

struct cpuid_function_t {
	Bit32u eax, ebx, ecx, edx;
};

#endif
