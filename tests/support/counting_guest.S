/* A BIOS of 64 KiB whose guest counts for ever: at each turn it adds 1 to the 32 bits at 0x1000, and
   at every 4096th it writes a byte to port 0xe9, which leaves the guest. */
	.code16
	.org 0
start:
	xor	%ax, %ax
	mov	%ax, %ds
	mov	$'.', %al
count:
	incl	0x1000
	testw	$0x0fff, 0x1000
	jnz	count
	out	%al, $0xe9
	jmp	count
	.org	0xfff0
	ljmp	$0xf000, $start
	.org	0xffff
	.byte	0
