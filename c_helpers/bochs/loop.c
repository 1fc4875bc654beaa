/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The loop of Bochs over instructions, without what its debugger does after each of them.
 *
 * Debian builds Bochs with the debugger, which looks after every instruction, and at every access to
 * memory, whether it has to stop: a third of the emulator's time. The lab's machines stop at magic
 * breakpoints alone. So this loop replaces BX_CPU_C::cpu_loop(): the same steps in the same order, with
 * the debugger called only where it has something to do, and the checks of memory accesses end before
 * they begin.
 *
 * It is written for one build of the emulator, and replaces nothing in another. Where the debugger has
 * more to stop at (breakpoints by address, traces), it leaves the work to the original.
 */
#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#include "build.h"
#include "cpu.h"
#include "hooks.h"
#include "smi.h"

#define STOP_TRACE 0x80000000u /* in ASYNC_EVENT: begin a new trace */
#define BY_ADDRESS 0x07        /* in bx_guard: it has breakpoints by address */
#define BY_COUNT   0x10        /* in bx_guard: it stops at LIMIT, as with CPUs that take turns */
#define SHORT_TURN 5           /* steps of a CPU where several take turns, as the debugger has it */
#define TURN       50          /* and here: of five, going from turn to turn takes longer than they do */

/* bxInstruction_c; a pointer to a member function is two words. */
struct instruction {
	uintptr_t execute;
	ptrdiff_t adjustment;
	uint8_t unused[0x12];
	uint8_t length;
	int8_t prefixes; /* negative: REP */
	uint8_t rest[0x14];
};

/* bxICacheEntry_c */
struct trace {
	uint8_t unused[12];
	uint32_t length;
	struct instruction *first;
};

_Static_assert(offsetof(struct instruction, length) == 0x22, "as in the emulator");
_Static_assert(sizeof(struct instruction) == 0x38, "as in the emulator");
_Static_assert(offsetof(struct trace, first) == 0x10, "as in the emulator");

/* What of the emulator is called and looked at, by the names that it exports. */
static struct {
	void (*loop)(void *cpu); /* as it was */
	bool (*debugger)(void *cpu);
	bool (*events)(void *cpu);
	struct trace *(*trace)(void *cpu);
	void (*elapse)(void *system);
	void *system, *guard;
	uint32_t *shown;
	uint8_t *cpus;
	jmp_buf *fault;
} emulator;

/* Whether the debugger has more to stop at than STOPS and LIMIT. */
static bool is_watched(void *cpu)
{
	return AT(uint32_t, emulator.guard, 0) & BY_ADDRESS || *emulator.shown || AT(uint8_t, cpu, TRACE);
}

/* After an instruction: with one CPU, time goes by instructions; CPUs that take turns share it. */
static void tick(void)
{
	if (*emulator.cpus == 1 && --AT(uint32_t, emulator.system, COUNTDOWN) == 0)
		emulator.elapse(emulator.system);
}

static void execute(void *cpu, struct instruction *instruction)
{
	void *self = (char *)cpu + instruction->adjustment;

	((void (*)(void *, struct instruction *))instruction->execute)(self, instruction);
}

/* After a step whose trace ends: whether it was one of a REP that goes on, and no instruction ended with it. */
static bool is_in_repeat(void *cpu, const struct instruction *instruction, uint64_t address)
{
	return AT(uint8_t, cpu, IN_REPEAT) && instruction->prefixes < 0 && AT(uint64_t, cpu, RIP) == address;
}

static bool is_interrupted(void)
{
	return AT(volatile uint8_t, emulator.guard, GUARD_INTERRUPT);
}

static void begin(void)
{
	static bool has_begun;

	if (has_begun)
		return;
	has_begun = true;
	cpus_begin();
	smi_begin();
}

/* The COUNT at which a turn ends. The time goes on by as many steps as the longest of a round of turns had. */
static uint64_t limit_of(void *cpu)
{
	uint64_t count = AT(uint64_t, cpu, COUNT);

	if (!(AT(uint32_t, emulator.guard, 0) & BY_COUNT))
		return UINT64_MAX;
	return AT(uint64_t, cpu, LIMIT) == count + SHORT_TURN ? count + TURN : AT(uint64_t, cpu, LIMIT);
}

