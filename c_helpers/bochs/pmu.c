/* SPDX-License-Identifier: GPL-2.0-only */
#include "pmu.h"

enum msr {
	MSR_SMI_COUNT = 0x34,
	MSR_PMC0 = 0xc1,
	MSR_PERFEVTSEL0 = 0x186,
	MSR_DEBUGCTL = 0x1d9,
	MSR_FIXED_CTR0 = 0x309,
	MSR_FIXED_CTR_CTRL = 0x38d,
	MSR_PERF_GLOBAL_STATUS = 0x38e,
	MSR_PERF_GLOBAL_CTRL = 0x38f,
	MSR_PERF_GLOBAL_STATUS_RESET = 0x390,
	MSR_PERF_GLOBAL_STATUS_SET = 0x391,
	MSR_PERF_GLOBAL_INUSE = 0x392,
	MSR_A_PMC0 = 0x4c1,
};

#define BIT(n) (1ull << (n))

#define COUNTER (BIT(48) - 1)

/* IA32_PERFEVTSELx */
#define EVENT(select) ((select) & 0xffff)          /* umask and event */
#define USR           BIT(16)
#define OS            BIT(17)
#define ENABLE        BIT(22)
#define NOT_MODELLED  (BIT(18) | BIT(23) | 0xff000000) /* edge, inversion, counter mask */

/* IA32_FIXED_CTR_CTRL: four bits a counter */
#define FIXED_OS(i)  BIT(4 * (i))
#define FIXED_USR(i) BIT(4 * (i) + 1)

#define GLOBAL_CONTROL ((BIT(PMU_GENERAL) - 1) | (BIT(PMU_FIXED) - 1) << 32)

/* IA32_PERF_GLOBAL_STATUS: counters, and freezes, enclave, uncore and buffer; the last of all only to be cleared */
#define GLOBAL_STATUS         (GLOBAL_CONTROL | BIT(55) | BIT(58) | BIT(59) | BIT(60) | BIT(61) | BIT(62))
#define GLOBAL_STATUS_CLEARED (GLOBAL_STATUS | BIT(63))

/* IA32_DEBUGCTL */
#define DEBUGCTL         0xffc3
#define FREEZE_WHILE_SMM BIT(14)
#define TRACES           (BIT(0) | BIT(1) | BIT(6) | BIT(7)) /* LBR, BTF, TR, BTS */

/* VM-entry and VM-exit controls */
#define ENTRY_LOADS_DEBUGCTL       BIT(2)
#define ENTRY_LOADS_GLOBAL_CONTROL BIT(13)
#define EXIT_SAVES_DEBUGCTL        BIT(2)
#define EXIT_LOADS_GLOBAL_CONTROL  BIT(12)
#define EXIT_SAVES_GLOBAL_CONTROL  BIT(30)

enum event { INSTRUCTIONS = 0x00c0, CYCLES = 0x003c, REFERENCE_CYCLES = 0x013c };

static void count_general(struct pmu *pmu, uint64_t cycles, uint64_t instructions)
{
	for (int i = 0; i < PMU_GENERAL; i++) {
		uint64_t select = pmu->select[i], more = 0;

		if (!(pmu->global_control & BIT(i)) || !(select & ENABLE) || select & NOT_MODELLED)
			continue;
		if (!(select & (pmu->cpl ? USR : OS)))
			continue;
		switch (EVENT(select)) {
		case INSTRUCTIONS:
			more = instructions;
			break;
		case CYCLES:
		case REFERENCE_CYCLES:
			more = cycles;
			break;
		}
		pmu->general[i] = (pmu->general[i] + more) & COUNTER;
	}
}

static void count_fixed(struct pmu *pmu, uint64_t cycles, uint64_t instructions)
{
	for (int i = 0; i < PMU_FIXED; i++)
		if (pmu->global_control & BIT(32 + i) &&
		    pmu->fixed_control & (pmu->cpl ? FIXED_USR(i) : FIXED_OS(i)))
			pmu->fixed[i] = (pmu->fixed[i] + (i ? cycles : instructions)) & COUNTER;
}

