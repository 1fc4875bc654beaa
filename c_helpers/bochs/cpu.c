/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The emulated CPUs get the model's counters (pmu.c): their MSRs, RDPMC, VM-entry and VM-exit, SMM and RSM.
 *
 * MSRs that the emulator does not know itself are the CPU model's virtual functions', which are replaced in its
 * table; so is RDPMC in the table of opcodes. The others are functions whose first instructions are replaced.
 */
#include "cpu.h"

#include "hooks.h"
#include "smi.h"

#define MODEL_TABLE   "_ZTV18corei7_skylake_x_t"
#define MODEL_WORDS   11
#define OPCODES_TABLE "BxOpcodesTable"
#define OPCODES_WORDS (0x1eed8 / sizeof(void *))

#define CR4_PCE (1u << 8)
#define GP      13

/* Fields of a VMCS (SDM appendix B), and a bit of one */
enum field {
	GUEST_DEBUGCTL = 0x2802,
	GUEST_GLOBAL_CONTROL = 0x2808,
	HOST_GLOBAL_CONTROL = 0x2c04,
	EXECUTION_CONTROLS = 0x4002,
	EXIT_CONTROLS = 0x400c,
	ENTRY_CONTROLS = 0x4012,
};
#define RDPMC_EXITS  (1u << 11)
#define ENTRY_FAILED (1u << 31) /* of the exit reason */

typedef void instruction_function(void *cpu, void *instruction);
typedef void step_function(void *cpu);

struct counted counted[MAX_CPUS];

static struct {
	step_function *enter_smm, *inject, *load_host;
	instruction_function *rsm, *rdpmc;
	uint32_t (*read32)(void *cpu, unsigned field);
	uint64_t (*read64)(void *cpu, unsigned field);
	void (*write64)(void *cpu, unsigned field, uint64_t value);
	void (*fault)(void *cpu, unsigned vector, uint16_t error);
	uint8_t *number;
	void ***cpus;
} emulator;

/* ``steps``: the CPU's own, or one more where the instruction under way belongs to the mode that it leaves. */
static void advance(struct counted *one, uint64_t steps)
{
	pmu_advance(&one->pmu, steps, steps - one->unretired);
}

void cpu_advance(void *cpu)
{
	advance(counted_of(cpu), AT(uint64_t, cpu, COUNT));
}

void cpu_change_level(void *cpu)
{
	cpu_advance(cpu);
	counted_of(cpu)->pmu.cpl = AT(uint8_t, cpu, CPL);
}

unsigned cpus_number(void)
{
	return *emulator.number;
}

void *cpus_get(unsigned number)
{
	return (*emulator.cpus)[number];
}

void cpus_begin(void)
{
	for (unsigned i = 0; i < cpus_number(); i++) {
		counted[i].pmu.cycles = counted[i].pmu.instructions = AT(uint64_t, cpus_get(i), COUNT);
		counted[i].unretired = counted[i].retires_at = 0;
	}
}

static int read_msr(void *model, uint32_t index, uint64_t *value)
{
	void *cpu = AT(void *, model, MODEL_CPU);

	if (smi_read_msr(index, value) == MSR_DONE)
		return MSR_DONE;
	cpu_advance(cpu);
	return pmu_read_msr(&counted_of(cpu)->pmu, index, value);
}

static int write_msr(void *model, uint32_t index, uint64_t value)
{
	void *cpu = AT(void *, model, MODEL_CPU);
	enum msr_answer answer = smi_write_msr(AT(uint32_t, cpu, NUMBER), index, value);

	if (answer != MSR_NOT_OURS)
		return answer;
	cpu_advance(cpu);
	return pmu_write_msr(&counted_of(cpu)->pmu, index, value);
}

static void rdpmc(void *cpu, void *instruction)
{
	struct counted *one = counted_of(cpu);
	uint64_t value;

	/* Where it is not allowed, or leaves the guest, the emulator does what is to be done. */
	if ((AT(uint8_t, cpu, CPL) && !(AT(uint32_t, cpu, CR4) & CR4_PCE)) ||
	    (one->pmu.in_guest && emulator.read32(cpu, EXECUTION_CONTROLS) & RDPMC_EXITS)) {
		emulator.rdpmc(cpu, instruction);
		return;
	}
	cpu_advance(cpu);
	if (!pmu_read_counter(&one->pmu, AT(uint32_t, cpu, RCX), &value))
		emulator.fault(cpu, GP, 0); /* does not return */
	AT(uint64_t, cpu, RAX) = (uint32_t)value;
	AT(uint64_t, cpu, RDX) = value >> 32;
}

/* The last step of a VM-entry that succeeds: the guest's state is loaded, and its event is yet to be injected. */
static void inject(void *cpu)
{
	struct counted *one = counted_of(cpu);
	struct pmu_switch to = { emulator.read32(cpu, ENTRY_CONTROLS), emulator.read64(cpu, GUEST_DEBUGCTL),
				 emulator.read64(cpu, GUEST_GLOBAL_CONTROL) };

	one->retires_at = AT(uint64_t, cpu, COUNT) + 1;
	advance(one, one->retires_at);
	pmu_enter_guest(&one->pmu, &to);
	emulator.inject(cpu);
}

