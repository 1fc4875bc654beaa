// SPDX-License-Identifier: GPL-2.0-only
#ifndef STAND_IN_CPU_H
#define STAND_IN_CPU_H

#include <map>

#define VMCS_64BIT_GUEST_IA32_DEBUGCTL         0x00002802
#define VMCS_64BIT_GUEST_IA32_PERF_GLOBAL_CTRL 0x00002808
#define VMCS_64BIT_HOST_IA32_PERF_GLOBAL_CTRL  0x00002C04
#define VMCS_32BIT_CONTROL_VMEXIT_CONTROLS     0x0000400C
#define VMCS_32BIT_CONTROL_VMENTRY_CONTROLS    0x00004012

struct bx_cr0_t {
	Bit32u val32;

	bool get_PG() const { return val32 >> 31; }
};

class BX_CPU_C {
public:
	bx_cr0_t cr0;
	Bit32u smbase, async_event;
	Bit64u icount;
	int smis; // delivered
	std::map<unsigned, Bit64u> vmcs; // fields that were never written are 0

	Bit64u get_icount() { return icount; }
	void deliver_SMI() { smis++; }
	Bit32u VMread32(unsigned encoding) { return static_cast<Bit32u>(vmcs[encoding]); }
	Bit64u VMread64(unsigned encoding) { return vmcs[encoding]; }
	void VMwrite64(unsigned encoding, Bit64u value) { vmcs[encoding] = value; }
};

// Not the emulator's: the machine gets so many CPUs.
inline void stand_in_make_cpus(unsigned number)
{
	static BX_CPU_C cpus[sizeof(bx_cpu_array) / sizeof(*bx_cpu_array)];

	bx_cpu_count = number;
	for (unsigned cpu = 0; cpu < number; cpu++)
		bx_cpu_array[cpu] = &cpus[cpu];
}

#endif