void pmu_advance(struct pmu *pmu, uint64_t cycles, uint64_t instructions)
{
	/* An instruction that changes the mode was counted before it ended: then there is nothing new yet. */
	uint64_t more_cycles = cycles > pmu->cycles ? cycles - pmu->cycles : 0;
	uint64_t more_instructions = instructions > pmu->instructions ? instructions - pmu->instructions : 0;

	pmu->cycles += more_cycles;
	pmu->instructions += more_instructions;
	if (pmu->has_dead_counters || !pmu->global_control || !(more_cycles || more_instructions))
		return;
	count_general(pmu, more_cycles, more_instructions);
	count_fixed(pmu, more_cycles, more_instructions);
}

static uint64_t in_use(const struct pmu *pmu)
{
	uint64_t used = 0;

	for (int i = 0; i < PMU_GENERAL; i++)
		if (pmu->select[i] & 0xff)
			used |= BIT(i);
	for (int i = 0; i < PMU_FIXED; i++)
		if (pmu->fixed_control & (FIXED_OS(i) | FIXED_USR(i)))
			used |= BIT(32 + i);
	return used;
}

enum msr_answer pmu_read_msr(const struct pmu *pmu, uint32_t index, uint64_t *value)
{
	if (index - MSR_PMC0 < PMU_GENERAL)
		*value = pmu->general[index - MSR_PMC0];
	else if (index - MSR_A_PMC0 < PMU_GENERAL)
		*value = pmu->general[index - MSR_A_PMC0];
	else if (index - MSR_PERFEVTSEL0 < PMU_GENERAL)
		*value = pmu->select[index - MSR_PERFEVTSEL0];
	else if (index - MSR_FIXED_CTR0 < PMU_FIXED)
		*value = pmu->fixed[index - MSR_FIXED_CTR0];
	else
		switch (index) {
		case MSR_SMI_COUNT:
			*value = pmu->smi_count;
			break;
		case MSR_DEBUGCTL:
			*value = pmu->debugctl;
			break;
		case MSR_FIXED_CTR_CTRL:
			*value = pmu->fixed_control;
			break;
		case MSR_PERF_GLOBAL_CTRL:
			*value = pmu->global_control;
			break;
		case MSR_PERF_GLOBAL_STATUS: /* No overflow is modelled: what was set. */
			*value = pmu->global_status;
			break;
		case MSR_PERF_GLOBAL_STATUS_RESET:
		case MSR_PERF_GLOBAL_STATUS_SET:
			*value = 0;
			break;
		case MSR_PERF_GLOBAL_INUSE:
			*value = in_use(pmu);
			break;
		case MSR_LAB_DEAD_COUNTERS:
			*value = pmu->has_dead_counters;
			break;
		case MSR_LAB_STUCK_DEBUGCTL:
			*value = pmu->has_stuck_debugctl;
			break;
		default:
			return MSR_NOT_OURS;
		}
	return MSR_DONE;
}

/* Set what the MSR stands for, unless the value has reserved bits. */
static enum msr_answer set(uint64_t *where, uint64_t value, uint64_t allowed)
{
	if (value & ~allowed)
		return MSR_REFUSED;
	*where = value;
	return MSR_DONE;
}

static enum msr_answer set_fault(bool *where, uint64_t value)
{
	if (value > 1)
		return MSR_REFUSED;
	*where = value;
	return MSR_DONE;
}

