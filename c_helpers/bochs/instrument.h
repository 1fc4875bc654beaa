/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the emulator calls of the lab's parts, by Bochs's own instrumentation interface (instrument/instrumentation.txt
 * in its source) and at the further call sites that bochs.patch adds. Calls that the lab does not need are empty.
 */
#ifndef KVMTEST_BOCHS_INSTRUMENT_H
#define KVMTEST_BOCHS_INSTRUMENT_H

#include "counted.h"
#include "state.h"

struct cpuid_function_t;

/* cpu.cc: counters. ``cpu`` is a CPU's number everywhere. */
void counted_initialize(unsigned cpu);
void counted_change_level(unsigned cpu, unsigned cpl);
void counted_enter_guest(unsigned cpu);
void counted_save_guest(unsigned cpu, unsigned reason);
void counted_load_host(unsigned cpu);
void counted_enter_smm(unsigned cpu);
void counted_leave_smm(unsigned cpu);
bool counted_read(unsigned cpu, Bit32u counter, Bit64u *value);
int msr_read(unsigned cpu, Bit32u index, Bit64u *value);
int msr_write(unsigned cpu, Bit32u index, Bit64u value);

/* smi.cc: where a CPU goes on in SMM */
void smi_write_handler(unsigned cpu);

/* cpuid.cc */
void cpuid_show(Bit32u leaf, Bit32u subleaf, cpuid_function_t *registers);

/* requests.cc: what software in the machine asks the emulator for */
extern bool request_is_pending;
void request_take(Bit16u port, Bit32u value);
void request_answer(Bit16u port, Bit32u *value);
void request_do(void);

/* A step of the emulator that retires no instruction: a fault, or an iteration of a REP that goes on. */
#define BX_INSTR_FAULT(cpu)         counted_fault(cpu, BX_CPU(cpu)->get_icount())
#define BX_INSTR_REPEAT_AGAIN(cpu)  (counted[cpu].unretired++)

/* Before a trace of instructions: whatever changes the privilege level has ended the last one. */
#define BX_INSTR_TRACE(cpu, level)                           \
	do {                                                 \
		if (counted[cpu].pmu.cpl != (level))         \
			counted_change_level(cpu, level);    \
	} while (0)

/* Between two instructions, where events are taken */
#define BX_INSTR_BOUNDARY()                   \
	do {                                  \
		if (request_is_pending)       \
			request_do();         \
	} while (0)

/*
 * Where CPUs take turns: one has so many instructions, as going from turn to turn would else take longer than they do,
 * and lets the next go on earlier if it executes PAUSE. Two that spin for each other's lock in step would never get it.
 */
#define TURN 50
extern bool turn_is_over;

/*
 * The time that a round of turns takes: the longest, up to TURN. A turn ends with a trace, and a long REP is one step that
 * can't be cut: others would see time jump, as it does while they are in SMM.
 */
#define BX_INSTR_TICKS(longest) ((longest) < TURN ? (longest) : TURN)
#define BX_INSTR_REPEAT_TICKS(count)                        \
	do {                                                \
		if (BX_SMP_PROCESSORS == 1)                 \
			BX_TICKN(count);                    \
	} while (0)

#define BX_INSTR_TURN_BEGINS()     (turn_is_over = false)
#define BX_INSTR_TURN_ENDS(count)  (turn_is_over || (count) >= TURN)
#define BX_INSTR_PAUSE()           (turn_is_over = true)

#define BX_INSTR_ENTER_SMM(cpu)             counted_enter_smm(cpu)
#define BX_INSTR_IN_SMM(cpu)                smi_write_handler(cpu)
#define BX_INSTR_RSM(cpu)                   counted_leave_smm(cpu)
#define BX_INSTR_VMENTRY(cpu)               counted_enter_guest(cpu)
#define BX_INSTR_LOAD_HOST(cpu)             counted_load_host(cpu)
#define BX_INSTR_RDPMC(cpu, counter, value) counted_read(cpu, counter, value)
#define BX_INSTR_READ_MSR(cpu, index, value)  msr_read(cpu, index, value)
#define BX_INSTR_WRITE_MSR(cpu, index, value) msr_write(cpu, index, value)
#define BX_INSTR_SAVE(path, data, size)       state_write_data(path, data, size)
#define BX_INSTR_RESTORE(path, data, size)    state_read_data(path, data, size)
#define BX_INSTR_CPUID(leaf, subleaf, registers) cpuid_show(leaf, subleaf, registers)

#define BX_INSTR_INITIALIZE(cpu)                     counted_initialize(cpu)
#define BX_INSTR_VMEXIT(cpu, reason, qualification)  counted_save_guest(cpu, reason)
#define BX_INSTR_OUTP(port, length, value)           request_take(port, value)
#define BX_INSTR_INP2(port, length, value)           request_answer(port, &(value))

#define BX_INSTR_INIT_ENV()
#define BX_INSTR_EXIT_ENV()
#define BX_INSTR_EXIT(cpu)
#define BX_INSTR_RESET(cpu, type)
#define BX_INSTR_HLT(cpu)
#define BX_INSTR_MWAIT(cpu, address, length, flags)
#define BX_INSTR_DEBUG_PROMPT()
#define BX_INSTR_DEBUG_CMD(command)
#define BX_INSTR_CNEAR_BRANCH_TAKEN(cpu, from, to)
#define BX_INSTR_CNEAR_BRANCH_NOT_TAKEN(cpu, from)
#define BX_INSTR_UCNEAR_BRANCH(cpu, what, from, to)
#define BX_INSTR_FAR_BRANCH(cpu, what, from_cs, from, to_cs, to)
#define BX_INSTR_OPCODE(cpu, instruction, opcode, length, is32, is64)
#define BX_INSTR_EXCEPTION(cpu, vector, error)
#define BX_INSTR_INTERRUPT(cpu, vector)
#define BX_INSTR_HWINTERRUPT(cpu, vector, cs, ip)
#define BX_INSTR_CLFLUSH(cpu, linear, physical)
#define BX_INSTR_CACHE_CNTRL(cpu, what)
#define BX_INSTR_TLB_CNTRL(cpu, what, cr3)
#define BX_INSTR_PREFETCH_HINT(cpu, what, segment, offset)
#define BX_INSTR_BEFORE_EXECUTION(cpu, instruction)
#define BX_INSTR_AFTER_EXECUTION(cpu, instruction)
#define BX_INSTR_REPEAT_ITERATION(cpu, instruction)
#define BX_INSTR_LIN_ACCESS(cpu, linear, physical, length, memtype, rw)
#define BX_INSTR_PHY_ACCESS(cpu, physical, length, memtype, rw)
#define BX_INSTR_INP(port, length)
#define BX_INSTR_WRMSR(cpu, index, value)

#endif
