/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Software in the machine asks the emulator by two ports that no device has (requests.h, which it has too).
 *
 * STOP stops the machine. What comes of it is in the environment: the first KVMTEST_PASSES stops are passed; at the next
 * the machine is saved to the folder KVMTEST_SAVE, if that is set, and the emulator ends. It ends with a status of its own
 * if that fails: a machine that was not saved must not look as if it had been.
 *
 * SEND writes the bytes that were given since the last one to the file of the parallel port, which takes them one by one.
 */
#include "emulator.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "instrument.h"
#include "requests.h"
#include "state.h"

#define NOT_SAVED  75
#define NOT_SENT   76

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

static Bit8u given[REQUEST_SEND_MOST];
static size_t given_size;

static void send_given(void)
{
	static int file = -1;
	const char *path = SIM->get_param_string("ports.parallel.1.file")->getptr();

	if (file < 0)
		file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	for (size_t at = 0; at < given_size;) {
		ssize_t sent = file < 0 ? -1 : write(file, given + at, given_size - at);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent <= 0) {
			fprintf(stderr, "bochs: %s can't be written: %s\n", path, strerror(errno));
			_exit(NOT_SENT);
		}
		at += sent;
	}
	given_size = 0;
}

/* Of a port's value that is read: tells software that this emulator takes requests. */
void request_answer(Bit16u port, Bit32u *value)
{
	if (port == REQUEST_PORT)
		*value = REQUEST_ANSWER;
}

/* The instruction is under way: the machine's state is whole when it has ended. */
void request_take(Bit16u port, Bit32u value)
{
	if (port == REQUEST_DATA_PORT && given_size < sizeof(given))
		given[given_size++] = value;
	if (port != REQUEST_PORT)
		return;
	if (value == REQUEST_SEND)
		send_given();
	if (value != REQUEST_STOP)
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
