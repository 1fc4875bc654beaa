/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Software in the machine stops it by a write to a port that no device has. What comes of it is in the environment: the
 * first KVMTEST_PASSES stops are passed; at the next the machine is saved to the folder KVMTEST_SAVE, if that is set, and
 * the emulator ends. It ends with a status of its own if that fails: a machine that was not saved must not look as if it
 * had been.
 */
#include "emulator.h"

#include <stdlib.h>
#include <unistd.h>

#include "instrument.h"
#include "state.h"

#define STOP_PORT  0x4b5
#define STOP       1
#define NOT_SAVED  75

bool request_is_pending;

static long passes = -1;

static long passes_left(void)
{
	if (passes < 0) {
		const char *text = getenv("KVMTEST_PASSES");

		passes = text ? strtol(text, NULL, 10) : 0;
	}
	return passes;
}

/* The instruction is under way: the machine's state is whole when it has ended. */
void request_take(Bit16u port, Bit32u value)
{
	if (port != STOP_PORT || value != STOP)
		return;
	if (passes_left() > 0) {
		passes--;
		return;
	}
	request_is_pending = true;
	for (unsigned cpu = 0; cpu < BX_SMP_PROCESSORS; cpu++)
		BX_CPU(cpu)->async_event = 1;
}

void request_do(void)
{
	const char *folder = getenv("KVMTEST_SAVE");

	request_is_pending = false;
	if (folder) {
		state_before_save();
		if (!SIM->save_state(folder)) {
			fprintf(stderr, "bochs: the state can't be saved to %s\n", folder);
			_exit(NOT_SAVED);
		}
	}
	/* The emulator's own way out would tell of a user who quit. */
	fflush(NULL);
	_exit(0);
}
