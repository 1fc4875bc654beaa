/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The emulator's self-test: what runs in its machine, on no firmware. Reports what it saw, as lines of a name and
 * a number; kvmtest/lab/emulators/bochs/expectations.py knows what the numbers must be.
 */
#include "parts.h"

#define ALL_ENABLED    (GENERAL_ENABLED | (uint64_t)FIXED_ENABLED << 32)
#define LBR_AND_TR     0x41ull /* among the bits that SMM clears under the freeze */
#define ALWAYS         BIT(63)
#define INTERRUPT_FLAG 0x200
#define FLAGS          0x2
#define EVENT(vector)  (BIT(31) | (vector)) /* an external interrupt */

volatile uint32_t faulted, interrupts, injected, interrupt_exits, second_counts;
volatile uint32_t smm_debugctl, smm_global_control, smm_entered;
volatile uint32_t guest_debugctl, guest_global_control;

static void check_instructions(void)
{
	count("nothing", count_nothing);
	count("straight", count_straight);
	report_cycles("straight");
	count("loop", count_loop);
	report_cycles("loop");
	count("repeats", count_repeats);
	count("user", count_user);
	report_cycles("user");
	count("syscalls", count_syscalls);
}

static void count_faults(const char *name, void (*counted)(void))
{
	faulted = 0;
	count(name, counted);
	report(name, ".faults", faulted);
}

static void check_faults(void)
{
	count_faults("ud", count_ud);
	count_faults("gp", count_gp);
	count_faults("pf", count_pf);
	count_faults("fetch-pf", count_fetch_pf);
	count_faults("traps", count_traps);
	count_faults("faulting-repeat", count_faulting_repeat);
	count_faults("user-ud", count_user_ud);
}

static void count_interrupts(const char *name, void (*counted)(void))
{
	start_timer();
	count(name, counted);
	report(name, ".interrupts", interrupts);
	stop_timer();
}

static void check_interrupts(void)
{
	count_interrupts("interrupted-repeat", count_interrupted_repeat);
	count_interrupts("interrupted-user", count_interrupted_user);
	count_interrupts("halt", count_halt);
	report_cycles("halt");
}

/* While this CPU counts something else, and nothing at all. */
static void check_second(void)
{
	if (!has_second())
		return;
	second_begin(COUNT_STRAIGHT);
	count("beside-second", count_loop);
	second_end("second");
	wrmsr(MSR_LAB_DEAD_COUNTERS, 1);
	second_begin(COUNT_STRAIGHT);
	count("dead-beside-second", count_loop);
	second_end("second-beside-dead");
	wrmsr(MSR_LAB_DEAD_COUNTERS, 0);
}

static uint64_t faults_of_write(uint32_t index, uint64_t value)
{
	faulted = 0;
	wrmsr(index, value);
	return faulted;
}

static void check_registers(void)
{
	uint64_t seen = 0, leaf[4];

	__asm__ volatile("cpuid" : "=a"(leaf[0]), "=b"(leaf[1]), "=c"(leaf[2]), "=d"(leaf[3]) : "a"(10), "c"(0));
	report("cpuid", ".counters", leaf[0] & 0xffffff);
	report("cpuid", ".fixed-counters", leaf[3] & 0x1fff);
	zero_counters();
	wrmsr(MSR_A_PMC0 + 3, 0xfedcba987654);
	report("registers", ".rdmsr", rdmsr(MSR_PMC0 + 3));
	report("registers", ".full-width", rdmsr(MSR_A_PMC0 + 3));
	report("registers", ".rdpmc", rdpmc(3));
	wrmsr(MSR_PMC0 + 2, 0x87654321);
	report("registers", ".sign-extended", rdpmc(2));
	wrmsr(MSR_FIXED_CTR0 + 1, 0x123456789abc);
	report("registers", ".fixed-rdpmc", rdpmc((uint32_t)BIT(30) + 1));
	faulted = 0;
	user_rdpmc(3, &seen);
	report("registers", ".user-rdpmc-refused", faulted);
	WRITE_CR(4, READ_CR(4) | BIT(8)); /* PCE */
	user_rdpmc(3, &seen);
	WRITE_CR(4, READ_CR(4) & ~BIT(8));
	report("registers", ".user-rdpmc", seen);
	zero_counters();
	report("registers", ".between-rdpmcs", count_by_rdpmc());
	report("registers", ".in-use", rdmsr(MSR_GLOBAL_INUSE));
	wrmsr(MSR_GLOBAL_STATUS_SET, 0x300000005);
	wrmsr(MSR_GLOBAL_STATUS_RESET, 0x100000001);
	report("registers", ".status", rdmsr(MSR_GLOBAL_STATUS));
	wrmsr(MSR_GLOBAL_STATUS_RESET, 0x200000004);
	zero_counters();
	wrmsr(MSR_FIXED_CTR_CTRL, 0x1);
	count_user();
	report("registers", ".fixed-os", rdmsr(MSR_FIXED_CTR0));
	wrmsr(MSR_FIXED_CTR0, 0);
	wrmsr(MSR_FIXED_CTR_CTRL, 0x2);
	count_user();
	report("registers", ".fixed-usr", rdmsr(MSR_FIXED_CTR0));
}

