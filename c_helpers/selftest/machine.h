/* SPDX-License-Identifier: GPL-2.0-only */
/* Memory, numbers and registers of the self-test's machine, for assembly, C and the linker script. */
#ifndef KVMTEST_SELFTEST_MACHINE_H
#define KVMTEST_SELFTEST_MACHINE_H

/*
 * How much is counted; kvmtest/lab/emulators/bochs/expectations.py has the same numbers. An SMI comes every
 * 1500 steps at the latest, a timer's interrupt every 3000.
 */
#define STRAIGHT     1000  /* instructions in a row */
#define LOOPS        20000 /* two instructions each */
#define REPEATS      30000 /* iterations of a REP */
#define FAULTS       50
#define EXITS        40
#define SMI_PERIOD   1000
#define TIMER_PERIOD 3000
#define TURNS        40    /* of the lab's own handler, two instructions each */

/* Memory, identity-mapped. The image is copied from the ROM to where it is linked. */
#define ROM_SEGMENT    0xf000
#define SCRATCH        0x7000
#define SCRATCH_SIZE   0x100
#define TRAMPOLINE     0x8000  /* where the second CPU starts, in real mode */
#define IMAGE          0x10000
#define IMAGE_SIZE     0x10000
#define RESET_VECTOR   (IMAGE + 0xfff0)
#define BSS            0x20000
#define SMM_HANDLER    0x38000 /* at SMBASE 0x30000, as a CPU has it after reset */
#define SMRAM_HANDLER  0xa8000 /* where the lab's own handler goes on */
#define SOURCE         0x200000
#define TARGET         0x280000
#define PATTERN        0x300000
#define PATTERN_WORDS  0x20000
#define ABSENT         0x800000 /* a large page that #PF makes present */

#define CODE      0x08
#define DATA      0x10
#define USER_DATA 0x1b
#define USER_CODE 0x23
#define TASK(cpu) (0x28 + 0x10 * (cpu))

#define VECTOR_TIMER    0x20
#define VECTOR_INJECTED 0x21
#define VECTOR_ABSENT   0x22 /* its gate is not present: #NP */
#define VECTOR_LEAVE    0x80 /* from CPL 3, to the address in r15 */
#define VECTORS         0x81

/* Ports: one that nothing has, and the parallel port. */
#define UNUSED        0x4b7
#define LPT_DATA      0x378
#define LPT_CONTROL   0x37a
#define LPT_STROBE    0x0d
#define LPT_READY     0x0c

#define APIC 0xfee00000

#define MSR_DEBUGCTL       0x1d9
#define MSR_GLOBAL_CONTROL 0x38f
#define MSR_SMI_COUNT      0x34
#define MSR_LAB_SMI_PERIOD 0x4b500000

/* IA32_PERF_GLOBAL_CTRL: all counters */
#define GENERAL_ENABLED 0xf
#define FIXED_ENABLED   0x7

#define VMCS_EXIT_REASON 0x4402
#define VMCS_GUEST_RIP   0x681e
#define VMCS_HOST_RSP    0x6c14
#define EXIT_INTERRUPT   1
#define EXIT_CPUID       10

#endif
