/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the guest of long_registers.S needs as a TD: the way from a TD's first instruction to start,
 * and the TDCALLs (Intel TDX Module Base Architecture Specification, "TD VCPU Initial State"; GHCI).
 *
 * A TD starts at 4 GiB - 16 in 32-bit protected mode with flat segments, paging off and no IDT: an
 * exception before the IDT is loaded is a triple fault. EFER.LME is set, and a write of EFER is not
 * allowed. The host has put page tables and IDT where layout.h says.
 */
#include "commands.h"
#include "layout.h"

#define CR0_MP             (1 << 1)
#define CR0_PG             (1 << 31)
#define CR4_PAE            (1 << 5)

#define TDG_VP_VMCALL      0
#define TDG_VP_VEINFO_GET  3
#define EXPOSED_REGISTERS  0xfc00	/* r10 to r15: all that the host sees of a TDG.VP.VMCALL */
#define IO_INSTRUCTION     30
#define REPORT_FATAL_ERROR 0x10003
#define VIRTUALIZATION     20		/* #VE */

	.macro	tdcall
	.byte	0x66, 0x0f, 0x01, 0xcc
	.endm

	.text
	.code32
/* The bytes that the host puts at 4 GiB - 16. */
	.globl reset_vector, reset_vector_end
reset_vector:
	mov	$td_entry, %eax
	jmp	*%eax
reset_vector_end:

	.globl td_entry
td_entry:
	lgdt	gdt_pointer
	/* Bits that the TDX module owns, such as MCE and NE, stay as they are. */
	mov	%cr4, %eax
	or	$CR4_PAE, %eax
	mov	%eax, %cr4
	mov	$GUEST_PML4, %eax
	mov	%eax, %cr3
	mov	%cr0, %eax
	or	$(CR0_PG | CR0_MP), %eax
	mov	%eax, %cr0
	ljmp	$GUEST_CODE_SELECTOR, $1f

	.code64
1:
	mov	$GUEST_DATA_SELECTOR, %eax
	mov	%eax, %ss
	mov	%eax, %ds
	mov	%eax, %es
	mov	$GUEST_TSS_SELECTOR, %eax
	ltr	%ax
	lidt	idt_pointer
	mov	$GUEST_STACK, %esp
	jmp	start

/* One TDG.VP.VMCALL<Instruction.IO>: dx port, eax data; rax is lost or read, all else is kept. */
	.macro	port_io size, is_write
	push	%rcx
	push	%r10
	push	%r11
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	mov	$\size, %r12d
	mov	$\is_write, %r13d
	movzwl	%dx, %r14d
	mov	%eax, %r15d
	mov	$TDG_VP_VMCALL, %eax
	mov	$EXPOSED_REGISTERS, %ecx
	xor	%r10d, %r10d
	mov	$IO_INSTRUCTION, %r11d
	tdcall
	or	%r10, %rax
	jnz	td_give_up
	mov	%r11d, %eax
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%r11
	pop	%r10
	pop	%rcx
	ret
	.endm

	.globl td_read_port, td_write_port, td_write_port_byte
td_read_port:
	port_io	4, 0

td_write_port:
	port_io	4, 1

td_write_port_byte:
	port_io	1, 1

/* A TDG.VP.VMCALL failed with rax, so that no port can say it: report it as fatal, for ever. */
td_give_up:
	mov	%rax, %r12
	mov	$TDG_VP_VMCALL, %eax
	mov	$EXPOSED_REGISTERS, %ecx
	xor	%r10d, %r10d
	mov	$REPORT_FATAL_ERROR, %r11d
	tdcall
	jmp	td_give_up

/*
 * r12 at the result of a command that took an exception. After #VE ask the TDX module why: its exit
 * reason becomes the error code, of which #VE has none. Unasked, the next #VE would be a #DF.
 */
	.globl td_explain_fault
td_explain_fault:
	cmpl	$VIRTUALIZATION, RESULT_OFF_VECTOR(%r12)
	jne	1f
	mov	$TDG_VP_VEINFO_GET, %eax
	tdcall
	mov	%ecx, %ecx
	mov	%rcx, RESULT_OFF_ERROR(%r12)
1:
	ret

	.data
	.balign	8
	.word	0
gdt_pointer:
	.word	GUEST_TSS_SELECTOR + 16 - 1     /* the TSS's descriptor is the last */
	.long	gdt

	.balign	8
	.word	0, 0, 0
idt_pointer:
	.word	256 * 16 - 1
	.quad	GUEST_IDT
