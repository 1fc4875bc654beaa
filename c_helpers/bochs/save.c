/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * One more command for the debugger of Bochs, preloaded into it: "!save DIR" in the file of -rc saves
 * the machine's state to the folder DIR, which must exist, for "bochs -r DIR".
 *
 * Bochs can save from its menus alone, and those need a display. What they call is exported by the
 * program: bx_real_sim_c::save_state(const char *), on the object behind the pointer SIM. The debugger
 * reads its commands by fgets(), so that is where the command is recognised. Anything but success ends
 * the emulator: a machine that was not saved must not look as if it had been.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "build.h"
#include "state.h"

#define COMMAND    "!save "
#define SAVE_STATE "_ZN13bx_real_sim_c10save_stateEPKc"

typedef char *fgets_function(char *text, int size, FILE *file);
typedef _Bool save_function(void *simulator, const char *folder);

static void save(const char *folder)
{
	void **simulator = dlsym(RTLD_DEFAULT, "SIM");
	save_function *save_state = dlsym(RTLD_DEFAULT, SAVE_STATE);

	if (simulator && *simulator && save_state && save_state(*simulator, folder) && state_save(folder))
		return;
	fprintf(stderr, "bochs: the state can't be saved to %s\n", folder);
	_exit(FAILED);
}

char *fgets(char *text, int size, FILE *file)
{
	static fgets_function *next;

	if (!next)
		next = dlsym(RTLD_NEXT, "fgets");
	for (;;) {
		char *line = next(text, size, file);

		if (!line || strncmp(line, COMMAND, strlen(COMMAND)))
			return line;
		/* Of a line too long for the debugger, the rest would come as another command. */
		if (!strchr(line, '\n') && !feof(file)) {
			fprintf(stderr, "bochs: the folder's name is too long: %s\n", line);
			_exit(FAILED);
		}
		line[strcspn(line, "\n")] = '\0';
		save(line + strlen(COMMAND));
	}
}
