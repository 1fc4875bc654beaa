/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The commands of a 64-bit guest that make it an L1: VMX instructions, each with its outcome. The
 * host says which fields vmcs12 gets, and when L2 is entered.
 *
 * L2 is another guest of the same image in the same memory, with a transport of its own. Its I/O
 * reaches the host unless vmcs12 intercepts it, so that either of the two may come out of KVM_RUN.
 * The command that enters L2 has its result at the next exit to L1, however many KVM_RUNs later.
 */
#include "commands.h"
#include "layout.h"
#include "vmx.h"

#define CR4_VMXE (1 << 13)

	.code64
	.text
	.globl vmxon, vmxoff, vmclear, vmptrld, vmread, vmwrite, vmlaunch, vmresume
vmxon:	/* rcx region, rsi revision */
	mov	%cr4, %rax
	or	$CR4_VMXE, %rax
	mov	%rax, %cr4
	mov	%esi, (%rcx)
	mov	%rcx, operand
	vmxon	operand
	jmp	outcome

vmxoff:
	vmxoff
	jmp	outcome

vmclear:	/* rcx region, rsi revision */
	mov	%esi, (%rcx)
	mov	%rcx, operand
	vmclear	operand
	jmp	outcome

vmptrld:	/* rcx region */
	mov	%rcx, operand
	vmptrld	operand
	jmp	outcome

vmread:	/* rcx field */
	vmread	%rcx, %rax
	mov	%rax, RESULT_OFF_VALUE+8(%r12)
	jmp	outcome

vmwrite:	/* rcx field, rsi value */
	vmwrite	%rsi, %rcx
	jmp	outcome

	.macro	vmread_to field, offset
	mov	$\field, %ecx
	vmread	%rcx, %rax
	mov	%rax, RESULT_OFF_VALUE+\offset(%r12)
	.endm

/* CF and ZF are those of a VMX instruction. */
outcome:
	jc	1f
	jz	2f
	movq	$VMX_SUCCEEDED, RESULT_OFF_VALUE(%r12)
	jmp	ok
1:
	movq	$VMX_FAIL_INVALID, RESULT_OFF_VALUE(%r12)
	jmp	ok
2:
	movq	$VMX_FAIL_VALID, RESULT_OFF_VALUE(%r12)
	vmread_to VMCS_VM_INSTRUCTION_ERROR, 8
	jmp	ok

/* Every register that no VMCS has, but for RSP. */
	.macro	each_register do
	\do	%rax, GUEST_GPRS_OFF_RAX
	\do	%rbx, GUEST_GPRS_OFF_RBX
	\do	%rcx, GUEST_GPRS_OFF_RCX
	\do	%rdx, GUEST_GPRS_OFF_RDX
	\do	%rsi, GUEST_GPRS_OFF_RSI
	\do	%rdi, GUEST_GPRS_OFF_RDI
	\do	%rbp, GUEST_GPRS_OFF_RBP
	\do	%r8, GUEST_GPRS_OFF_R8
	\do	%r9, GUEST_GPRS_OFF_R9
	\do	%r10, GUEST_GPRS_OFF_R10
	\do	%r11, GUEST_GPRS_OFF_R11
	\do	%r12, GUEST_GPRS_OFF_R12
	\do	%r13, GUEST_GPRS_OFF_R13
	\do	%r14, GUEST_GPRS_OFF_R14
	\do	%r15, GUEST_GPRS_OFF_R15
	.endm

	.macro	load_l2 register, offset
	mov	l2_registers+\offset, \register
	.endm

	.macro	store_l2 register, offset
	mov	\register, l2_registers+\offset
	.endm

	.macro	load_l1		/* flags stay */
	mov	l1_registers, %r12
	mov	l1_registers+8, %r13
	mov	l1_registers+16, %r14
	mov	l1_registers+24, %r15
	.endm

	.macro	store_l1
	mov	%r12, l1_registers
	mov	%r13, l1_registers+8
	mov	%r14, l1_registers+16
	mov	%r15, l1_registers+24
	.endm

	.macro	enter_l2 instruction
	/* Outside VMX operation this is #UD, while the registers are still L1's. */
	vmptrst	operand
	store_l1
	each_register load_l2
	\instruction
	load_l1
	jmp	outcome
	.endm

vmlaunch:
	enter_l2 vmlaunch

vmresume:
	enter_l2 vmresume

/* Host RIP in vmcs12: L1 goes on here after an exit from L2, with L2's registers. */
	.globl vm_exit
vm_exit:
	each_register store_l2
	load_l1
	sti
	/* What L2 did left the place of an exception in L2. */
	movq	$failed, recovery
	movq	$VMX_EXITED, RESULT_OFF_VALUE(%r12)
	vmread_to VMCS_VM_EXIT_REASON, 8
	vmread_to VMCS_EXIT_QUALIFICATION, 16
	vmread_to VMCS_GUEST_RIP, 24
	jmp	ok

	.data
	.balign	8
operand:	/* an address, for the instructions that take it from memory */
	.quad	0
l1_registers:	/* r12 to r15 of the command that entered L2 */
	.space	4 * 8
	.globl l2_registers
l2_registers:	/* struct guest_gprs */
	.space	GUEST_GPRS_SIZE