static void run(void *cpu, const uint64_t limit)
{
	struct counted *one = counted_of(cpu);

	AT(uint8_t, cpu, STOP_REASON) = 0;
	AT(uint16_t, cpu, STOPS) = 0;
	if (_setjmp(*emulator.fault)) {
		if (++AT(uint64_t, cpu, COUNT) != one->retires_at)
			one->unretired++;
		tick();
		if (emulator.debugger(cpu))
			return;
	}
	if (is_interrupted())
		return;
	AT(uint8_t, cpu, SPECULATIVE_RSP) = 0;
	AT(uint64_t, cpu, PREVIOUS_RIP) = AT(uint64_t, cpu, RIP);
	for (;;) {
		if (AT(volatile uint32_t, cpu, ASYNC_EVENT) && emulator.events(cpu))
			return;
		do {
			struct instruction *instruction, *end;
			struct trace *trace;
			uint64_t address;

			/* Whatever changes the privilege level ends a trace. */
			if (AT(uint8_t, cpu, CPL) != one->pmu.cpl)
				cpu_change_level(cpu);
			trace = emulator.trace(cpu);
			instruction = trace->first;
			end = instruction + trace->length;
			do {
				address = AT(uint64_t, cpu, RIP);
				AT(uint64_t, cpu, RIP) = address + instruction->length;
				execute(cpu, instruction);
				AT(uint64_t, cpu, PREVIOUS_RIP) = AT(uint64_t, cpu, RIP);
				AT(uint64_t, cpu, COUNT)++;
				tick();
				if ((AT(volatile uint16_t, cpu, STOPS) || AT(uint64_t, cpu, COUNT) >= limit) &&
				    emulator.debugger(cpu)) {
					one->unretired += is_in_repeat(cpu, instruction, address);
					return;
				}
			} while (!AT(volatile uint32_t, cpu, ASYNC_EVENT) && ++instruction != end);
			if (instruction != end)
				one->unretired += is_in_repeat(cpu, instruction, address);
			if (is_interrupted() && emulator.debugger(cpu))
				return;
		} while (!AT(volatile uint32_t, cpu, ASYNC_EVENT));
		AT(uint32_t, cpu, ASYNC_EVENT) &= ~STOP_TRACE;
	}
}

/*
 * A round of CPUs that all wait is a tick to the debugger, and would take the emulator longer than what it
 * stands for. The next of their events is then due at the round's end.
 */
static void skip_waiting(bool has_waited)
{
	static unsigned waiting; /* turns in a row */

	waiting = has_waited ? waiting + 1 : 0;
	if (waiting < *emulator.cpus)
		return;
	waiting = 0;
	AT(uint32_t, emulator.system, COUNTDOWN) = 1;
}

static void loop(void *cpu)
{
	uint64_t count = AT(uint64_t, cpu, COUNT);

	begin();
	if (is_watched(cpu)) {
		emulator.loop(cpu);
		return;
	}
	run(cpu, limit_of(cpu));
	if (*emulator.cpus > 1)
		skip_waiting(AT(uint64_t, cpu, COUNT) == count);
}

__attribute__((constructor)) static void install(void)
{
	/* push r14, r12, rbp, rbx; sub rsp, 0x18; mov byte [rdi + STOP_REASON], 0 */
	static const uint8_t whole[] = { 0x41, 0x56, 0x41, 0x54, 0x55, 0x53, 0x48, 0x83, 0xec,
					 0x18, 0xc6, 0x87, 0x3a, 0x94, 0x00, 0x00, 0x00 };
	static const uint8_t nothing = 0xc3; /* ret */
	void *linear, *physical;

	if (!bochs_is_known())
		return;
	linear = hook_symbol("_Z24bx_dbg_lin_memory_accessjmmjjjPh");
	physical = hook_symbol("_Z24bx_dbg_phy_memory_accessjmjjjjPh");
	emulator.debugger = hook_symbol("_ZN8BX_CPU_C22dbg_instruction_epilogEv");
	emulator.events = hook_symbol("_ZN8BX_CPU_C16handleAsyncEventEv");
	emulator.trace = hook_symbol("_ZN8BX_CPU_C14getICacheEntryEv");
	emulator.elapse = hook_symbol("_ZN14bx_pc_system_c14countdownEventEv");
	emulator.system = hook_symbol("bx_pc_system");
	emulator.guard = hook_symbol("bx_guard");
	emulator.shown = hook_symbol("dbg_show_mask");
	emulator.cpus = hook_symbol("bx_cpu_count");
	emulator.fault = hook_symbol("_ZN8BX_CPU_C11jmp_buf_envE");
	emulator.loop = hook_function("_ZN8BX_CPU_C8cpu_loopEv", whole, sizeof(whole), NO_LEA, loop);
	bochs_overwrite(linear, &nothing, sizeof(nothing), PROT_READ | PROT_EXEC);
	bochs_overwrite(physical, &nothing, sizeof(nothing), PROT_READ | PROT_EXEC);
}
