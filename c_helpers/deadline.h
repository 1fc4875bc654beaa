/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Deadlines for KVM_RUN. Each thread owns one POSIX timer whose signal goes to that thread alone;
 * the handler sets kvm_run.immediate_exit, so a signal that lands just before KVM_RUN is not lost
 * (Documentation/virt/kvm/api.rst, immediate_exit). The timer stays armed between runs, and is set
 * anew only when it would fire too late: many short entries cost no system call.
 */
#ifndef KVMTEST_DEADLINE_H
#define KVMTEST_DEADLINE_H

#include <stdint.h>

struct kvm_run;

/*
 * Guard run until the time deadline (ns, CLOCK_MONOTONIC): from then on KVM_RUN of this thread
 * returns EINTR. Returns 0 or an errno.
 */
int deadline_begin(struct kvm_run *run, int64_t deadline);

/*
 * Call after an EINTR: returns 1 once the deadline has passed, else 0. *was_ours tells whether one of
 * our own signals was the cause: the timer, which fired early and is set anew, or a kick.
 */
int deadline_check(int *was_ours);

/* Stop guarding; immediate_exit is left 0. */
void deadline_end(void);

/* This thread's id, after deadline_begin. */
int deadline_thread(void);

/* The signal that makes a thread leave KVM_RUN; its handler is in place after deadline_begin. */
int deadline_signal(void);

#endif
