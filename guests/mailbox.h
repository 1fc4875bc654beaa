/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The mailbox: one page that host and guest share. The host writes a list of commands and resumes
 * the guest; the guest writes a result for each and rings MAILBOX_DONE_PORT. An exception while a
 * command runs ends that command alone, and its result says which; any other exception is put into
 * the mailbox's own fault record and MAILBOX_FAULT_PORT is rung.
 */
#ifndef KVMTEST_MAILBOX_H
#define KVMTEST_MAILBOX_H

#define MAILBOX_MAGIC         0x74736574    /* "test": the guest has come up */

/* I/O ports; each is an exit of its own. */
#define MAILBOX_DOORBELL_PORT 0x1c0         /* nothing to do: enter again */
#define MAILBOX_DONE_PORT     0x1c1         /* every command has its result */
#define MAILBOX_FAULT_PORT    0x1c2         /* an exception outside any command */

/* Commands, and what they take and give. */
#define MAILBOX_NOP           0
#define MAILBOX_RDMSR         1             /* msr                  -> value */
#define MAILBOX_WRMSR         2             /* msr, value           -> */
#define MAILBOX_CPUID         3             /* leaf, subleaf        -> eax, ebx, ecx, edx */
#define MAILBOX_RDPMC         4             /* counter              -> value */
#define MAILBOX_LOOP          5             /* count                -> */
#define MAILBOX_EXIT          6             /* count                -> : rings the doorbell count times */
#define MAILBOX_WATCH         7             /* ticks, threshold     -> gaps, polls, shortest, longest */
#define MAILBOX_SPIN          8             /*                      -> never comes back */
#define MAILBOX_COMMANDS      9

/* A result's status. */
#define MAILBOX_PENDING       0
#define MAILBOX_OK            1
#define MAILBOX_FAULT         2             /* an exception: vector, error, rip */
#define MAILBOX_UNKNOWN       3             /* no such command */

#define MAILBOX_CAPACITY      32

/*
 * Instructions that the guest retires from the resume after one MAILBOX_DONE_PORT to the OUT of the
 * next, for a list of exactly one MAILBOX_LOOP of count n: MAILBOX_LOOP_OVERHEAD + 2 n. The OUT is
 * not among them: it exits before it retires.
 */
#define MAILBOX_LOOP_OVERHEAD 38

/*
 * The same for a list of exactly one MAILBOX_WATCH: the overhead, and so many for each poll and for each
 * gap that is logged.
 */
#define MAILBOX_WATCH_OVERHEAD 52
#define MAILBOX_WATCH_POLL     16
#define MAILBOX_WATCH_GAP      7

/* Offsets for the assembly; the structures below have a compile-time check of each. */
#define MAILBOX_OFF_MAGIC     0
#define MAILBOX_OFF_COUNT     4
#define MAILBOX_OFF_DONE      8
#define MAILBOX_OFF_VECTOR    12
#define MAILBOX_OFF_ERROR     16
#define MAILBOX_OFF_RIP       24
#define MAILBOX_OFF_COMMAND   64
#define MAILBOX_OFF_RESULT    1088
#define COMMAND_SIZE          32
#define COMMAND_OFF_ARGUMENT  8
#define RESULT_SIZE           64
#define RESULT_OFF_STATUS     0
#define RESULT_OFF_VECTOR     4
#define RESULT_OFF_ERROR      8
#define RESULT_OFF_RIP        16
#define RESULT_OFF_VALUE      24

#ifndef __ASSEMBLER__
#include <stddef.h>
#include <stdint.h>

struct mailbox_command {
	uint32_t op;
	uint32_t reserved;
	uint64_t argument[3];
};

struct mailbox_result {
	uint32_t status;
	uint32_t vector;
	uint64_t error;
	uint64_t rip;
	uint64_t value[4];
	uint64_t reserved;
};

struct mailbox {
	uint32_t magic;
	uint32_t count;         /* host: commands in the list */
	uint32_t done;          /* guest: commands that have a result */
	uint32_t vector;        /* guest: the exception behind MAILBOX_FAULT_PORT */
	uint64_t error;
	uint64_t rip;
	uint64_t reserved[4];
	struct mailbox_command command[MAILBOX_CAPACITY];
	struct mailbox_result result[MAILBOX_CAPACITY];
};

/* A hole in the guest's time, seen by MAILBOX_WATCH: TSC values of the polls on both sides of it. */
struct gap {
	uint64_t begin;
	uint64_t end;
};

_Static_assert(sizeof(struct mailbox_command) == COMMAND_SIZE, "command");
_Static_assert(offsetof(struct mailbox_command, argument) == COMMAND_OFF_ARGUMENT, "argument");
_Static_assert(sizeof(struct mailbox_result) == RESULT_SIZE, "result");
_Static_assert(offsetof(struct mailbox_result, vector) == RESULT_OFF_VECTOR, "vector");
_Static_assert(offsetof(struct mailbox_result, error) == RESULT_OFF_ERROR, "error");
_Static_assert(offsetof(struct mailbox_result, rip) == RESULT_OFF_RIP, "rip");
_Static_assert(offsetof(struct mailbox_result, value) == RESULT_OFF_VALUE, "value");
_Static_assert(offsetof(struct mailbox, vector) == MAILBOX_OFF_VECTOR, "vector");
_Static_assert(offsetof(struct mailbox, error) == MAILBOX_OFF_ERROR, "error");
_Static_assert(offsetof(struct mailbox, rip) == MAILBOX_OFF_RIP, "rip");
_Static_assert(offsetof(struct mailbox, command) == MAILBOX_OFF_COMMAND, "commands");
_Static_assert(offsetof(struct mailbox, result) == MAILBOX_OFF_RESULT, "results");
_Static_assert(sizeof(struct mailbox) <= 4096, "the mailbox is one page");
#endif

#endif
