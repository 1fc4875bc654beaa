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

static inline void set_immediate_exit(struct runner *runner, __u8 value)
{
	*(volatile __u8 *)&runner->run->immediate_exit = value;
}

/* Stopper and runner each write, then read what the other writes: the write must come first. */
static inline void meet_other_thread(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* One KVM_RUN, repeated only if our timer fired early, or a kick came late. */
static inline enum run_end enter(struct runner *runner)
{
	int failed, was_ours, was_immediate;

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
		was_immediate = *(volatile __u8 *)&runner->run->immediate_exit;
		set_immediate_exit(runner, 0);
		runner->thread = deadline_thread();
		meet_other_thread();
		if (runner->stop)
			return RUN_STOPPED;
		if (deadline_check(&was_ours))
			return RUN_DEADLINE;
		if (!was_ours && !was_immediate)
			return RUN_SIGNAL;
	}
}

static int begin(struct runner *runner, int64_t timeout)
{
	pthread_mutex_lock(&runner->running);
	if (runner->run) {
		/* A stop that was cleared since left it set. Before the timer is armed, which sets it too. */
		set_immediate_exit(runner, 0);
		runner->error = deadline_begin(runner->run, clock_now() + timeout);
	} else {
		runner->error = EBADF;
	}
	if (runner->error) {
		pthread_mutex_unlock(&runner->running);
		return -1;
	}
	runner->thread = deadline_thread();
	meet_other_thread();
	return 0;
}

static void end(struct runner *runner)
{
	runner->thread = 0;
	deadline_end();
	pthread_mutex_unlock(&runner->running);
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
	uint64_t entries;

	record->doorbells = 0;
	record->stamped = 0;
	if (begin(runner, timeout))
		return RUN_ERROR;
	for (;;) {
		entries = runner->entries;
		why = enter(runner);
		/* A stop may come before the first entry. */
		if (record->capacity && runner->entries != entries) {
			struct run_stamp *stamp = &record->stamps[record->stamped++ % record->capacity];

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
	int thread = 0;

	runner->stop = 1;
	pthread_mutex_lock(&runner->stopping);
	if (runner->run) {
		set_immediate_exit(runner, 1);
		/* Taken, so that an entry is kicked only once: a flood of signals would hold it up. */
		thread = __atomic_exchange_n(&runner->thread, 0, __ATOMIC_SEQ_CST);
	}
	pthread_mutex_unlock(&runner->stopping);
	if (thread)
		syscall(SYS_tgkill, getpid(), thread, deadline_signal());
}

void run_clear_stop(struct runner *runner)
{
	/* immediate_exit may be the timer's by now: the runner clears it. */
	runner->stop = 0;
}

void run_close(struct runner *runner)
{
	run_stop(runner);
	pthread_mutex_lock(&runner->running);
	pthread_mutex_lock(&runner->stopping);
	runner->run = NULL;
	runner->fd = -1;
	pthread_mutex_unlock(&runner->stopping);
	pthread_mutex_unlock(&runner->running);
}
