/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From the reset vector to long mode, on both CPUs, and what an exception or an interrupt runs into.
 *
 * The instructions of handlers are counted too; each says how many it has.
 */
#include "machine.h"

	.section .reset, "ax"
	.code16
	ljmp	$ROM_SEGMENT, $(reset - IMAGE)

	.section .text.start, "ax"
	.globl	reset
reset:
	cli
	cld
	mov	$ROM_SEGMENT, %ax
	mov	%ax, %ds
	mov	$IMAGE >> 4, %ax
	mov	%ax, %es
	xor	%si, %si
	xor	%di, %di
	mov	$IMAGE_SIZE / 4, %cx
	rep movsl
	ljmp	$IMAGE >> 4, $(1f - IMAGE)
1:
	mov	%ax, %ds
	in	$0x92, %al	/* A20 */
	or	$2, %al
	out	%al, $0x92
	xor	%ebx, %ebx
	jmp	enter_long_mode

/* The second CPU starts here by SIPI, at a copy of these instructions. */
	.globl	trampoline, trampoline_end
trampoline:
	cli
	cld
	mov	$IMAGE >> 4, %ax
	mov	%ax, %ds
	mov	$1, %ebx
	ljmp	$IMAGE >> 4, $(enter_long_mode - IMAGE)
trampoline_end:

/* ebx: the CPU's number */
enter_long_mode:
	lgdtl	gdt_pointer - IMAGE
	mov	$(1 << 5) | (1 << 9) | (1 << 10), %eax	/* CR4: PAE, OSFXSR, OSXMMEXCPT */
	mov	%eax, %cr4
	mov	$page_map, %eax
	mov	%eax, %cr3
	mov	$0xc0000080, %ecx
	rdmsr
	or	$1 << 8, %eax				/* EFER.LME */
	wrmsr
	mov	$0x80000033, %eax			/* CR0: PG, NE, ET, MP, PE */
	mov	%eax, %cr0
	ljmpl	$CODE, $1f

	.code64
1:
	mov	$DATA, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %fs
	mov	%eax, %gs
	mov	%eax, %ss
	test	%ebx, %ebx
	jnz	second
	mov	$stack_end, %esp
	mov	$BSS, %edi
	mov	$bss_end, %ecx
	sub	%edi, %ecx
	xor	%eax, %eax
	rep stosb
	call	first_main
	hlt
second:
	mov	$second_stack_end, %esp
	call	second_main
1:
	hlt
	jmp	1b

/*
 * Handlers: stubs with the instructions that return from what is expected. Anything else ends the machine.
 */
	.globl	on_db, on_ud, on_gp, on_pf, on_np, on_timer, on_injected, on_leave, on_unexpected

/* The end of single steps: 3 */
on_db:
	incl	faulted
	andl	$~(1 << 8), 16(%rsp)
	iretq

/* An instruction of two bytes that is skipped: 3 instructions. */
on_ud:
	incl	faulted
	addq	$2, (%rsp)
	iretq

/* The same, with an error code: 4. */
on_gp:
	incl	faulted
	add	$8, %rsp
	addq	$2, (%rsp)
	iretq

/* The page becomes present: 4. */
on_pf:
	incl	faulted
	add	$8, %rsp
	orl	$1, absent_entry
	iretq

/* Of an interrupt whose gate is not present: 3. */
on_np:
	incl	faulted
	add	$8, %rsp
	iretq

/* 6 */
on_timer:
	incl	interrupts
	push	%rax
	mov	$APIC + 0xb0, %eax	/* EOI */
	movl	$0, (%rax)
	pop	%rax
	iretq

/* 2 */
on_injected:
	incl	injected
	iretq

/* 1 */
on_leave:
	jmp	*%r15

on_unexpected:
	mov	(%rsp), %rdi
	mov	8(%rsp), %rsi
	call	unexpected

	.data
	.balign	8
	.globl	gdt
gdt:	.quad	0
	.quad	0x00af9b000000ffff	/* CODE */
	.quad	0x00cf93000000ffff	/* DATA */
	.quad	0x00cff3000000ffff	/* USER_DATA */
	.quad	0x00affb000000ffff	/* USER_CODE */
	.skip	32			/* TASK(0), TASK(1) */
gdt_end:
	.globl	gdt_pointer
gdt_pointer:
	.word	gdt_end - gdt - 1
	.long	gdt
	.long	0

/* Large pages, present, writable, for CPL 3 too: 0x87. */
	.balign	4096
page_map:
	.quad	page_pointers + 0x7
	.skip	4096 - 8
page_pointers:
	.quad	page_directory + 0x7
	.quad	0x40000087, 0x80000087, 0xc0000087	/* of 1 GiB */
	.skip	4096 - 32
page_directory:
	.set	address, 0
	.rept	512
	.if	address == ABSENT
	.globl	absent_entry
absent_entry:
	.endif
	.quad	address + 0x87
	.set	address, address + 0x200000
	.endr

	.bss
	.balign	16
	.globl	user_stack_end
	.skip	4096
stack_end:
	.skip	4096
second_stack_end:
	.skip	1024
user_stack_end:
