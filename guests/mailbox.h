/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The mailbox: one page of memory that host and guest share. The host writes a list of commands and
 * resumes the guest; the guest writes a result for each and exits to GUEST_DONE_PORT. An exception
 * outside any command goes to the mailbox's own vector, error and rip.
 */
#ifndef KVMTEST_MAILBOX_H
#define KVMTEST_MAILBOX_H

#include "commands.h"

#define MAILBOX_CAPACITY      32

/*
 * Instructions that the guest retires from the resume after one GUEST_DONE_PORT to the OUT of the
 * next, for a list of exactly one COMMAND_LOOP of count n: MAILBOX_LOOP_OVERHEAD + 2 n. The OUT is
 * not among them: it exits before it retires.
 */
#define MAILBOX_LOOP_OVERHEAD 38

/* The same for a list of exactly one COMMAND_WATCH, beside its polls and gaps. */
#define MAILBOX_WATCH_OVERHEAD 52

/* Offsets for the assembly; the compiler checks each against the structure below. */
#define MAILBOX_OFF_MAGIC     0
#define MAILBOX_OFF_COUNT     4
#define MAILBOX_OFF_DONE      8
#define MAILBOX_OFF_VECTOR    12
#define MAILBOX_OFF_ERROR     16
#define MAILBOX_OFF_RIP       24
#define MAILBOX_OFF_COMMAND   64
#define MAILBOX_OFF_RESULT    1088

#ifndef __ASSEMBLER__
struct mailbox {
	uint32_t magic;         /* guest: GUEST_MAGIC once it has come up */
	uint32_t count;         /* host: commands in the list */
	uint32_t done;          /* guest: commands that have a result */
	uint32_t vector;        /* guest: the exception behind GUEST_FAULT_PORT */
	uint64_t error;
	uint64_t rip;
	uint64_t reserved[4];
	struct guest_command command[MAILBOX_CAPACITY];
	struct guest_result result[MAILBOX_CAPACITY];
};

_Static_assert(offsetof(struct mailbox, magic) == MAILBOX_OFF_MAGIC, "magic");
_Static_assert(offsetof(struct mailbox, count) == MAILBOX_OFF_COUNT, "count");
_Static_assert(offsetof(struct mailbox, done) == MAILBOX_OFF_DONE, "done");
_Static_assert(offsetof(struct mailbox, vector) == MAILBOX_OFF_VECTOR, "vector");
_Static_assert(offsetof(struct mailbox, error) == MAILBOX_OFF_ERROR, "error");
_Static_assert(offsetof(struct mailbox, rip) == MAILBOX_OFF_RIP, "rip");
_Static_assert(offsetof(struct mailbox, command) == MAILBOX_OFF_COMMAND, "commands");
_Static_assert(offsetof(struct mailbox, result) == MAILBOX_OFF_RESULT, "results");
_Static_assert(sizeof(struct mailbox) <= 4096, "the mailbox is one page");
#endif

#endif
