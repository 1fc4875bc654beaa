/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What is counted. Each function starts the counters, executes a number of instructions that can be read here,
 * and stops the counters; kvmtest/lab/emulators/bochs/expectations.py has the sums.
 */
#include "../bochs/requests.h"
#include "machine.h"

	.code64
	.text

/* The WRMSR that starts the counters is the first instruction that they count: 1. */
.macro start_counters
	mov	$MSR_GLOBAL_CONTROL, %ecx
	mov	$GENERAL_ENABLED, %eax
	mov	$FIXED_ENABLED, %edx
	wrmsr
.endm

/* The WRMSR that stops them is not counted: 3. */
.macro stop_counters
	mov	$MSR_GLOBAL_CONTROL, %ecx
	xor	%eax, %eax
	xor	%edx, %edx
	wrmsr
.endm

/* 4 each */
.macro start_smis
	mov	$MSR_LAB_SMI_PERIOD, %ecx
	mov	$SMI_PERIOD, %eax
	mov	$0x80000000, %edx
	wrmsr
.endm
.macro stop_smis
	mov	$MSR_LAB_SMI_PERIOD, %ecx
	xor	%eax, %eax
	xor	%edx, %edx
	wrmsr
.endm

/* 1 + 2 * LOOPS */
.macro spin
	mov	$LOOPS, %r8d
1:
	dec	%r8d
	jnz	1b
.endm

/* 4 */
.macro copy
	mov	$SOURCE, %esi
	mov	$TARGET, %edi
	mov	$REPEATS, %ecx
	rep movsb
.endm

.macro keep_registers
	push	%rbx
	push	%rbp
	push	%r12
	push	%r13
	push	%r14
	push	%r15
.endm
.macro restore_registers
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbp
	pop	%rbx
.endm

/*
 * To CPL 3, at the label that follows; r15 is where INT goes on, rbp keeps the stack. 6, and the last is IRET; one
 * more with flags to set.
 */
.macro enter_user flags
	push	$USER_DATA
	push	$user_stack_end
	pushf
	.ifnb	\flags
	orl	\flags, (%rsp)
	.endif
	push	$USER_CODE
	push	$2f
	iretq
2:
.endm

	.globl	count_nothing
count_nothing:
	start_counters
	stop_counters
	ret

	.globl	count_straight
count_straight:
	start_counters
	.rept	STRAIGHT
	nop
	.endr
	stop_counters
	ret

	.globl	count_loop
count_loop:
	start_counters
	spin
	stop_counters
	ret

/* With addresses of 64 bits, and with those of 32; and to a port that no device answers: 31 */
	.globl	count_repeats
count_repeats:
	start_counters
	copy
	mov	$SOURCE, %esi
	mov	$TARGET, %edi
	mov	$REPEATS, %ecx
	repe cmpsb
	mov	$TARGET, %edi
	mov	$REPEATS / 8, %ecx
	rep stosq
	xor	%ecx, %ecx
	rep stosq
	mov	$SOURCE, %esi
	mov	$TARGET, %edi
	mov	$REPEATS, %ecx
	addr32 rep movsb
	mov	$SOURCE, %esi
	mov	$TARGET, %edi
	mov	$REPEATS, %ecx
	addr32 repe cmpsb
	mov	$TARGET, %edi
	mov	$REPEATS, %ecx
	repne scasb
	mov	$TARGET, %edi
	mov	$REPEATS, %ecx
	addr32 repne scasb
	mov	$SOURCE, %esi
	mov	$UNUSED, %edx
	mov	$REPEATS / 100, %ecx
	rep outsb
	stop_counters
	ret

/* 10 */
	.globl	count_interrupted_repeat
count_interrupted_repeat:
	start_counters
	sti
	copy
	mov	$SOURCE, %esi
	mov	$TARGET, %edi
	mov	$REPEATS, %ecx
	repe cmpsb
	cli
	stop_counters
	ret

/* The timer's interrupt ends HLT: 3 */
	.globl	count_halt
count_halt:
	start_counters
	sti
	hlt
	cli
	stop_counters
	ret

/* 1 + FAULTS * 2 */
	.globl	count_ud
count_ud:
	start_counters
	mov	$FAULTS, %r8d
1:
	ud2
	dec	%r8d
	jnz	1b
	stop_counters
	ret

/* Amid other instructions, an address that is not canonical: 2 + FAULTS * 4 */
	.globl	count_gp
count_gp:
	start_counters
	movabs	$1 << 63, %rdx
	mov	$FAULTS, %r8d
1:
	nop
	mov	(%rdx), %eax
	nop
	dec	%r8d
	jnz	1b
	stop_counters
	ret

/* 2 + FAULTS * 5 */
	.globl	count_pf
count_pf:
	start_counters
	mov	$ABSENT, %r9d
	mov	$FAULTS, %r8d
1:
	andl	$~1, absent_entry
	invlpg	(%r9)
	mov	(%r9), %eax
	dec	%r8d
	jnz	1b
	stop_counters
	ret

