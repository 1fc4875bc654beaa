/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The 64-bit guest that takes commands from the mailbox. Its commands are in commands.S, and what the
 * host needs to put it straight into long mode is in exceptions.S.
 *
 * While commands run, r15 points at the mailbox, r13 at the command and r12 at its result; r14 is the
 * number of commands left.
 */
#include "layout.h"
#include "mailbox.h"

	.code64
	.section .text.start, "ax"
	.globl start
start:
	mov	$GUEST_MAILBOX, %r15d
come_up:
	movl	$GUEST_MAGIC, MAILBOX_OFF_MAGIC(%r15)

done:
	movq	$0, recovery
	mov	$GUEST_DONE_PORT, %dx
	out	%al, %dx

	.globl resumed
resumed:
	/*
	 * After an entry to L2 that only the CPU refuses, L1 goes on here or a few bytes later: KVM skips
	 * a VMLAUNCH that is not there, by whatever instruction length it finds.
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

/* A command that took no exception ends here. */
	.globl ok
ok:
	movl	$RESULT_OK, RESULT_OFF_STATUS(%r12)
advance:
	add	$COMMAND_SIZE, %r13
	add	$RESULT_SIZE, %r12
	dec	%r14d
	/* Last: who sees the count may stop the guest at once, and end the next command at ok. */
	incl	MAILBOX_OFF_DONE(%r15)
	test	%r14d, %r14d
	jnz	next
	jmp	done

unknown:
	movl	$RESULT_UNKNOWN, RESULT_OFF_STATUS(%r12)
	jmp	advance

/* A command that took an exception ends here; the exception is in its result. */
	.globl failed
failed:
	movl	$RESULT_FAULT, RESULT_OFF_STATUS(%r12)
	jmp	advance

/* Guest RIP in vmcs12: an L2 that takes commands from a mailbox of its own. */
	.globl l2_start
l2_start:
	mov	$GUEST_L2_MAILBOX, %r15d
	jmp	come_up

/* eax vector, rbx error, rcx rip of an exception outside commands: say so for ever. */
	.globl report_fault
report_fault:
	cmp	$GUEST_L2_MAILBOX, %r15
	je	1f
	mov	$GUEST_MAILBOX, %r15d
1:
	mov	%eax, MAILBOX_OFF_VECTOR(%r15)
	mov	%rbx, MAILBOX_OFF_ERROR(%r15)
	mov	%rcx, MAILBOX_OFF_RIP(%r15)
	mov	$GUEST_FAULT_PORT, %dx
1:
	out	%al, %dx
	jmp	1b
