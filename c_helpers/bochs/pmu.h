/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * One CPU's performance counters, and how DEBUGCTL and SMM bear on them: a model after the SDM (volume 3),
 * without a word about the emulator. docs/lab-pmu.md says what it has and what it has not.
 */
#ifndef KVMTEST_BOCHS_PMU_H
#define KVMTEST_BOCHS_PMU_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Of what is modelled, and how its state is saved. */
#define PMU_VERSION 4

#define PMU_GENERAL 4
#define PMU_FIXED   3 /* instructions, cycles, reference cycles */

/* What comes of an access to an MSR, in the numbers that the emulator has for it. */
enum msr_answer { MSR_NOT_OURS = -1, MSR_REFUSED = 0, MSR_DONE = 1 };

/* MSRs of the lab alone. Those of SMIs are one for the machine (smi.c), the others one a CPU. */
enum lab_msr {
	MSR_LAB_SMI_PERIOD = 0x4b500000,  /* ticks; 0: none; bit 63: also while no guest runs. CPU 0 only */
	MSR_LAB_SMIS_RAISED = 0x4b500001, /* so far; read only */
	MSR_LAB_DEAD_COUNTERS = 0x4b500002,  /* a fault: 1 stops every counter */
	MSR_LAB_STUCK_DEBUGCTL = 0x4b500003, /* a fault: 1 has WRMSR of DEBUGCTL do nothing */
	MSR_LAB_SMI_TURNS = 0x4b500004, /* of the lab's own handler; 0: the BIOS's alone. CPU 0 only */
};

struct pmu {
	uint64_t cycles, instructions; /* of the CPU, up to which the counters have counted */
	uint64_t general[PMU_GENERAL], select[PMU_GENERAL];
	uint64_t fixed[PMU_FIXED], fixed_control;
	uint64_t global_control, global_status, debugctl;
	uint64_t frozen_global_control, frozen_debugctl; /* in SMM, if is_frozen: as RSM brings them back */
	uint32_t smi_count;
	uint8_t cpl;
	bool in_guest; /* VMX non-root operation, or SMM entered from there */
	bool in_smm, is_frozen;
	bool has_dead_counters, has_stuck_debugctl;
};

/* Count what the CPU has done since it was last told, in the mode and under the controls that it was in. */
void pmu_advance(struct pmu *pmu, uint64_t cycles, uint64_t instructions);

enum msr_answer pmu_read_msr(const struct pmu *pmu, uint32_t index, uint64_t *value);
enum msr_answer pmu_write_msr(struct pmu *pmu, uint32_t index, uint64_t value);

/* RDPMC; whether there is such a counter. */
bool pmu_read_counter(const struct pmu *pmu, uint32_t index, uint64_t *value);

/* What a VMCS says of it: controls, and the values for the state that is entered. */
struct pmu_switch {
	uint32_t controls; /* of VM-entry or of VM-exit */
	uint64_t debugctl; /* of the guest */
	uint64_t global_control;
};

void pmu_enter_guest(struct pmu *pmu, const struct pmu_switch *to);

/* What goes to the VMCS, at the beginning of a VM-exit; a VM-entry that fails saves nothing. */
struct pmu_saved {
	bool has_debugctl, has_global_control;
	uint64_t debugctl, global_control;
};

struct pmu_saved pmu_save_guest(const struct pmu *pmu, uint32_t controls, bool entry_failed);

/* Then, after MSRs are stored: the host's state. */
void pmu_load_host(struct pmu *pmu, const struct pmu_switch *to);

void pmu_enter_smm(struct pmu *pmu);
void pmu_leave_smm(struct pmu *pmu);

#ifdef __cplusplus
}
#endif

#endif