enum msr_answer pmu_write_msr(struct pmu *pmu, uint32_t index, uint64_t value)
{
	if (index - MSR_PMC0 < PMU_GENERAL) {
		/* 32 bits, sign extended; IA32_A_PMCx has the full width. */
		pmu->general[index - MSR_PMC0] = (uint64_t)(int32_t)value & COUNTER;
		return MSR_DONE;
	}
	if (index - MSR_A_PMC0 < PMU_GENERAL)
		return set(&pmu->general[index - MSR_A_PMC0], value, COUNTER);
	if (index - MSR_PERFEVTSEL0 < PMU_GENERAL)
		return set(&pmu->select[index - MSR_PERFEVTSEL0], value, UINT32_MAX);
	if (index - MSR_FIXED_CTR0 < PMU_FIXED)
		return set(&pmu->fixed[index - MSR_FIXED_CTR0], value, COUNTER);
	switch (index) {
	case MSR_DEBUGCTL:
		if (pmu->has_stuck_debugctl)
			return MSR_DONE;
		return set(&pmu->debugctl, value, DEBUGCTL);
	case MSR_FIXED_CTR_CTRL:
		return set(&pmu->fixed_control, value, BIT(4 * PMU_FIXED) - 1);
	case MSR_PERF_GLOBAL_CTRL:
		return set(&pmu->global_control, value, GLOBAL_CONTROL);
	case MSR_PERF_GLOBAL_STATUS_RESET:
		if (value & ~GLOBAL_STATUS_CLEARED)
			return MSR_REFUSED;
		pmu->global_status &= ~value;
		return MSR_DONE;
	case MSR_PERF_GLOBAL_STATUS_SET:
		if (value & ~GLOBAL_STATUS)
			return MSR_REFUSED;
		pmu->global_status |= value;
		return MSR_DONE;
	case MSR_SMI_COUNT:
	case MSR_PERF_GLOBAL_STATUS:
	case MSR_PERF_GLOBAL_INUSE:
		return MSR_REFUSED;
	case MSR_LAB_DEAD_COUNTERS:
		return set_fault(&pmu->has_dead_counters, value);
	case MSR_LAB_STUCK_DEBUGCTL:
		return set_fault(&pmu->has_stuck_debugctl, value);
	default:
		return MSR_NOT_OURS;
	}
}

bool pmu_read_counter(const struct pmu *pmu, uint32_t index, uint64_t *value)
{
	if (index < PMU_GENERAL)
		*value = pmu->general[index];
	else if (index - BIT(30) < PMU_FIXED)
		*value = pmu->fixed[index - BIT(30)];
	else
		return false;
	return true;
}

void pmu_enter_guest(struct pmu *pmu, const struct pmu_switch *to)
{
	if (to->controls & ENTRY_LOADS_DEBUGCTL)
		pmu->debugctl = to->debugctl;
	if (to->controls & ENTRY_LOADS_GLOBAL_CONTROL)
		pmu->global_control = to->global_control;
	pmu->in_guest = true;
}

struct pmu_saved pmu_save_guest(const struct pmu *pmu, uint32_t controls, bool entry_failed)
{
	struct pmu_saved saved = { false, false, pmu->debugctl, pmu->global_control };

	if (entry_failed)
		return saved;
	saved.has_debugctl = controls & EXIT_SAVES_DEBUGCTL;
	saved.has_global_control = controls & EXIT_SAVES_GLOBAL_CONTROL;
	return saved;
}

void pmu_load_host(struct pmu *pmu, const struct pmu_switch *to)
{
	pmu->debugctl = 0;
	if (to->controls & EXIT_LOADS_GLOBAL_CONTROL)
		pmu->global_control = to->global_control;
	pmu->in_guest = false;
	pmu->cpl = 0;
}

void pmu_enter_smm(struct pmu *pmu)
{
	pmu->smi_count++;
	pmu->in_smm = true;
	pmu->is_frozen = pmu->debugctl & FREEZE_WHILE_SMM;
	if (!pmu->is_frozen)
		return;
	pmu->frozen_debugctl = pmu->debugctl;
	pmu->frozen_global_control = pmu->global_control;
	pmu->debugctl &= ~TRACES;
	pmu->global_control = 0;
}

void pmu_leave_smm(struct pmu *pmu)
{
	if (pmu->is_frozen) {
		pmu->debugctl = pmu->frozen_debugctl;
		pmu->global_control = pmu->frozen_global_control;
	}
	pmu->in_smm = false;
}
