/* SPDX-License-Identifier: GPL-2.0-only */
/* The places in the objects of the known build of what is looked at. */
#ifndef KVMTEST_BOCHS_PLACES_H
#define KVMTEST_BOCHS_PLACES_H

#include <stdint.h>

#define AT(type, object, place) (*(type *)((char *)(object) + (place)))

/* BX_CPU_C */
#define NUMBER          0x30 /* 32 bits */
#define RAX             0x58
#define RCX             0x60
#define RDX             0x68
#define RIP             0xd8
#define PREVIOUS_RIP    0x110
#define SPECULATIVE_RSP 0x128 /* bool */
#define COUNT           0x130 /* of steps of the loop: instructions, iterations of REP, faults */
#define CPL             0x175 /* 8 bits */
#define CR0             0x29c /* 32 bits */
#define CR4             0x2b0 /* 32 bits */
#define SMBASE          0xe38 /* 32 bits */
#define ASYNC_EVENT     0x93b8 /* 32 bits */
#define IN_REPEAT       0x93bc /* bool: the last REP that was stepped has iterations left */
#define STOPS           0x9438 /* two bools: at a watchpoint, at a magic breakpoint */
#define STOP_REASON     0x943a
#define TRACE           0x943b /* bool */
#define LIMIT           0x9450 /* of COUNT */

/* bx_pc_system */
#define COUNTDOWN       0x1638 /* of ticks; 32 bits */

/* bx_guard */
#define GUARD_INTERRUPT 0x520 /* bool */

/* bx_cpuid_t */
#define MODEL_CPU       0x8 /* pointer */

#endif
