/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How a 64-bit guest reaches the host: by IN and OUT; in a TD by the TDCALLs of td.S, since IN and OUT
 * are #VE there.
 */
#ifndef KVMTEST_HYPERVISOR_H
#define KVMTEST_HYPERVISOR_H

#ifdef GUEST_TD

	.macro	read_port port			/* to rax */
	mov	$\port, %edx
	call	td_read_port
	.endm

	.macro	write_port port			/* from eax, which is lost */
	mov	$\port, %edx
	call	td_write_port
	.endm

	.macro	explain_fault			/* r12 at the result; rax, rcx, rdx, r8 to r10 are lost */
	call	td_explain_fault
	.endm

#else

	.macro	read_port port			/* to rax */
	mov	$\port, %dx
	in	%dx, %eax
	.endm

	.macro	write_port port			/* from eax */
	mov	$\port, %dx
	out	%eax, %dx
	.endm

	.macro	explain_fault
	.endm

#endif

#endif
