/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a guest can be asked to do, and what it answers, whichever way the two travel. An exception
 * while a command runs ends that command alone, and its result says which exception; on any other
 * exception the guest reports it and exits to GUEST_FAULT_PORT for ever.
 */
#ifndef KVMTEST_COMMANDS_H
#define KVMTEST_COMMANDS_H

#define GUEST_MAGIC           0x74736574    /* "test": the guest has come up */

/* I/O ports; each is an exit of its own. */
#define GUEST_DOORBELL_PORT   0x1c0         /* nothing to do: enter again */
#define GUEST_DONE_PORT       0x1c1         /* every command has its result */
#define GUEST_FAULT_PORT      0x1c2         /* an exception outside any command */

/* Commands: arguments -> values. */
#define COMMAND_NOP           0
#define COMMAND_RDMSR         1             /* msr              -> value */
#define COMMAND_WRMSR         2             /* msr, value       -> */
#define COMMAND_CPUID         3             /* leaf, subleaf    -> eax, ebx, ecx, edx */
#define COMMAND_RDPMC         4             /* counter          -> value */
#define COMMAND_LOOP          5             /* count            -> */
#define COMMAND_RING          6             /* count            -> ; rings the doorbell count times */
#define COMMAND_WATCH         7             /* ticks, threshold -> gaps, polls, shortest, longest */
#define COMMAND_SPIN          8             /*                  -> never ends */
#define COMMAND_GAP           9             /* index            -> begin, end; of the last watch */
#define COMMAND_HLT           10            /*                  -> */
#define COMMAND_VMCALL        11            /*                  -> ; as L2: exits to L1 */

/* Of an L1; the first value is the outcome, VMX_* in vmx.h. */
#define COMMAND_VMXON         12            /* region, revision -> outcome */
#define COMMAND_VMXOFF        13            /*                  -> outcome */
#define COMMAND_VMCLEAR       14            /* region, revision -> outcome */
#define COMMAND_VMPTRLD       15            /* region           -> outcome */
#define COMMAND_VMREAD        16            /* field            -> outcome, value */
#define COMMAND_VMWRITE       17            /* field, value     -> outcome */
#define COMMAND_VMLAUNCH      18            /*                  -> outcome, reason, qualification, rip */
#define COMMAND_VMRESUME      19            /*                  -> outcome, reason, qualification, rip */
#define COMMANDS              20

/* A result's status. */
#define RESULT_PENDING        0
#define RESULT_OK             1
#define RESULT_FAULT          2             /* an exception: vector, error, rip */
#define RESULT_UNKNOWN        3             /* no such command */

/* Instructions that COMMAND_WATCH retires for each poll, and more for each gap that it logs. */
#define COMMAND_WATCH_POLL    16
#define COMMAND_WATCH_GAP     7

/* Offsets for the assembly; the compiler checks each against the structures below. */
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

struct guest_command {
	uint32_t op;
	uint32_t reserved;
	uint64_t argument[3];
};

struct guest_result {
	uint32_t status;
	uint32_t vector;
	uint64_t error;
	uint64_t rip;
	uint64_t value[4];
	uint64_t reserved;
};

/* A hole in the guest's time that COMMAND_WATCH saw: the TSC at the polls before and after it. */
struct guest_gap {
	uint64_t begin;
	uint64_t end;
};

_Static_assert(sizeof(struct guest_command) == COMMAND_SIZE, "command");
_Static_assert(offsetof(struct guest_command, argument) == COMMAND_OFF_ARGUMENT, "argument");
_Static_assert(sizeof(struct guest_result) == RESULT_SIZE, "result");
_Static_assert(offsetof(struct guest_result, vector) == RESULT_OFF_VECTOR, "vector");
_Static_assert(offsetof(struct guest_result, error) == RESULT_OFF_ERROR, "error");
_Static_assert(offsetof(struct guest_result, rip) == RESULT_OFF_RIP, "rip");
_Static_assert(offsetof(struct guest_result, value) == RESULT_OFF_VALUE, "value");
#endif

#endif
