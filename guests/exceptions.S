/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Exceptions and interrupts of a 64-bit guest, and the tables that the host points the vCPU at: GDT
 * and TSS are here, and the host makes the IDT of exception_stubs and interrupt. Interrupts are on
 * throughout.
 */
#include "commands.h"
#include "layout.h"

	.code64
	.text
/*
 * One stub of 16 bytes for each vector below 32; those without an error code push a 0. They run on
 * GUEST_FAULT_STACK: otherwise a broken stack would be a triple fault.
 */
	.globl exception_stubs
	.balign	16
exception_stubs:
	.set	vector, 0
	.rept	32
	.balign	16
	.if	!((1 << vector) & 0x60227d00)   /* 8, 10-14, 17, 21, 29, 30 push an error code */
	push	$0
	.endif
	push	$vector
	jmp	exception
	.set	vector, vector + 1
	.endr

	.balign	16
exception:	/* vector, error, rip, cs, rflags, rsp, ss */
	cmpq	$0, recovery
	je	1f
	/* In a command: the exception goes into its result, and the list goes on. */
	pop	%rax
	mov	%eax, RESULT_OFF_VECTOR(%r12)
	pop	%rax
	mov	%rax, RESULT_OFF_ERROR(%r12)
	mov	(%rsp), %rax
	mov	%rax, RESULT_OFF_RIP(%r12)
	mov	recovery, %rax
	mov	%rax, (%rsp)
	iretq
1:	/* Outside commands. */
	pop	%rax
	pop	%rbx
	mov	(%rsp), %rcx
	jmp	report_fault

/* An interrupt needs nothing done. */
	.globl interrupt
	.balign	16
interrupt:
	iretq

	.data
	.balign	8
	.globl recovery
recovery:	/* where the guest goes on after an exception; 0 outside commands */
	.quad	0

	.globl gdt, gdt_end, tss, tss_end
	.balign	16
gdt:
	.quad	0
	.quad	0x00af9b000000ffff      /* GUEST_CODE_SELECTOR: 64-bit code */
	.quad	0x00cf93000000ffff      /* GUEST_DATA_SELECTOR */
	.word	tss_end - tss - 1, tss  /* GUEST_TSS_SELECTOR: an available TSS below 64 KiB */
	.byte	0, 0x89, 0, 0
	.quad	0
gdt_end:

	.balign	16
tss:
	.space	36
	.quad	GUEST_FAULT_STACK       /* IST 1 */
	.space	104 - 44
tss_end:
