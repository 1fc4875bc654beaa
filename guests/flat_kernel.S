/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The protected-mode part of a bzImage that carries its vmlinux flat, not compressed.
 *
 * Entered at FLAT_BASE as Documentation/arch/x86/boot.rst ("32-bit Boot Protocol") has it: flat
 * 32-bit segments, paging and interrupts off, ESI at boot_params. Does the rest of a decompressor's
 * work: moves the kernel's bytes to where they are linked, writes zeroes behind them, and enters
 * vmlinux's startup_64 in long mode with the low 4 GiB identity-mapped and RSI at boot_params.
 * Never sets KASLR_FLAG in boot_params: vmlinux is not relocated and must stay where it is.
 */
#include "flat_kernel.h"

	.section .text.start, "ax"
	.code32
	.globl start
start:
	jmp	1f

	/* Patched by kvmtest/kernels/bzimage.py. */
	.balign	8
	.globl	parameters
parameters:
destination:	.long	0		/* physical; behind FLAT_IMAGE */
words:		.long	0		/* 4-byte words at FLAT_IMAGE */
zero_words:	.long	0		/* that follow them at the destination */
entry:		.long	0

1:	cli
	mov	%esi, %ebx
	lgdt	gdt_pointer
	mov	$FLAT_DATA_SELECTOR, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	$FLAT_STACK, %esp

	/* The destination is above the source and may overlap it: copy from the end. */
	mov	words, %ecx
	lea	FLAT_IMAGE-4(, %ecx, 4), %esi
	mov	destination, %edi
	lea	-4(%edi, %ecx, 4), %edi
	std
	rep movsl
	cld
	mov	destination, %edi
	mov	words, %ecx
	lea	(%edi, %ecx, 4), %edi
	mov	zero_words, %ecx
	xor	%eax, %eax
	rep stosl

	/* Present, writable: 0x3. A 2 MiB page: 0x83. The tables' space came zeroed with the file. */
	movl	$FLAT_PDPT + 0x3, FLAT_PML4
	mov	$FLAT_PAGE_DIRECTORY + 0x3, %eax
	mov	$FLAT_PDPT, %edi
	mov	$4, %ecx
2:	mov	%eax, (%edi)
	add	$0x1000, %eax
	add	$8, %edi
	loop	2b
	mov	$0x83, %eax
	mov	$FLAT_PAGE_DIRECTORY, %edi
	mov	$4 * 512, %ecx
3:	mov	%eax, (%edi)
	add	$0x200000, %eax
	add	$8, %edi
	loop	3b

	/* CR4.PAE, EFER.LME, CR0.PG: 64-bit mode as of the far jump. */
	mov	%cr4, %eax
	or	$1 << 5, %eax
	mov	%eax, %cr4
	mov	$FLAT_PML4, %eax
	mov	%eax, %cr3
	mov	$0xc0000080, %ecx
	rdmsr
	or	$1 << 8, %eax
	wrmsr
	mov	%cr0, %eax
	or	$1 << 31, %eax
	mov	%eax, %cr0
	ljmp	$FLAT_CODE64_SELECTOR, $long_mode

	.code64
long_mode:
	xor	%eax, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %fs
	mov	%eax, %gs
	mov	%eax, %ss
	mov	%ebx, %esi
	mov	entry(%rip), %eax
	jmp	*%rax

	.balign	8
gdt:	.quad	0, 0
	.quad	0x00af9a000000ffff	/* 64-bit code */
	.quad	0x00cf92000000ffff	/* flat data */
gdt_end:
gdt_pointer:
	.word	gdt_end - gdt - 1
	.long	gdt
