/* SPDX-License-Identifier: GPL-2.0-only */
/* The toggler: see toggler.h. */
#define _GNU_SOURCE
#include "toggler.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"

/* Wait until the time due (ns, CLOCK_MONOTONIC) or a stop; return 0 on a stop. */
static int wait_until(struct toggler *toggler, int64_t due)
{
	struct pollfd wake = {.fd = toggler->wake_fd, .events = POLLIN};
	int64_t left;

	while (!toggler->stop) {
		struct timespec timeout;

		left = due - clock_now();
		if (left <= 0)
			return 1;
		timeout.tv_sec = left / 1000000000;
		timeout.tv_nsec = left % 1000000000;
		if (ppoll(&wake, 1, &timeout, NULL) > 0)
			return 0;
	}
	return 0;
}

/* The next interval, random by xorshift64 (Marsaglia, "Xorshift RNGs", 2003). */
static int64_t next_interval(const struct toggler *toggler, uint64_t *random)
{
	*random ^= *random << 13;
	*random ^= *random >> 7;
	*random ^= *random << 17;
	return toggler->interval + (int64_t)(*random % ((uint64_t)toggler->spread + 1));
}

void toggler_run(struct toggler *toggler)
{
	size_t length[2] = {strlen(toggler->text[0]), strlen(toggler->text[1])};
	uint64_t random = toggler->seed;
	int value = 1;

	toggler->writes = 0;
	toggler->error = 0;
	while (!toggler->stop && (!toggler->limit || toggler->writes < toggler->limit)) {
		struct toggle_stamp stamp = {.value = value};
		ssize_t written;

		if (toggler->capacity)
			stamp.before = clock_tsc();
		do {
			written = pwrite(toggler->fd, toggler->text[value], length[value], 0);
		} while (written < 0 && errno == EINTR);
		if (toggler->capacity)
			stamp.after = clock_tsc();
		if (written != (ssize_t)length[value]) {
			toggler->error = written < 0 ? errno : EIO;
			return;
		}
		if (toggler->capacity)
			toggler->stamps[toggler->writes % toggler->capacity] = stamp;
		toggler->writes++;
		value = !value;
		if (!toggler->interval && !toggler->spread)
			continue;
		/* Counted from now, so that no burst makes up for a late write. */
		if (!wait_until(toggler, clock_now() + next_interval(toggler, &random)))
			return;
	}
}
