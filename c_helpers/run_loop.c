/* SPDX-License-Identifier: GPL-2.0-only */
/* The run loop: see run_loop.h. */
#define _GNU_SOURCE
#include "run_loop.h"

#include <errno.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"
#include "deadline.h"

static __thread int my_thread;

/* One KVM_RUN, repeated only where our own timer was early. */
static inline enum run_end enter(struct runner *runner)
{
	int failed, was_timer;

	for (;;) {
		if (runner->stop)
			return RUN_STOPPED;
		runner->entries++;
		runner->tsc_entry = clock_tsc();
		failed = ioctl(runner->fd, KVM_RUN, 0);
		runner->tsc_exit = clock_tsc();
		if (!failed)
			return RUN_EXIT;
		if (errno != EINTR) {
			runner->error = errno;
			return RUN_ERROR;
		}
		/* Cleared before the stop flag is read: run_stop sets the flag first. */
		*(volatile __u8 *)&runner->run->immediate_exit = 0;
		if (runner->stop)
			return RUN_STOPPED;
		if (deadline_check(&was_timer))
			return RUN_DEADLINE;
		if (!was_timer)
			return RUN_SIGNAL;
	}
}

static int begin(struct runner *runner, int64_t timeout)
{
	runner->error = deadline_begin(runner->run, clock_now() + timeout);
	if (runner->error)
		return -1;
	if (!my_thread)
		my_thread = (int)syscall(SYS_gettid);
	runner->thread = my_thread;
	return 0;
}

static void end(struct runner *runner)
{
	runner->thread = 0;
	deadline_end();
}

enum run_end run_once(struct runner *runner, int64_t timeout)
{
	enum run_end why;

	if (begin(runner, timeout))
		return RUN_ERROR;
	why = enter(runner);
	end(runner);
	return why;
}

static inline int is_doorbell(const struct kvm_run *run, uint16_t port)
{
	return run->exit_reason == KVM_EXIT_IO && run->io.port == port &&
	       run->io.direction == KVM_EXIT_IO_OUT;
}

enum run_end run_loop(struct runner *runner, struct run_record *record, uint16_t doorbell_port,
		      int64_t timeout)
{
	enum run_end why;

	if (begin(runner, timeout))
		return RUN_ERROR;
	record->doorbells = 0;
	for (;;) {
		why = enter(runner);
		if (record->capacity) {
			struct run_stamp *stamp = &record->stamps[record->doorbells % record->capacity];

			stamp->entry = runner->tsc_entry;
			stamp->exit = runner->tsc_exit;
		}
		if (why != RUN_EXIT || !is_doorbell(runner->run, doorbell_port))
			break;
		record->doorbells++;
		if (record->doorbells == record->limit) {
			why = RUN_LIMIT;
			break;
		}
	}
	end(runner);
	return why;
}

void run_stop(struct runner *runner)
{
	int thread;

	runner->stop = 1;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	*(volatile __u8 *)&runner->run->immediate_exit = 1;
	thread = runner->thread;
	if (thread)
		syscall(SYS_tgkill, getpid(), thread, deadline_signal());
}

void run_clear_stop(struct runner *runner)
{
	runner->stop = 0;
	*(volatile __u8 *)&runner->run->immediate_exit = 0;
}