/* Of the fetch of RET: 2 + FAULTS * 6 */
	.globl	count_fetch_pf
count_fetch_pf:
	movb	$0xc3, ABSENT
	start_counters
	mov	$ABSENT, %r9d
	mov	$FAULTS, %r8d
1:
	andl	$~1, absent_entry
	invlpg	(%r9)
	call	*%r9
	dec	%r8d
	jnz	1b
	stop_counters
	ret

/* INT3, and one step: 6, all of which retire */
	.globl	count_traps
count_traps:
	start_counters
	int3
	pushf
	orl	$1 << 8, (%rsp)
	popf
	nop
	nop
	stop_counters
	ret

/* The first half of the iterations is before the fault: 7 */
	.globl	count_faulting_repeat
count_faulting_repeat:
	start_counters
	mov	$ABSENT, %r9d
	andl	$~1, absent_entry
	invlpg	(%r9)
	mov	$SOURCE, %esi
	lea	-REPEATS/2(%r9), %edi
	mov	$REPEATS, %ecx
	rep movsb
	stop_counters
	ret

/* In CPL 3: 1 + 2 * LOOPS, and INT. In CPL 0: the macro's, and the JMP that INT leads to. */
	.globl	count_user
count_user:
	keep_registers
	mov	%rsp, %rbp
	mov	$3f, %r15d
	start_counters
	enter_user
	spin
	int	$VECTOR_LEAVE
3:
	stop_counters
	mov	%rbp, %rsp
	restore_registers
	ret

/* The same, with interrupts: 1 more in CPL 0 */
	.globl	count_interrupted_user
count_interrupted_user:
	keep_registers
	mov	%rsp, %rbp
	mov	$3f, %r15d
	start_counters
	enter_user $1 << 9
	spin
	int	$VECTOR_LEAVE
3:
	stop_counters
	mov	%rbp, %rsp
	restore_registers
	ret

/* In CPL 3: 1 + FAULTS * 3, and INT. In CPL 0: FAULTS more than the others. */
	.globl	count_syscalls
count_syscalls:
	keep_registers
	mov	%rsp, %rbp
	mov	$3f, %r15d
	start_counters
	enter_user
	mov	$FAULTS, %r8d
1:
	syscall
	dec	%r8d
	jnz	1b
	int	$VECTOR_LEAVE
3:
	stop_counters
	mov	%rbp, %rsp
	restore_registers
	ret

	.globl	on_syscall
on_syscall:
	sysretq

/* In CPL 3: 1 + FAULTS * 2, and INT */
	.globl	count_user_ud
count_user_ud:
	keep_registers
	mov	%rsp, %rbp
	mov	$3f, %r15d
	start_counters
	enter_user
	mov	$FAULTS, %r8d
1:
	ud2
	dec	%r8d
	jnz	1b
	int	$VECTOR_LEAVE
3:
	stop_counters
	mov	%rbp, %rsp
	restore_registers
	ret

/* RDPMC in CPL 3, of the counter edi, into (rsi); faults if CR4.PCE is clear. Not counted. */
	.globl	user_rdpmc
user_rdpmc:
	keep_registers
	mov	%rsp, %rbp
	mov	$3f, %r15d
	mov	%edi, %ecx
	mov	%rsi, %r14
	xor	%eax, %eax
	xor	%edx, %edx
	enter_user
	rdpmc
	int	$VECTOR_LEAVE
3:
	mov	%eax, (%r14)
	mov	%edx, 4(%r14)
	mov	%rbp, %rsp
	restore_registers
	ret

/* Between two RDPMCs of counter 0: the first of them, 2 and STRAIGHT. Returns the difference. */
	.globl	count_by_rdpmc
count_by_rdpmc:
	start_counters
	xor	%ecx, %ecx
	rdpmc
	mov	%rax, %r8
	.rept	STRAIGHT
	nop
	.endr
	xor	%ecx, %ecx
	rdpmc
	mov	%rax, %r9
	stop_counters
	mov	%r9, %rax
	sub	%r8, %rax
	ret

/* SMIs come from within what is counted, and end there: 9 + 2 * LOOPS */
	.globl	count_smis
count_smis:
	start_counters
	start_smis
	spin
	stop_smis
	stop_counters
	ret

/* 12 */
	.globl	count_smis_in_repeat
count_smis_in_repeat:
	start_counters
	start_smis
	copy
	stop_smis
	stop_counters
	ret

/* In CPL 3: as count_user. In CPL 0: 8 more. */
	.globl	count_smis_in_user
count_smis_in_user:
	keep_registers
	mov	%rsp, %rbp
	mov	$3f, %r15d
	start_counters
	start_smis
	enter_user
	spin
	int	$VECTOR_LEAVE
3:
	stop_smis
	stop_counters
	mov	%rbp, %rsp
	restore_registers
	ret

/* The machine is saved amid what is counted: STRAIGHT + 5 + 2 * LOOPS */
	.globl	count_breakpoint