/* The first step of a VM-exit, before the emulator saves the guest's state and stores MSRs. */
static void save_guest(unsigned number, unsigned reason, uint64_t qualification)
{
	void *cpu = cpus_get(number);
	uint64_t saved;

	(void)qualification;
	cpu_advance(cpu);
	if (pmu_save_guest(&counted_of(cpu)->pmu, emulator.read32(cpu, EXIT_CONTROLS), reason & ENTRY_FAILED, &saved))
		emulator.write64(cpu, GUEST_DEBUGCTL, saved);
}

static void load_host(void *cpu)
{
	struct pmu_switch to = { .controls = emulator.read32(cpu, EXIT_CONTROLS),
				 .global_control = emulator.read64(cpu, HOST_GLOBAL_CONTROL) };

	pmu_load_host(&counted_of(cpu)->pmu, &to);
	emulator.load_host(cpu);
}

static void enter_smm(void *cpu)
{
	cpu_advance(cpu);
	pmu_enter_smm(&counted_of(cpu)->pmu);
	smi_relocate(cpu);
	emulator.enter_smm(cpu);
	smi_write_handler(cpu);
}

static void rsm(void *cpu, void *instruction)
{
	struct counted *one = counted_of(cpu);

	emulator.rsm(cpu, instruction); /* does not return where it faults */
	advance(one, AT(uint64_t, cpu, COUNT) + 1);
	pmu_leave_smm(&one->pmu);
}

static void replace_functions(void)
{
	/* push r15, r14, r13, r12, rbp, rbx; sub rsp, 8 */
	static const uint8_t inject_bytes[] = { 0x41, 0x57, 0x41, 0x56, 0x41, 0x55, 0x41,
						0x54, 0x55, 0x53, 0x48, 0x83, 0xec, 0x08 };
	/* push r14; lea rsi, [rip + ...]; push r13, r12; mov r12, rdi */
	static const uint8_t smm_bytes[] = { 0x41, 0x56, 0x48, 0x8d, 0x35, 0xaf, 0x37, 0x11,
					     0x00, 0x41, 0x55, 0x41, 0x54, 0x49, 0x89, 0xfc };
	/* push r15, r14, r13, r12; mov r12, rdi; push rbp, rbx */
	static const uint8_t rsm_bytes[] = { 0x41, 0x57, 0x41, 0x56, 0x41, 0x55, 0x41,
					     0x54, 0x49, 0x89, 0xfc, 0x55, 0x53, 0x48,
					     0x81, 0xec, 0x18, 0x02, 0x00, 0x00 };
	/* push r15, r14, r13, r12, rbp, rbx; mov rbx, rdi; sub rsp, 8 */
	static const uint8_t host_bytes[] = { 0x41, 0x57, 0x41, 0x56, 0x41, 0x55, 0x41, 0x54, 0x55,
					      0x53, 0x48, 0x89, 0xfb, 0x48, 0x83, 0xec, 0x08 };
	/* ret, and 15 bytes without meaning */
	static const uint8_t exit_bytes[] = { 0xc3, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0x00, 0x00,
					      0x00, 0x00, 0x00, 0x0f, 0x1f, 0x44, 0x00, 0x00 };

	emulator.inject = hook_function("_ZN8BX_CPU_C19VMenterInjectEventsEv", inject_bytes, sizeof(inject_bytes),
					NO_LEA, inject);
	emulator.enter_smm = hook_function("_ZN8BX_CPU_C28enter_system_management_modeEv", smm_bytes,
					   sizeof(smm_bytes), 2, enter_smm);
	emulator.rsm = hook_function("_ZN8BX_CPU_C3RSMEP15bxInstruction_c", rsm_bytes, sizeof(rsm_bytes), NO_LEA,
				     rsm);
	emulator.load_host = hook_function("_ZN8BX_CPU_C19VMexitLoadHostStateEv", host_bytes, sizeof(host_bytes),
					   NO_LEA, load_host);
	hook_function("_Z15bx_instr_vmexitjjm", exit_bytes, sizeof(exit_bytes), NO_LEA, save_guest);
}

__attribute__((constructor)) static void install(void)
{
	if (!bochs_is_known())
		return;
	emulator.read32 = hook_symbol("_ZN8BX_CPU_C8VMread32Ej");
	emulator.read64 = hook_symbol("_ZN8BX_CPU_C8VMread64Ej");
	emulator.write64 = hook_symbol("_ZN8BX_CPU_C9VMwrite64Ejm");
	emulator.fault = hook_symbol("_ZN8BX_CPU_C9exceptionEjt");
	emulator.number = hook_symbol("bx_cpu_count");
	emulator.cpus = hook_symbol("bx_cpu_array");
	hook_word(MODEL_TABLE, MODEL_WORDS, "_ZN10bx_cpuid_t5rdmsrEjPm", read_msr);
	hook_word(MODEL_TABLE, MODEL_WORDS, "_ZN10bx_cpuid_t5wrmsrEjm", write_msr);
	emulator.rdpmc =
		hook_word(OPCODES_TABLE, OPCODES_WORDS, "_ZN8BX_CPU_C5RDPMCEP15bxInstruction_c", rdpmc);
	replace_functions();
}