static void check_refusals(void)
{
	report("refused", ".debugctl", faults_of_write(MSR_DEBUGCTL, 0x4));
	report("refused", ".global-control", faults_of_write(MSR_GLOBAL_CONTROL, 0x10));
	report("refused", ".smi-count", faults_of_write(MSR_SMI_COUNT, 0));
	report("refused", ".smis-raised", faults_of_write(MSR_LAB_SMIS_RAISED, 0));
	report("refused", ".smi-period", faults_of_write(MSR_LAB_SMI_PERIOD, 999));
	report("refused", ".smi-turns", faults_of_write(MSR_LAB_SMI_TURNS, 0));
	report("refused", ".fault", faults_of_write(MSR_LAB_DEAD_COUNTERS, 2));
}

static void check_injected_faults(void)
{
	wrmsr(MSR_LAB_DEAD_COUNTERS, 1);
	count("dead-counters", count_straight);
	report("dead-counters", ".msr", rdmsr(MSR_LAB_DEAD_COUNTERS));
	wrmsr(MSR_LAB_DEAD_COUNTERS, 0);
	wrmsr(MSR_DEBUGCTL, FREEZE_WHILE_SMM);
	wrmsr(MSR_LAB_STUCK_DEBUGCTL, 1);
	wrmsr(MSR_DEBUGCTL, 0);
	report("stuck-debugctl", ".debugctl", rdmsr(MSR_DEBUGCTL));
	report("stuck-debugctl", ".msr", rdmsr(MSR_LAB_STUCK_DEBUGCTL));
	wrmsr(MSR_LAB_STUCK_DEBUGCTL, 0);
	wrmsr(MSR_DEBUGCTL, 0);
	report("stuck-debugctl", ".cleared", rdmsr(MSR_DEBUGCTL));
}

/* --- SMIs --- */

/* Report counters, SMIs, and the MSRs that the freeze is about, as they are after them. */
static void count_with_smis(const char *name, uint64_t debugctl, void (*counted)(void))
{
	uint64_t smis = rdmsr(MSR_SMI_COUNT), raised = rdmsr(MSR_LAB_SMIS_RAISED);

	wrmsr(MSR_DEBUGCTL, debugctl);
	count(name, counted);
	smis = rdmsr(MSR_SMI_COUNT) - smis;
	report(name, ".smis", smis);
	report(name, ".raised-besides", rdmsr(MSR_LAB_SMIS_RAISED) - raised - smis);
	report(name, ".debugctl", rdmsr(MSR_DEBUGCTL));
	wrmsr(MSR_DEBUGCTL, 0);
}

/* SMIs reach the second CPU, if the lab's handler gives it a place. */
static void count_with_second(const char *name, const char *second_name, enum command command)
{
	if (!has_second())
		return;
	second_begin(command);
	count_with_smis(name, 0, count_smis);
	second_end(second_name);
}

/* The machine's own handler, which looks at the MSRs. */
static void check_smm(void)
{
	count_with_smis("smi-frozen", FREEZE_WHILE_SMM | LBR_AND_TR, count_smis);
	report("smi-frozen", ".debugctl-in-smm", smm_debugctl);
	report("smi-frozen", ".global-control-in-smm", smm_global_control);
	count_with_second("smi-to-first", "second-without-smi", COUNT_UNTIL_STOPPED);
	smm_entered = 0;
	count_with_smis("smi", LBR_AND_TR, count_smis);
	report("smi", ".handled", smm_entered);
	report("smi", ".global-control-in-smm", smm_global_control);
}

/* The lab's handler. */
static void check_smi_turns(void)
{
	wrmsr(MSR_LAB_SMI_TURNS, TURNS);
	report("smi-turns", ".msr", rdmsr(MSR_LAB_SMI_TURNS));
	count_with_smis("smi-turns", 0, count_smis);
	count_with_smis("smi-turns-frozen", FREEZE_WHILE_SMM, count_smis);
	count_with_smis("smi-in-repeat", 0, count_smis_in_repeat);
	count_with_smis("smi-in-repeat-frozen", FREEZE_WHILE_SMM, count_smis_in_repeat);
	count_with_smis("smi-in-user", 0, count_smis_in_user);
	count_with_smis("smi-in-user-frozen", FREEZE_WHILE_SMM, count_smis_in_user);
	count_with_second("smi-to-both", "second-smi", COUNT_UNTIL_STOPPED);
	count_with_second("smi-to-both-frozen", "second-smi-frozen", COUNT_UNTIL_STOPPED_FROZEN);
	/* Without the bit for "always" there is none on the bare host. */
	wrmsr(MSR_LAB_SMI_PERIOD, SMI_PERIOD);
	count_with_smis("smi-in-guests-only", 0, count_loop);
	wrmsr(MSR_LAB_SMI_PERIOD, 0);
}

/* --- VMX --- */

/* A guest in which alone is counted. */
static struct guest counted_guest(const char *start)
{
	return (struct guest){ .start = start, .flags = FLAGS,
			       .entry_controls = ENTRY_LOADS_DEBUGCTL | ENTRY_LOADS_GLOBAL_CONTROL,
			       .exit_controls = EXIT_SAVES_DEBUGCTL | EXIT_LOADS_GLOBAL_CONTROL,
			       .global_control = ALL_ENABLED };
}

/* A guest that is counted as the host is. */
static struct guest crossed_guest(const char *start)
{
	return (struct guest){ .start = start, .flags = FLAGS, .entry_controls = ENTRY_LOADS_DEBUGCTL,
			       .exit_controls = EXIT_SAVES_DEBUGCTL };
}

static void count_guest(const char *name, struct guest guest, int counts_all)
{
	vmx_prepare(&guest);
	zero_counters();
	injected = faulted = interrupt_exits = 0;
	report(name, ".exit", run_guest(counts_all, 0));
	report_counters(name);
}

static void check_guests(void)
{
	struct guest guest = counted_guest(guest_straight);

	count_guest("guest", guest, 0);
	guest.cpl = 3;
	count_guest("guest-user", guest, 0);
	count_guest("guest-cpuid", counted_guest(guest_cpuid), 0);
	guest = counted_guest(guest_ud);
	guest.exceptions = 1 << 6;
	count_guest("guest-exceptions", guest, 0);
	guest = crossed_guest(guest_ud);
	guest.exceptions = 1 << 6;
	count_guest("across-exceptions", guest, 1);
	count_guest("across", crossed_guest(guest_straight), 1);
	guest = crossed_guest(guest_straight);
	guest.cpl = 3;
	count_guest("across-user", guest, 1);
	count_guest("across-cpuid", crossed_guest(guest_cpuid), 1);
	guest = crossed_guest(guest_straight);
	guest.flags |= INTERRUPT_FLAG;
	guest.event = EVENT(VECTOR_INJECTED);
	count_guest("across-injection", guest, 1);
	report("across-injection", ".injected", injected);
	guest.event = EVENT(VECTOR_ABSENT);
	count_guest("across-faulting-injection", guest, 1);
	report("across-faulting-injection", ".faults", faulted);
	guest = counted_guest(guest_repeat);
	guest.flags |= INTERRUPT_FLAG;
	guest.pin_controls = PIN_INTERRUPT_EXITS;
	start_timer();
	count_guest("guest-repeat", guest, 0);
	report("guest-repeat", ".exits", interrupt_exits);
	stop_timer();
}

/* Report what the guest saw, if it was entered, and what its VM-exit left. */
static void look_at_switch(const char *name, struct guest guest, uint64_t debugctl, uint64_t global_control)
{
	uint64_t reason;

	vmx_prepare(&guest);
	zero_counters();
	wrmsr(MSR_DEBUGCTL, debugctl);
	wrmsr(MSR_GLOBAL_CONTROL, global_control);
	reason = run_guest(0, 0x4041);
	report(name, ".exit", reason);
	if (reason == EXIT_VMCALL) {
		report(name, ".guest-debugctl", guest_debugctl);
		report(name, ".guest-global-control", guest_global_control);
	}
	report(name, ".debugctl", rdmsr(MSR_DEBUGCTL));
	report(name, ".field", vmx_debugctl_field());
	wrmsr(MSR_DEBUGCTL, 0);
}

static void check_switches(void)
{
	struct stored_msr stored __attribute__((aligned(16))) = { MSR_GLOBAL_CONTROL, 0, 0 };
	struct guest guest = counted_guest(guest_sets_debugctl);

	guest.debugctl = FREEZE_WHILE_SMM | 1;
	guest.global_control = 0x5;
	guest.stored = &stored;
	look_at_switch("switch", guest, FREEZE_WHILE_SMM, 0x3);
	report("switch", ".stored-global-control", *(volatile uint64_t *)&stored.value);
	guest.stored = 0;
	guest.entry_controls = 0;
	look_at_switch("switch-without-entry", guest, 0x2, 0x3);
	guest = counted_guest(guest_sets_debugctl);
	guest.exit_controls = 0;
	guest.debugctl = 1;
	look_at_switch("switch-without-save", guest, 0, 0);
	guest = counted_guest(guest_sets_debugctl);
	guest.debugctl = 1;
	guest.flags = 0; /* not a value of RFLAGS */
	look_at_switch("switch-refused", guest, FREEZE_WHILE_SMM, 0x3);
}

