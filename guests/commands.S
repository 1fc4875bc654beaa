/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The commands of a 64-bit guest. The transport's code jumps through the table with a command's
 * arguments in rcx and rsi, and r12 at a struct guest_result; the command jumps to ok.
 */
#include "commands.h"
#include "layout.h"

	.code64
	.section .rodata
	.balign	8
	.globl commands
commands:
	.quad	ok, rdmsr, wrmsr, cpuid, rdpmc, loop, ring, watch, spin, gap
	.quad	hlt, vmcall, vmxon, vmxoff, vmclear, vmptrld, vmread, vmwrite, vmlaunch, vmresume

	.text
/* The result is edx:eax. */
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

/* Two instructions a turn and nothing else: the leak experiment knows how many a loop executes. */
loop:	/* rcx count, at least 1 */
	dec	%rcx
	jnz	loop
	jmp	ok

ring:	/* rcx count, at least 1 */
#ifndef GUEST_TD
	mov	$GUEST_DOORBELL_PORT, %dx
	.globl doorbell
doorbell:
	out	%al, %dx
	dec	%rcx
	jnz	doorbell
	jmp	ok
#else
	mov	$GUEST_DOORBELL_PORT, %edx
	call	td_write_port_byte
	dec	%rcx
	jnz	ring
	jmp	ok
#endif

/*
 * Poll the TSC for rcx ticks. Two polls that are rsi ticks or more apart are a gap, which goes into
 * the log while there is room. r8 first poll, r9 last poll, r10 end of the log, r11 gaps, rdi polls,
 * rbx shortest step, rbp longest step.
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

gap:	/* rcx index in the log of the last watch */
	shl	$4, %rcx
	mov	GUEST_GAP_LOG(%rcx), %rax
	mov	%rax, RESULT_OFF_VALUE(%r12)
	mov	GUEST_GAP_LOG+8(%rcx), %rax
	mov	%rax, RESULT_OFF_VALUE+8(%r12)
	jmp	ok

hlt:
	hlt
	jmp	ok

vmcall:
	vmcall
	jmp	ok
