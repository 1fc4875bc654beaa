/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The loader of the lab's boot CD, which a BIOS starts as El Torito's "no emulation" has it: at
 * 0000:7c00 or 07c0:0000, DL at the drive. It reads parts of the disk to where they belong, and enters
 * the kernel's real-mode code (Documentation/arch/x86/boot.rst, "Running the Kernel"). The parts, the
 * kernel's header among them, are made ready by kvmtest/lab/image/disk.py.
 */
#include "boot_cd.h"

	.section .text.start, "ax"
	.code16
	.globl start
start:
	ljmp	$0, $1f

	/* Patched by disk.py: sector on the disk, number of sectors, physical address. */
	.balign	4
	.globl	loads
loads:	.fill	3 * BOOT_CD_LOADS, 4, 0
loads_end:

1:	cli
	xor	%ax, %ax
	mov	%ax, %ds
	mov	%ax, %es
	mov	%ax, %ss
	mov	$BOOT_CD_BASE, %sp
	sti
	cld
	mov	%dl, drive
	mov	$loads, %bx

2:	mov	4(%bx), %eax
	test	%eax, %eax
	jz	4f
	cmp	$BOOT_CD_CHUNK, %eax
	jbe	3f
	mov	$BOOT_CD_CHUNK, %eax
3:	mov	%eax, chunk

	/* INT 13h, 42h: extended read. It may write the packet. */
	movw	$16, packet
	mov	%ax, packet + 2
	movl	$(BOOT_CD_BUFFER / 16) << 16, packet + 4
	mov	(%bx), %eax
	mov	%eax, packet + 8
	mov	$0x42, %ah
	mov	drive, %dl
	mov	$packet, %si
	push	%bx
	int	$0x13
	pop	%bx
	jc	failed

	/* INT 15h, 87h: move words by descriptors. */
	mov	8(%bx), %eax
	mov	%ax, target + 2
	shr	$16, %eax
	mov	%al, target + 4
	mov	%ah, target + 7
	mov	chunk, %eax
	add	%eax, (%bx)
	sub	%eax, 4(%bx)
	shl	$11, %eax
	add	%eax, 8(%bx)
	shr	$1, %ax
	mov	%ax, %cx
	mov	$0x87, %ah
	mov	$gdt, %si
	push	%bx
	int	$0x15
	pop	%bx
	jc	failed
	jmp	2b

4:	add	$12, %bx
	cmp	$loads_end, %bx
	jb	2b

	cli
	mov	$BOOT_CD_SETUP, %ax
	mov	%ax, %ds
	mov	%ax, %es
	mov	%ax, %fs
	mov	%ax, %gs
	mov	%ax, %ss
	mov	$BOOT_CD_STACK, %sp
	ljmp	$BOOT_CD_SETUP + 0x20, $0

failed:
	mov	$message, %si
	mov	$COM1, %dx
5:	lodsb
	test	%al, %al
	jz	6f
	out	%al, %dx
	jmp	5b
6:	cli
	hlt
	jmp	6b

message:
	.asciz	"lab: the BIOS can't read the boot CD\n"

	.balign	4
packet:	.fill	16, 1, 0
chunk:	.long	0

	/* Zeroes, zeroes, source, target; a BIOS fills in the last two. */
	.balign	8
gdt:	.quad	0, 0
	.word	0xffff, BOOT_CD_BUFFER & 0xffff
	.byte	BOOT_CD_BUFFER >> 16, 0x93, 0, 0
target:	.word	0xffff, 0
	.byte	0, 0x93, 0, 0
	.quad	0, 0
drive:	.byte	0
