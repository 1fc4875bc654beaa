/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How the VMX instructions of an L1 end, and what L1 keeps of L2 while L2 does not run. The commands
 * for them are in commands.h.
 */
#ifndef KVMTEST_VMX_H
#define KVMTEST_VMX_H

/* The first value of each command for a VMX instruction. */
#define VMX_SUCCEEDED         0             /* the second value is what VMREAD read */
#define VMX_FAIL_INVALID      1             /* VMfailInvalid: there is no current VMCS */
#define VMX_FAIL_VALID        2             /* VMfailValid: the second value is the VM-instruction error */
#define VMX_EXITED            3             /* VM-exit: exit reason, exit qualification, L2's RIP */

/* Encodings of VMCS fields, Intel SDM volume 3, appendix B. */
#define VMCS_VM_INSTRUCTION_ERROR 0x4400
#define VMCS_VM_EXIT_REASON       0x4402
#define VMCS_EXIT_QUALIFICATION   0x6400
#define VMCS_GUEST_RIP            0x681e

/* Offsets for the assembly; the compiler checks each against the structure below. */
#define GUEST_GPRS_OFF_RAX    0
#define GUEST_GPRS_OFF_RBX    8
#define GUEST_GPRS_OFF_RCX    16
#define GUEST_GPRS_OFF_RDX    24
#define GUEST_GPRS_OFF_RSI    32
#define GUEST_GPRS_OFF_RDI    40
#define GUEST_GPRS_OFF_RBP    48
#define GUEST_GPRS_OFF_R8     56
#define GUEST_GPRS_OFF_R9     64
#define GUEST_GPRS_OFF_R10    72
#define GUEST_GPRS_OFF_R11    80
#define GUEST_GPRS_OFF_R12    88
#define GUEST_GPRS_OFF_R13    96
#define GUEST_GPRS_OFF_R14    104
#define GUEST_GPRS_OFF_R15    112
#define GUEST_GPRS_SIZE       120

#ifndef __ASSEMBLER__
#include <stddef.h>
#include <stdint.h>

/* L2's registers that the CPU keeps in no VMCS: L1 loads them before an entry, and stores them after
 * an exit, at its symbol l2_registers. */
struct guest_gprs {
	uint64_t rax, rbx, rcx, rdx, rsi, rdi, rbp;
	uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
};

_Static_assert(offsetof(struct guest_gprs, rbp) == GUEST_GPRS_OFF_RBP, "rbp");
_Static_assert(offsetof(struct guest_gprs, r15) == GUEST_GPRS_OFF_R15, "r15");
_Static_assert(sizeof(struct guest_gprs) == GUEST_GPRS_SIZE, "all");
#endif

#endif
