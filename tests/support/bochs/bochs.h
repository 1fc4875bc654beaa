// SPDX-License-Identifier: GPL-2.0-only
// Stand-ins of the emulator's headers: what the lab's parts (c_helpers/bochs) use of them, and no more. Names and
// types are Bochs 3.0's; what it would do is done so that a test can see it.
#ifndef STAND_IN_BOCHS_H
#define STAND_IN_BOCHS_H

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

typedef uint8_t Bit8u;
typedef uint16_t Bit16u;
typedef uint32_t Bit32u;
typedef uint64_t Bit64u;
typedef Bit64u bx_phy_address;

class BX_CPU_C;

inline Bit32u bx_cpu_count;
inline BX_CPU_C *bx_cpu_array[20];

#define BX_SMP_PROCESSORS (bx_cpu_count)
#define BX_CPU(x)         (bx_cpu_array[x])
#define BX_MEM(x)         (&bx_mem)

// Where a bochsrc says panic: action=fatal
struct logfunctions {
	__attribute__((format(printf, 2, 3), noreturn)) void panic(const char *format, ...)
	{
		va_list arguments;

		va_start(arguments, format);
		fputs(">>PANIC<< ", stderr);
		vfprintf(stderr, format, arguments);
		fputc('\n', stderr);
		va_end(arguments);
		exit(1);
	}
};

inline logfunctions the_log, *genlog = &the_log;

#define BX_PANIC(x) (LOG_THIS panic) x

#endif
