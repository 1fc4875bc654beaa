/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * CPU features that the emulated CPU model has not, shown in its CPUID: those that the environment variable
 * KVMTEST_CPU_FEATURES names, separated by commas. Shown, not given: what such a feature does is not emulated. It is
 * for software that asks whether the CPU has it, and then does something else.
 */
#include "emulator.h"

#include <stdlib.h>
#include <string.h>

#include "instrument.h"

#define VARIABLE "KVMTEST_CPU_FEATURES"

static const struct feature {
	const char *name; /* as in /proc/cpuinfo */
	uint32_t leaf, subleaf;
	Bit32u cpuid_function_t::*shown_in;
	int bit;
} features[] = {
	{ "rtm", 7, 0, &cpuid_function_t::ebx, 11 },
};

/* Whether a list separated by commas has a name. */
static bool has(const char *list, const char *name)
{
	size_t length = strlen(name);

	for (const char *at = list; (at = strstr(at, name)); at += length)
		if ((at == list || at[-1] == ',') && (at[length] == '\0' || at[length] == ','))
			return true;
	return false;
}

void cpuid_show(Bit32u leaf, Bit32u subleaf, cpuid_function_t *registers)
{
	static const char *list = getenv(VARIABLE);

	if (!list)
		return;
	for (const feature &one : features)
		if (leaf == one.leaf && subleaf == one.subleaf && has(list, one.name))
			registers->*one.shown_in |= 1u << one.bit;
}
