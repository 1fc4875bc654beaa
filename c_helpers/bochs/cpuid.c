/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * CPU features that the emulated CPU model has not, shown in its CPUID: those that the environment
 * variable KVMTEST_CPU_FEATURES names, separated by commas. Shown, not given: what such a feature does is
 * not emulated. It is for software that asks whether the CPU has it, and then does something else.
 *
 * The model's bx_cpuid_t::get_cpuid_leaf() is replaced in its table of virtual functions.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "hooks.h"

#define VARIABLE "KVMTEST_CPU_FEATURES"
#define TABLE    "_ZTV18corei7_skylake_x_t"
#define FUNCTION "_ZNK18corei7_skylake_x_t14get_cpuid_leafEjjP16cpuid_function_t"
#define WORDS    11 /* of the table */

enum { EAX, EBX, ECX, EDX };

typedef void leaf_function(const void *model, uint32_t leaf, uint32_t subleaf, uint32_t *registers);

static const struct feature {
	const char *name; /* as in /proc/cpuinfo */
	uint32_t leaf, subleaf;
	int reg, bit;
} features[] = {
	{ "rtm", 7, 0, EBX, 11 },
};

#define FEATURES (sizeof(features) / sizeof(*features))

static leaf_function *original;
static bool shown[FEATURES];

static void leaf_with_features(const void *model, uint32_t leaf, uint32_t subleaf, uint32_t *registers)
{
	original(model, leaf, subleaf, registers);
	for (size_t i = 0; i < FEATURES; i++)
		if (shown[i] && leaf == features[i].leaf && subleaf == features[i].subleaf)
			registers[features[i].reg] |= 1u << features[i].bit;
}

/* Whether a list separated by commas has a name. */
static bool has(const char *list, const char *name)
{
	size_t length = strlen(name);

	for (const char *at = list; (at = strstr(at, name)); at += length)
		if ((at == list || at[-1] == ',') && (at[length] == '\0' || at[length] == ','))
			return true;
	return false;
}

__attribute__((constructor)) static void install(void)
{
	const char *list = getenv(VARIABLE);

	if (!list || !bochs_is_known())
		return;
	for (size_t i = 0; i < FEATURES; i++)
		shown[i] = has(list, features[i].name);
	original = hook_word(TABLE, WORDS, FUNCTION, leaf_with_features);
}
