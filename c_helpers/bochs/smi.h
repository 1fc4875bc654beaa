/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A source of SMIs, as a chipset's timer is one, and a handler, as firmware has one; switched by MSRs of the lab
 * (enum lab_msr).
 */
#ifndef KVMTEST_BOCHS_SMI_H
#define KVMTEST_BOCHS_SMI_H

#include "pmu.h"

struct smi_source {
	uint64_t period; /* as MSR_LAB_SMI_PERIOD has it */
	uint64_t raised;
	uint64_t random;
	uint64_t turns; /* as MSR_LAB_SMI_TURNS has it */
};

extern struct smi_source smi_source;

/* When the CPUs are made. */
void smi_initialize(void);

enum msr_answer smi_read_msr(uint32_t index, uint64_t *value);

/* By the CPU ``cpu``. */
enum msr_answer smi_write_msr(unsigned cpu, uint32_t index, uint64_t value);

/* Before a CPU enters SMM: give it a place of its own there, if there is a handler of the lab's. */
void smi_relocate(unsigned cpu);

/* When it has entered: write the handler, if there is one, where the CPU goes on. */
void smi_write_handler(unsigned cpu);

#endif
