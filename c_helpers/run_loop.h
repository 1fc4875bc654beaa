/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The run loop: KVM_RUN with a deadline and a stop flag, entered once (run_once) or again and again
 * as long as the guest only rings the doorbell (run_loop), without Python between.
 * Every entry and exit is stamped with the TSC.
 */
#ifndef KVMTEST_RUN_LOOP_H
#define KVMTEST_RUN_LOOP_H

#include <pthread.h>
#include <stdint.h>

struct kvm_run;

/* Why a run came back to its caller. */
enum run_end {
	RUN_EXIT,       /* the guest exited: see kvm_run */
	RUN_DEADLINE,   /* the deadline passed with the guest still running */
	RUN_STOPPED,    /* another thread called run_stop */
	RUN_SIGNAL,     /* a signal that is not ours: the caller handles it and runs again */
	RUN_LIMIT,      /* run_loop: the limit of doorbells was reached */
	RUN_ERROR,      /* KVM_RUN failed: see error */
};

/* One vCPU as the run loop sees it. */
struct runner {
	int fd;
	int error;                      /* errno of the last RUN_ERROR */
	struct kvm_run *run;            /* NULL: the vCPU is closed */
	volatile uint32_t stop;         /* the stop flag; cleared by run_clear_stop only */
	volatile int thread;            /* the thread to kick out of a run, 0: none */
	uint64_t entries;               /* KVM_RUN calls, those that a signal ended included */
	uint64_t tsc_entry, tsc_exit;   /* around the last KVM_RUN */
	pthread_mutex_t running;        /* held from a run's begin to its end; all zeros is unlocked */
	pthread_mutex_t stopping;       /* held while a stopper uses run */
};

struct run_stamp {
	uint64_t entry, exit;           /* TSC around one KVM_RUN */
};

/* What run_loop is to do, and what it did. */
struct run_record {
	uint64_t limit;                 /* doorbells to answer, 0: no limit */
	uint64_t doorbells;             /* out: doorbells answered */
	uint64_t stamped;               /* out: entries stamped, those overwritten since included */
	uint64_t capacity;              /* room in stamps: a ring, the newest win */
	struct run_stamp *stamps;
};

/* Enter the guest until it exits, or timeout nanoseconds have passed. */
enum run_end run_once(struct runner *runner, int64_t timeout);

/* The same, but answer each OUT to doorbell_port by re-entering. */
enum run_end run_loop(struct runner *runner, struct run_record *record, uint16_t doorbell_port,
		      int64_t timeout);

/*
 * Make the vCPU leave its run, and every later one, until run_clear_stop. From any thread. A stop
 * that is cleared before the vCPU has seen it may have no effect.
 */
void run_stop(struct runner *runner);
void run_clear_stop(struct runner *runner);

/* Stop the vCPU, wait until it has left its run, and set run to NULL, so that nobody uses it. */
void run_close(struct runner *runner);

#endif
