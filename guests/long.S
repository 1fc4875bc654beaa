/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The 64-bit guest: takes commands from the mailbox. The host puts it straight into long mode with
 * paging, this GDT and TSS, and an IDT made of exception_stubs; interrupts are on throughout.
 *
 * Registers while commands run: r15 mailbox, r14 commands left, r13 command, r12 result.
 */
#include "layout.h"
#include "mailbox.h"

	.code64
	.section .text.start, "ax"
	.globl start
start:
	mov	$GUEST_MAILBOX, %r15d
	movl	$GUEST_MAGIC, MAILBOX_OFF_MAGIC(%r15)

done:
	movq	$0, recovery
	mov	$GUEST_DONE_PORT, %dx
	out	%al, %dx

	.globl resumed
resumed:
	/*
	 * L1 goes on here after an entry to L2 that only the CPU refuses, or a few bytes on: KVM skips the
	 * VMLAUNCH that is not there, by whatever instruction length it finds.
	 */
	.skip	14, 0x90
	movl	$0, MAILBOX_OFF_DONE(%r15)
	movq	$failed, recovery
	lea	MAILBOX_OFF_COMMAND(%r15), %r13
	lea	MAILBOX_OFF_RESULT(%r15), %r12
	mov	MAILBOX_OFF_COUNT(%r15), %r14d
	test	%r14d, %r14d
	jz	done

next:
	mov	(%r13), %eax
	cmp	$COMMANDS, %eax
	jae	unknown
	mov	COMMAND_OFF_ARGUMENT(%r13), %rcx
	mov	COMMAND_OFF_ARGUMENT+8(%r13), %rsi
	jmp	*commands(, %rax, 8)

/* Every command ends here. */
	.globl ok
ok:
	movl	$RESULT_OK, RESULT_OFF_STATUS(%r12)
advance:
	add	$COMMAND_SIZE, %r13
	add	$RESULT_SIZE, %r12
	dec	%r14d
	/* Last: whoever sees it may stop the guest at once, and go on at ok for the command that is next. */
	incl	MAILBOX_OFF_DONE(%r15)
	test	%r14d, %r14d
	jnz	next
	jmp	done

unknown:
	movl	$RESULT_UNKNOWN, RESULT_OFF_STATUS(%r12)
	jmp	advance

/* The exception handler comes here, with what happened already in the result. */
failed:
	movl	$RESULT_FAULT, RESULT_OFF_STATUS(%r12)
	jmp	advance

	.section .rodata
	.balign	8
commands:
	.quad	ok, rdmsr, wrmsr, cpuid, rdpmc, loop, ring, watch, spin

	.text
/* Keep edx:eax as one value. */
	.macro	give_edx_eax
	shl	$32, %rdx
	mov	%eax, %eax
	or	%rdx, %rax
	mov	%rax, RESULT_OFF_VALUE(%r12)
	.endm

rdmsr:	/* rcx msr */
	rdmsr
	give_edx_eax
	jmp	ok

wrmsr:	/* rcx msr, rsi value */
	mov	%esi, %eax
	mov	%rsi, %rdx
	shr	$32, %rdx
	wrmsr
	jmp	ok

cpuid:	/* rcx leaf, rsi subleaf */
	mov	%ecx, %eax
	mov	%esi, %ecx
	cpuid
	mov	%rax, RESULT_OFF_VALUE(%r12)
	mov	%rbx, RESULT_OFF_VALUE+8(%r12)
	mov	%rcx, RESULT_OFF_VALUE+16(%r12)
	mov	%rdx, RESULT_OFF_VALUE+24(%r12)
	jmp	ok

rdpmc:	/* rcx counter */
	rdpmc
	give_edx_eax
	jmp	ok

/* Two instructions a turn, nothing else: what MAILBOX_LOOP_OVERHEAD counts on. */
loop:	/* rcx count, at least 1 */
	dec	%rcx
	jnz	loop
	jmp	ok

ring:	/* rcx count, at least 1 */
	mov	$GUEST_DOORBELL_PORT, %dx
	.globl doorbell
doorbell:
	out	%al, %dx
	dec	%rcx
	jnz	doorbell
	jmp	ok

/*
 * Poll the TSC for rcx ticks. Two polls that are rsi ticks or more apart are a gap, and go into the
 * log while there is room. r8 start, r9 last poll, r10 log, r11 gaps, rdi polls, rbx shortest step,
 * rbp longest.
 */
	.macro	poll
	rdtsc
	shl	$32, %rdx
	or	%rdx, %rax
	.endm

watch:	/* rcx ticks, rsi threshold */
	mov	$GUEST_GAP_LOG, %r10d
	xor	%r11d, %r11d
	xor	%edi, %edi
	mov	$-1, %rbx
	xor	%ebp, %ebp
	poll
	mov	%rax, %r8
	mov	%rax, %r9
1:
	poll
	inc	%rdi
	mov	%rax, %rdx
	sub	%r9, %rdx
	cmp	%rbx, %rdx
	cmovb	%rdx, %rbx
	cmp	%rbp, %rdx
	cmova	%rdx, %rbp
	cmp	%rsi, %rdx
	jae	3f
2:
	mov	%rax, %r9
	sub	%r8, %rax
	cmp	%rcx, %rax
	jb	1b
	mov	%r11, RESULT_OFF_VALUE(%r12)
	mov	%rdi, RESULT_OFF_VALUE+8(%r12)
	mov	%rbx, RESULT_OFF_VALUE+16(%r12)
	mov	%rbp, RESULT_OFF_VALUE+24(%r12)
	jmp	ok
3:
	inc	%r11
	cmp	$GUEST_GAP_CAPACITY, %r11
	ja	2b
	mov	%r9, (%r10)
	mov	%rax, 8(%r10)
	add	$16, %r10
	jmp	2b

	.globl spin
spin:
	jmp	spin

/*
 * Exceptions. One stub of 16 bytes for each vector below 32; those without an error code push a 0.
 * They run on GUEST_FAULT_STACK, so that a broken stack is reported, not a triple fault.
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
	/* A command: its result takes the exception, and the list goes on. */
	pop	%rax
	mov	%eax, RESULT_OFF_VECTOR(%r12)
	pop	%rax
	mov	%rax, RESULT_OFF_ERROR(%r12)
	mov	(%rsp), %rax
	mov	%rax, RESULT_OFF_RIP(%r12)
	mov	recovery, %rax
	mov	%rax, (%rsp)
	iretq
1:	/* No command: say so for ever. */
	mov	$GUEST_MAILBOX, %r15d
	pop	%rax
	mov	%eax, MAILBOX_OFF_VECTOR(%r15)
	pop	%rax
	mov	%rax, MAILBOX_OFF_ERROR(%r15)
	mov	(%rsp), %rax
	mov	%rax, MAILBOX_OFF_RIP(%r15)
	mov	$GUEST_FAULT_PORT, %dx
2:
	out	%al, %dx
	jmp	2b

/* Interrupts from outside need nothing. */
	.globl interrupt
	.balign	16
interrupt:
	iretq

	.data
	.balign	8
recovery:	/* where an exception resumes: 0 outside commands */
	.quad	0

	.globl gdt, gdt_end, tss, tss_end
	.balign	16
gdt:
	.quad	0
	.quad	0x00af9b000000ffff      /* GUEST_CODE_SELECTOR: 64-bit code */
	.quad	0x00cf93000000ffff      /* GUEST_DATA_SELECTOR */
gdt_end:

	.balign	16
tss:
	.space	36
	.quad	GUEST_FAULT_STACK       /* IST 1 */
	.space	104 - 44
tss_end:
