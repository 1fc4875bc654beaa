/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The 64-bit guest that takes commands through registers, and otherwise the one of long.S; with td.S
 * it is a TD.
 *
 * While commands run, r12 points at the result, which is in memory of the guest's own.
 */
#include "hypervisor.h"
#include "layout.h"
#include "registers.h"

	.macro	read_argument number, to
	read_port (REGISTERS_COMMAND_PORT + COMMAND_OFF_ARGUMENT + 8 * \number)
	mov	%rax, \to
	read_port (REGISTERS_COMMAND_PORT + COMMAND_OFF_ARGUMENT + 8 * \number + 4)
	shl	$32, %rax
	or	%rax, \to
	.endm

	.macro	write_result offset
	mov	\offset(%r12), %eax
	write_port (REGISTERS_RESULT_PORT + \offset)
	.endm

	.code64
	.section .text.start, "ax"
	.globl start
start:
	mov	$GUEST_MAGIC, %eax
	write_port REGISTERS_HELLO_PORT

done:
	movq	$0, recovery
	write_port GUEST_DONE_PORT
	movq	$failed, recovery
	mov	$result, %r12d

next:
	read_port REGISTERS_LEFT_PORT
	test	%eax, %eax
	jz	done
	read_port REGISTERS_COMMAND_PORT
	cmp	$COMMANDS, %eax
	jae	unknown
	mov	%eax, %ebx
	read_argument 0, %rcx
	read_argument 1, %rsi
	jmp	*commands(, %rbx, 8)

/* A command that took no exception ends here. */
	.globl ok
ok:
	.irp	half, 0, 4, 8, 12, 16, 20, 24, 28
	write_result RESULT_OFF_VALUE+\half
	.endr
	mov	$RESULT_OK, %eax
advance:
	write_port (REGISTERS_RESULT_PORT + RESULT_OFF_STATUS)
	jmp	next

unknown:
	mov	$RESULT_UNKNOWN, %eax
	jmp	advance

/* A command that took an exception ends here; the exception is in its result. */
	.globl failed
failed:
	explain_fault
	write_result RESULT_OFF_VECTOR
	write_result RESULT_OFF_ERROR
	write_result RESULT_OFF_ERROR+4
	write_result RESULT_OFF_RIP
	write_result RESULT_OFF_RIP+4
	mov	$RESULT_FAULT, %eax
	jmp	advance

/* eax vector, rbx error, rcx rip of an exception outside commands: say so for ever. */
	.globl report_fault
report_fault:
	mov	$result, %r12d
	mov	%eax, RESULT_OFF_VECTOR(%r12)
	mov	%rbx, RESULT_OFF_ERROR(%r12)
	mov	%rcx, RESULT_OFF_RIP(%r12)
	write_result RESULT_OFF_VECTOR
	write_result RESULT_OFF_ERROR
	write_result RESULT_OFF_ERROR+4
	write_result RESULT_OFF_RIP
	write_result RESULT_OFF_RIP+4
1:
	write_port GUEST_FAULT_PORT
	jmp	1b

	.data
	.balign	8
result:	/* struct guest_result */
	.space	RESULT_SIZE