count_breakpoint:
	start_counters
	.rept	STRAIGHT
	nop
	.endr
	mov	$REQUEST_STOP, %eax
	mov	$REQUEST_PORT, %edx
	out	%al, %dx
	xchg	%bx, %bx
	spin
	stop_counters
	ret

/* The second CPU counts until it is told to stop: 3 for each turn, which it returns, and 1 + 1 */
	.globl	count_until_stopped
count_until_stopped:
	start_counters
	xor	%r8d, %r8d
	movl	$1, second_counts
1:
	inc	%r8d
	cmpl	$0, second_counts
	jne	1b
	stop_counters
	mov	%r8d, %eax
	ret

/*
 * Enter the guest; edi: whether to count before and after it too. Returns the reason of the last VM-exit, or -1
 * where VMLAUNCH failed. r10d goes into the guest, r8 and r9 come out of it.
 */
	.globl	run_guest
run_guest:
	keep_registers
	mov	$VMCS_HOST_RSP, %eax
	vmwrite	%rsp, %rax
	mov	%esi, %r10d
	test	%edi, %edi
	jz	1f
	start_counters
1:
	vmlaunch
	mov	$-1, %edx
	jmp	leave_guest

/*
 * VM-exit. For CPUID 9 instructions and for an exception 11, and the guest goes on 2 bytes later; for an interrupt,
 * which is taken here, the guest goes on where it was; for anything else 9, with the one that keeps the reason.
 */
	.globl	guest_exited
guest_exited:
	mov	$VMCS_EXIT_REASON, %eax
	vmread	%rax, %rdx
	cmp	$EXIT_CPUID, %edx
	je	1f
	test	%edx, %edx
	jz	1f
	cmp	$EXIT_INTERRUPT, %edx
	jne	leave_guest
	sti
	nop
	cli
	incl	interrupt_exits
	vmresume
1:
	mov	$VMCS_GUEST_RIP, %eax
	vmread	%rax, %rdx
	add	$2, %rdx
	vmwrite	%rdx, %rax
	vmresume
leave_guest:
	mov	%edx, %r11d
	stop_counters
	mov	%r8d, guest_debugctl
	mov	%r9d, guest_global_control
	mov	%r11d, %eax
	restore_registers
	ret

/* Guests, in CPL 0 or 3. VMCALL ends them, and is none of their instructions. STRAIGHT */
	.globl	guest_straight
guest_straight:
	.rept	STRAIGHT
	nop
	.endr
	vmcall

/* 1 + EXITS * 2 */
	.globl	guest_cpuid
guest_cpuid:
	mov	$EXITS, %r12d
1:
	cpuid
	dec	%r12d
	jnz	1b
	vmcall

/* 1 + FAULTS * 2 */
	.globl	guest_ud
guest_ud:
	mov	$FAULTS, %r12d
1:
	ud2
	dec	%r12d
	jnz	1b
	vmcall

/* 4 */
	.globl	guest_repeat
guest_repeat:
	copy
	vmcall

/* 7 + 2 * LOOPS */
	.globl	guest_loop
guest_loop:
	spin
	mov	$MSR_DEBUGCTL, %ecx
	rdmsr
	mov	%eax, %r8d
	mov	$MSR_GLOBAL_CONTROL, %ecx
	rdmsr
	mov	%eax, %r9d
	vmcall

	.globl	guest_sets_debugctl
guest_sets_debugctl:
	mov	$MSR_GLOBAL_CONTROL, %ecx
	rdmsr
	mov	%eax, %r9d
	mov	$MSR_DEBUGCTL, %ecx
	rdmsr
	mov	%eax, %r8d
	mov	%r10d, %eax
	xor	%edx, %edx
	wrmsr
	vmcall

/*
 * Handlers of SMIs, which are copied to where SMM goes on. The first is for SMBASE as it is after reset: it looks at
 * the MSRs that the freeze is about, writes one of them, and repeats with addresses of 16 bits. 22 instructions.
 */
	.code16
	.globl	smm_handler, smm_handler_end
smm_handler:
	mov	$MSR_DEBUGCTL, %ecx
	rdmsr
	addr32 mov %eax, smm_debugctl
	mov	$0x8000, %eax
	wrmsr
	mov	$MSR_GLOBAL_CONTROL, %ecx
	rdmsr
	addr32 mov %eax, smm_global_control
	addr32 incl smm_entered
	mov	$SCRATCH, %di
	mov	$SCRATCH_SIZE, %cx
	rep stosb
	mov	$SCRATCH, %si
	mov	%si, %di
	mov	$SCRATCH_SIZE, %cx
	repe cmpsb
	mov	$SCRATCH, %di
	mov	$SCRATCH_SIZE, %cx
	not	%al
	repne scasb
	nop
	rsm
smm_handler_end:

/* After the lab's own, which is 2 + 2 * TURNS: 1 */
	.globl	smram_handler, smram_handler_end
smram_handler:
	rsm
smram_handler_end:
