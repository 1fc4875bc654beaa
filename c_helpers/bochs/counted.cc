/* SPDX-License-Identifier: GPL-2.0-only */
/* The emulated CPUs get the model's counters (pmu.c): their MSRs, RDPMC, VM-entry and VM-exit, SMM and RSM. */
#include "emulator.h"

#include "instrument.h"
#include "smi.h"
#include "state.h"

#define ENTRY_FAILED (1u << 31) /* of the exit reason */

struct counted counted[MAX_CPUS];
bool turn_is_over;

/* ``steps``: the CPU's own, or one more where the instruction under way belongs to the mode that it leaves. */
static void advance(struct counted *one, uint64_t steps)
{
	pmu_advance(&one->pmu, steps, steps - one->unretired);
}

void counted_advance(unsigned cpu)
{
	advance(&counted[cpu], BX_CPU(cpu)->get_icount());
}

void counted_initialize(unsigned cpu)
{
	if (cpu)
		return;
	smi_initialize();
	state_register();
}

void counted_change_level(unsigned cpu, unsigned cpl)
{
	counted_advance(cpu);
	counted[cpu].pmu.cpl = cpl;
}

bool counted_read(unsigned cpu, Bit32u counter, Bit64u *value)
{
	uint64_t counter_value;

	counted_advance(cpu);
	if (!pmu_read_counter(&counted[cpu].pmu, counter, &counter_value))
		return false;
	*value = counter_value;
	return true;
}

/* The last step of a VM-entry that succeeds: the guest's state is loaded, and its event is yet to be injected. */
void counted_enter_guest(unsigned cpu)
{
	struct counted *one = &counted[cpu];
	BX_CPU_C *emulated = BX_CPU(cpu);
	struct pmu_switch to = { emulated->VMread32(VMCS_32BIT_CONTROL_VMENTRY_CONTROLS),
				 emulated->VMread64(VMCS_64BIT_GUEST_IA32_DEBUGCTL),
				 emulated->VMread64(VMCS_64BIT_GUEST_IA32_PERF_GLOBAL_CTRL) };

	one->retires_at = emulated->get_icount() + 1;
	advance(one, one->retires_at);
	pmu_enter_guest(&one->pmu, &to);
}

/* The first step of a VM-exit, before the emulator saves the guest's state and stores MSRs. */
void counted_save_guest(unsigned cpu, unsigned reason)
{
	BX_CPU_C *emulated = BX_CPU(cpu);
	uint32_t controls = emulated->VMread32(VMCS_32BIT_CONTROL_VMEXIT_CONTROLS);
	struct pmu_saved saved;

	counted_advance(cpu);
	saved = pmu_save_guest(&counted[cpu].pmu, controls, reason & ENTRY_FAILED);
	if (saved.has_debugctl)
		emulated->VMwrite64(VMCS_64BIT_GUEST_IA32_DEBUGCTL, saved.debugctl);
	if (saved.has_global_control)
		emulated->VMwrite64(VMCS_64BIT_GUEST_IA32_PERF_GLOBAL_CTRL, saved.global_control);
}

void counted_load_host(unsigned cpu)
{
	BX_CPU_C *emulated = BX_CPU(cpu);
	struct pmu_switch to = { emulated->VMread32(VMCS_32BIT_CONTROL_VMEXIT_CONTROLS), 0,
				 emulated->VMread64(VMCS_64BIT_HOST_IA32_PERF_GLOBAL_CTRL) };

	pmu_load_host(&counted[cpu].pmu, &to);
}

void counted_enter_smm(unsigned cpu)
{
	counted_advance(cpu);
	pmu_enter_smm(&counted[cpu].pmu);
	smi_relocate(cpu);
}

/* The last step of RSM, before it retires. */
void counted_leave_smm(unsigned cpu)
{
	struct counted *one = &counted[cpu];

	advance(one, BX_CPU(cpu)->get_icount() + 1);
	pmu_leave_smm(&one->pmu);
}

int msr_read(unsigned cpu, Bit32u index, Bit64u *value)
{
	uint64_t read = 0;
	int answer = smi_read_msr(index, &read);

	if (answer == MSR_NOT_OURS) {
		counted_advance(cpu);
		answer = pmu_read_msr(&counted[cpu].pmu, index, &read);
	}
	if (answer == MSR_DONE)
		*value = read;
	return answer;
}

int msr_write(unsigned cpu, Bit32u index, Bit64u value)
{
	enum msr_answer answer = smi_write_msr(cpu, index, value);

	if (answer != MSR_NOT_OURS)
		return answer;
	counted_advance(cpu);
	return pmu_write_msr(&counted[cpu].pmu, index, value);
}
