/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * "bochs -r DIR" is recognised by its arguments: nothing that the emulator calls then could be waited for. A state
 * without the file, or with another extension's, ends the emulator: its machine would have other counters.
 */
#define _GNU_SOURCE
#include "state.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cpu.h"
#include "smi.h"

#define FILE_NAME "kvmtest-pmu"

struct header {
	char what[16];
	uint32_t version, cpus, size;
};

static const struct header expected = { "kvmtest pmu", PMU_VERSION, 0, sizeof(struct pmu) };

static FILE *open_in(const char *folder, const char *mode)
{
	char path[4096];

	if ((size_t)snprintf(path, sizeof(path), "%s/" FILE_NAME, folder) >= sizeof(path))
		return NULL;
	return fopen(path, mode);
}

bool state_save(const char *folder)
{
	struct header header = expected;
	bool done;
	FILE *file;

	if (!bochs_is_known())
		return true;
	file = open_in(folder, "w");
	if (!file)
		return false;
	header.cpus = cpus_number();
	done = fwrite(&header, sizeof(header), 1, file) && fwrite(&smi_source, sizeof(smi_source), 1, file);
	for (unsigned i = 0; done && i < header.cpus; i++) {
		cpu_advance(cpus_get(i));
		done = fwrite(&counted[i].pmu, sizeof(struct pmu), 1, file);
	}
	return !fclose(file) && done;
}

static bool restore(const char *folder)
{
	struct header header = { 0 };
	FILE *file = open_in(folder, "r");
	bool done;

	if (!file)
		return false;
	done = fread(&header, sizeof(header), 1, file) && !memcmp(header.what, expected.what, sizeof(header.what)) &&
	       header.version == expected.version && header.size == expected.size && header.cpus <= MAX_CPUS &&
	       fread(&smi_source, sizeof(smi_source), 1, file);
	for (unsigned i = 0; done && i < header.cpus; i++)
		done = fread(&counted[i].pmu, sizeof(struct pmu), 1, file);
	fclose(file);
	return done;
}

__attribute__((constructor)) static void install(int argc, char **argv)
{
	if (!bochs_is_known())
		return;
	for (int i = 1; i + 1 < argc; i++) {
		if (strcmp(argv[i], "-r"))
			continue;
		if (restore(argv[i + 1]))
			return;
		fprintf(stderr, "bochs: the state in %s has no counters of this extension; save the machine anew\n",
			argv[i + 1]);
		_exit(FAILED);
	}
}
