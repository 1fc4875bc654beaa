/* SPDX-License-Identifier: GPL-2.0-only */
/* What the parts of the machine have of each other. */
#ifndef KVMTEST_SELFTEST_PARTS_H
#define KVMTEST_SELFTEST_PARTS_H

#include <stdint.h>

#include "cpu.h"
#include "machine.h"

enum msr {
	MSR_PMC0 = 0xc1,
	MSR_PERFEVTSEL0 = 0x186,
	MSR_FIXED_CTR0 = 0x309,
	MSR_FIXED_CTR_CTRL = 0x38d,
	MSR_GLOBAL_STATUS = 0x38e,
	MSR_GLOBAL_STATUS_RESET = 0x390,
	MSR_GLOBAL_STATUS_SET = 0x391,
	MSR_GLOBAL_INUSE = 0x392,
	MSR_A_PMC0 = 0x4c1,
	MSR_LAB_SMIS_RAISED = 0x4b500001,
	MSR_LAB_DEAD_COUNTERS = 0x4b500002,
	MSR_LAB_STUCK_DEBUGCTL = 0x4b500003,
	MSR_LAB_SMI_TURNS = 0x4b500004,
};

#define FREEZE_WHILE_SMM BIT(14) /* of IA32_DEBUGCTL */

/* start.S */
extern char on_db[], on_ud[], on_gp[], on_pf[], on_np[], on_timer[], on_injected[], on_leave[], on_unexpected[];
extern char trampoline[], trampoline_end[];
extern uint8_t gdt[];

/* What handlers, guests and SMM leave behind. */
extern volatile uint32_t faulted, interrupts, injected, interrupt_exits, second_counts;
extern volatile uint32_t smm_debugctl, smm_global_control, smm_entered;
extern volatile uint32_t guest_debugctl, guest_global_control;

/* counted.S */
void count_nothing(void);
void count_straight(void);
void count_loop(void);
void count_repeats(void);
void count_interrupted_repeat(void);
void count_halt(void);
void count_ud(void);
void count_gp(void);
void count_pf(void);
void count_faulting_repeat(void);
void count_user(void);
void count_user_ud(void);
void count_interrupted_user(void);
void count_syscalls(void);
void count_fetch_pf(void);
void count_traps(void);
void count_smis(void);
void count_smis_in_repeat(void);
void count_smis_in_user(void);
void count_breakpoint(void);
uint64_t count_by_rdpmc(void);
uint32_t count_until_stopped(void);
void user_rdpmc(uint32_t index, uint64_t *value);
uint32_t run_guest(int counts_all, uint32_t to_guest);

extern char on_syscall[];
extern char guest_exited[], guest_straight[], guest_cpuid[], guest_ud[], guest_repeat[], guest_loop[], guest_sets_debugctl[];
extern char smm_handler[], smm_handler_end[], smram_handler[], smram_handler_end[];

/* machine.c */
void set_gates(void);
void load_tables(unsigned cpu);
void set_smm_handlers(void);
void copy_code(uintptr_t to, const char *from, const char *end_of);
void start_timer(void);
void stop_timer(void);

/* A line of the output: a name, in two parts, and a number. */
void report(const char *name, const char *part, uint64_t value);

/* Save the machine if that was asked for, else end it: by the lab's port, by a magic breakpoint, or not at all. */
_Noreturn void end(void);

/* counters.c */
void zero_counters(void);
void report_counters(const char *name);
void report_cycles(const char *name);

/* Report what is counted from 0 by a function of counted.S. */
void count(const char *name, void (*counted)(void));

/* second.c */
enum command { IDLE, COUNT_STRAIGHT, COUNT_UNTIL_STOPPED, COUNT_UNTIL_STOPPED_FROZEN };

void start_second(void);
int has_second(void);

/* Until the second CPU counts, unless it is done at once. */
void second_begin(enum command command);

/* Have it stop, and report what it counted. */
void second_end(const char *name);

/* vmx.c */
struct guest {
	const char *start;
	uint32_t cpl, entry_controls, exit_controls, pin_controls; /* optional ones */
	uint64_t debugctl, global_control, host_global_control, flags;
	uint32_t event; /* to inject; 0: none */
	uint32_t exceptions; /* that exit */
	struct stored_msr *stored; /* one, or NULL */
};

/* An entry of the list of MSRs that a VM-exit stores. */
struct stored_msr {
	uint32_t index, reserved;
	uint64_t value;
};

/* Bits of those controls, as the SDM (appendix A) numbers them. */
enum controls {
	PIN_INTERRUPT_EXITS = 1 << 0,
	EXIT_SAVES_DEBUGCTL = 1 << 2,
	EXIT_LOADS_GLOBAL_CONTROL = 1 << 12,
	ENTRY_LOADS_DEBUGCTL = 1 << 2,
	ENTRY_LOADS_GLOBAL_CONTROL = 1 << 13,
};

#define ENTRY_REFUSED 0x80000021 /* the exit reason for an invalid guest state */
#define EXIT_VMCALL   18

void vmx_begin(void);
void vmx_prepare(const struct guest *guest);
uint64_t vmx_debugctl_field(void);

#endif
