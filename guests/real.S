/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The real-mode guest. It writes GUEST_MAGIC into the mailbox and exits to GUEST_DONE_PORT; after each
 * resume it rings the doorbell as often as the first command's argument says, then exits to
 * GUEST_DONE_PORT again. Exceptions go to the mailbox's own vector and rip. Interrupts are on throughout.
 */
#include "layout.h"
#include "mailbox.h"

	.code16
	.section .text.start, "ax"
	.globl start
start:
	movl	$GUEST_MAGIC, GUEST_MAILBOX + MAILBOX_OFF_MAGIC

done:
	mov	$GUEST_DONE_PORT, %dx
	out	%al, %dx
	mov	GUEST_MAILBOX + MAILBOX_OFF_COMMAND + COMMAND_OFF_ARGUMENT, %ecx
	mov	$GUEST_DOORBELL_PORT, %dx
	test	%ecx, %ecx
	jz	done
	.globl doorbell
doorbell:
	out	%al, %dx
	dec	%ecx
	jnz	doorbell
	jmp	done

/* One stub of 8 bytes for each vector; real mode pushes flags, cs, ip and never an error code. */
	.globl exception_stubs
	.balign	8
exception_stubs:
	.set	vector, 0
	.rept	32
	.balign	8
	push	$vector
	jmp	exception
	.set	vector, vector + 1
	.endr

	.balign	8
exception:	/* vector, ip, cs, flags */
	movzwl	%sp, %ebp
	movzwl	(%bp), %eax
	mov	%eax, GUEST_MAILBOX + MAILBOX_OFF_VECTOR
	movzwl	2(%bp), %eax
	mov	%eax, GUEST_MAILBOX + MAILBOX_OFF_RIP
	mov	$GUEST_FAULT_PORT, %dx
1:
	out	%al, %dx
	jmp	1b

	.globl interrupt
	.balign	8
interrupt:
	iret