/* The value of IA32_PERF_GLOBAL_CTRL after a VM-exit, by what is counted then. */
static void check_exit_control(void)
{
	struct guest guest = crossed_guest(guest_straight);

	guest.exit_controls |= EXIT_LOADS_GLOBAL_CONTROL;
	guest.host_global_control = 0x2 | BIT(32);
	count_guest("exit-control", guest, 1);
}

static void count_guest_with_smis(const char *name, uint64_t debugctl)
{
	struct guest guest = counted_guest(guest_loop);
	uint64_t smis = rdmsr(MSR_SMI_COUNT);

	guest.debugctl = debugctl;
	wrmsr(MSR_LAB_SMI_PERIOD, SMI_PERIOD);
	count_guest(name, guest, 0);
	wrmsr(MSR_LAB_SMI_PERIOD, 0);
	report(name, ".smis", rdmsr(MSR_SMI_COUNT) - smis);
	report(name, ".guest-debugctl", guest_debugctl);
	report(name, ".guest-global-control", guest_global_control);
	report(name, ".debugctl", rdmsr(MSR_DEBUGCTL));
	report(name, ".field", vmx_debugctl_field());
}

static void check_guests_with_smis(void)
{
	count_guest_with_smis("guest-smi", 0);
	count_guest_with_smis("guest-smi-frozen", FREEZE_WHILE_SMM | LBR_AND_TR);
}

/* --- saving --- */

static uint64_t next(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

static void write_pattern(void)
{
	uint64_t *words = (uint64_t *)PATTERN, random = 1;

	for (unsigned i = 0; i < PATTERN_WORDS; i++)
		words[i] = next(&random);
}

static uint64_t wrong_words(void)
{
	uint64_t *words = (uint64_t *)PATTERN, random = 1, wrong = 0;

	for (unsigned i = 0; i < PATTERN_WORDS; i++)
		wrong += words[i] != next(&random);
	return wrong;
}

static void check_saving(void)
{
	uint64_t smis, raised, before;

	write_pattern();
	wrmsr(MSR_DEBUGCTL, FREEZE_WHILE_SMM);
	wrmsr(MSR_GLOBAL_STATUS_SET, 0x6);
	smis = rdmsr(MSR_SMI_COUNT);
	raised = rdmsr(MSR_LAB_SMIS_RAISED);
	start_timer();
	zero_counters();
	if (has_second())
		second_begin(COUNT_UNTIL_STOPPED);
	report("before-saving", "", 1);
	wrmsr(MSR_LAB_SMI_PERIOD, ALWAYS | SMI_PERIOD);
	before = rdtsc();
	count_breakpoint(); /* The first process ends in it. */
	report("after-saving", ".tsc-is-later", rdtsc() >= before);
	wrmsr(MSR_LAB_SMI_PERIOD, 0);
	if (has_second())
		second_end("second-saved");
	report_counters("saved");
	report("saved", ".debugctl", rdmsr(MSR_DEBUGCTL));
	report("saved", ".status", rdmsr(MSR_GLOBAL_STATUS));
	report("saved", ".turns", rdmsr(MSR_LAB_SMI_TURNS));
	smis = rdmsr(MSR_SMI_COUNT) - smis;
	report("saved", ".smis", smis);
	report("saved", ".raised-besides", rdmsr(MSR_LAB_SMIS_RAISED) - raised - smis);
	report("saved", ".wrong-words", wrong_words());
	wrmsr(MSR_GLOBAL_STATUS_RESET, 0x6);
	wrmsr(MSR_DEBUGCTL, 0);
	/* The restored machine is in VMX operation, its source of SMIs and its timer go on. */
	count_guest("restored-guest", counted_guest(guest_straight), 0);
	count_with_smis("restored-smi", 0, count_smis);
	interrupts = 0;
	count("restored-timer", count_interrupted_user);
	report("restored-timer", ".interrupts", interrupts);
	stop_timer();
}

_Noreturn void first_main(void);
_Noreturn void first_main(void)
{
	set_gates();
	load_tables(0);
	set_smm_handlers();
	start_second();
	check_instructions();
	check_second();
	check_faults();
	check_interrupts();
	check_registers();
	check_refusals();
	check_injected_faults();
	check_smm();
	check_smi_turns();
	vmx_begin();
	check_guests();
	check_switches();
	check_exit_control();
	check_guests_with_smis();
	check_saving();
	report("end", "", 1);
	end();
}
