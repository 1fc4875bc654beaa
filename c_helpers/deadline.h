/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Deadlines for KVM_RUN. Each thread owns one POSIX timer whose signal goes to that thread alone;
 * the handler sets kvm_run.immediate_exit, so a signal that lands just before KVM_RUN is not lost
 * (Documentation/virt/kvm/api.rst, immediate_exit). The timer is left armed between runs and set
 * anew only when it would come too late: a run of many short entries pays for no system call.
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
 * Call after an EINTR: tells whether the deadline is over (1) or not (0), and *was_ours whether one
 * of our own signals was the cause: the timer, early and set anew, or a kick.
 */
int deadline_check(int *was_ours);

/* Stop guarding; immediate_exit is left 0. */
void deadline_end(void);

/* This thread's id, after deadline_begin. */
int deadline_thread(void);

/* The signal that makes a thread leave KVM_RUN; its handler is in place after deadline_begin. */
int deadline_signal(void);

#endif
