/* SPDX-License-Identifier: GPL-2.0-only */
/* Deadlines for KVM_RUN: see deadline.h. */
#define _GNU_SOURCE
#include "deadline.h"

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

struct guard {
	pid_t thread;
	timer_t timer;
	int64_t deadline;
	volatile int64_t armed_until;          /* 0: not armed, or fired since */
	volatile sig_atomic_t kicked;
	struct kvm_run *volatile run;          /* NULL: no run is guarded */
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static int once_error;
/* initial-exec: a signal handler reads it, and must not be the first to allocate it. */
static __thread struct guard *mine __attribute__((tls_model("initial-exec")));

int deadline_signal(void)
{
	return SIGRTMIN + 8;
}

int deadline_thread(void)
{
	return mine->thread;
}

/* Handles both the timer's signal and another thread's kick; only the timer's names a guard. */
static void on_signal(int number, siginfo_t *info, void *context)
{
	struct guard *guard = mine;
	struct kvm_run *run;

	(void)number;
	(void)context;
	if (info->si_code != SI_TIMER) {
		if (guard)
			guard->kicked = 1;
		return;
	}
	guard = info->si_value.sival_ptr;
	guard->armed_until = 0;
	run = guard->run;
	if (run)
		*(volatile __u8 *)&run->immediate_exit = 1;
}

static void free_guard(void *pointer)
{
	struct guard *guard = pointer;
	sigset_t set;

	/* A signal of the deleted timer may be queued already: block it for the thread's last steps. */
	sigemptyset(&set);
	sigaddset(&set, deadline_signal());
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	timer_delete(guard->timer);
	free(guard);
	mine = NULL;
}

/* A child has no timers; the guard that it inherits would name its parent's. */
static void after_fork(void)
{
	if (mine)
		pthread_setspecific(key, NULL);
	free(mine);
	mine = NULL;
}

static void set_up(void)
{
	/* SA_RESTART spares the thread's other system calls; KVM_RUN returns EINTR all the same. */
	struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART};

	sigemptyset(&action.sa_mask);
	once_error = pthread_key_create(&key, free_guard);
	if (!once_error)
		once_error = pthread_atfork(NULL, NULL, after_fork);
	if (!once_error && sigaction(deadline_signal(), &action, NULL))
		once_error = errno;
}

static int new_guard(void)
{
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = deadline_signal()};
	struct guard *guard = calloc(1, sizeof(*guard));
	sigset_t set;
	int error;

	if (!guard)
		return ENOMEM;
	event.sigev_value.sival_ptr = guard;
	guard->thread = (pid_t)syscall(SYS_gettid);
	event.sigev_notify_thread_id = guard->thread;
	if (timer_create(CLOCK_MONOTONIC, &event, &guard->timer)) {
		error = errno;
		free(guard);
		return error;
	}
	error = pthread_setspecific(key, guard);
	if (error) {
		timer_delete(guard->timer);
		free(guard);
		return error;
	}
	sigemptyset(&set);
	sigaddset(&set, deadline_signal());
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	mine = guard;
	return 0;
}

static int arm(struct guard *guard)
{
	struct itimerspec when = {
		.it_value.tv_sec = guard->deadline / 1000000000,
		.it_value.tv_nsec = guard->deadline % 1000000000,
	};

	/* Written first: a timer that is due at once fires before timer_settime returns. */
	guard->armed_until = guard->deadline;
	if (timer_settime(guard->timer, TIMER_ABSTIME, &when, NULL)) {
		guard->armed_until = 0;
		return errno;
	}
	return 0;
}

int deadline_begin(struct kvm_run *run, int64_t deadline)
{
	int64_t armed_until;
	int error;

	pthread_once(&once, set_up);
	if (once_error)
		return once_error;
	if (!mine) {
		error = new_guard();
		if (error)
			return error;
	}
	mine->deadline = deadline;
	mine->kicked = 0;
	mine->run = run;
	/* Read after run is set: a timer that fires from here on is seen by KVM_RUN. */
	armed_until = mine->armed_until;
	if (armed_until && armed_until <= deadline)
		return 0;
	return arm(mine);
}

int deadline_check(int *was_ours)
{
	int fired = !mine->armed_until;

	*was_ours = fired || mine->kicked;
	mine->kicked = 0;
	if (clock_now() >= mine->deadline)
		return 1;
	if (fired)
		arm(mine);
	return 0;
}

void deadline_end(void)
{
	struct kvm_run *run = mine->run;

	mine->run = NULL;
	__asm__ volatile("" ::: "memory");
	*(volatile __u8 *)&run->immediate_exit = 0;
}
