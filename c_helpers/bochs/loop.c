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
#define _GNU_SOURCE
#include <dlfcn.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "build.h"

/* The places in the objects of the known build of what the loop uses. */
#define RIP             0xd8
#define PREVIOUS_RIP    0x110
#define SPECULATIVE_RSP 0x128  /* bool */
#define COUNT           0x130  /* of instructions */
#define ASYNC_EVENT     0x93b8 /* 32 bits */
#define STOPS           0x9438 /* two bools: at a watchpoint, at a magic breakpoint */
#define STOP_REASON     0x943a
#define TRACE           0x943b /* bool */
#define LIMIT           0x9450 /* of COUNT */
#define COUNTDOWN       0x1638 /* of ticks, in bx_pc_system; 32 bits */
#define GUARD_INTERRUPT 0x520  /* bool, in bx_guard */

#define STOP_TRACE      0x80000000u /* in ASYNC_EVENT: begin a new trace */
#define BY_ADDRESS      0x07        /* in bx_guard: it has breakpoints by address */
#define BY_COUNT        0x10        /* in bx_guard: it stops at LIMIT, as with CPUs that take turns */

/* bxInstruction_c; a pointer to a member function is two words. */
struct instruction {
	uintptr_t execute;
	ptrdiff_t adjustment;
	uint8_t unused[0x12];
	uint8_t length;
	uint8_t rest[0x15];
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

#define AT(type, object, place) (*(type *)((char *)(object) + (place)))

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

static bool is_interrupted(void)
{
	return AT(volatile uint8_t, emulator.guard, GUARD_INTERRUPT);
}

static void loop(void *cpu)
{
	uint64_t limit = AT(uint32_t, emulator.guard, 0) & BY_COUNT ? AT(uint64_t, cpu, LIMIT) : UINT64_MAX;

	if (is_watched(cpu)) {
		emulator.loop(cpu);
		return;
	}
	AT(uint8_t, cpu, STOP_REASON) = 0;
	AT(uint16_t, cpu, STOPS) = 0;
	if (_setjmp(*emulator.fault)) {
		AT(uint64_t, cpu, COUNT)++;
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
			struct trace *trace = emulator.trace(cpu);
			struct instruction *instruction = trace->first;
			struct instruction *end = instruction + trace->length;

			do {
				AT(uint64_t, cpu, RIP) += instruction->length;
				execute(cpu, instruction);
				AT(uint64_t, cpu, PREVIOUS_RIP) = AT(uint64_t, cpu, RIP);
				AT(uint64_t, cpu, COUNT)++;
				tick();
				if ((AT(volatile uint16_t, cpu, STOPS) || AT(uint64_t, cpu, COUNT) >= limit) &&
				    emulator.debugger(cpu))
					return;
			} while (!AT(volatile uint32_t, cpu, ASYNC_EVENT) && ++instruction != end);
			if (is_interrupted() && emulator.debugger(cpu))
				return;
		} while (!AT(volatile uint32_t, cpu, ASYNC_EVENT));
		AT(uint32_t, cpu, ASYNC_EVENT) &= ~STOP_TRACE;
	}
}

/* "jmp *(rip)", and where to */
struct jump {
	uint8_t code[6];
	void *target;
} __attribute__((packed));

#define JUMP(to) { { 0xff, 0x25, 0, 0, 0, 0 }, (to) }

/* Return the function as it is before its first instructions, ``whole``, are replaced. */
static void *keep(uint8_t *function, const uint8_t *whole, size_t size)
{
	struct jump back = JUMP(function + size);
	uint8_t *kept;

	if (memcmp(function, whole, size))
		return NULL;
	kept = mmap(NULL, size + sizeof(back), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (kept == MAP_FAILED)
		return NULL;
	memcpy(kept, whole, size);
	memcpy(kept + size, &back, sizeof(back));
	return mprotect(kept, size + sizeof(back), PROT_READ | PROT_EXEC) ? NULL : kept;
}

__attribute__((constructor)) static void install(void)
{
	/* push r14, r12, rbp, rbx; sub rsp, 0x18; mov byte [rdi + STOP_REASON], 0 */
	static const uint8_t whole[] = { 0x41, 0x56, 0x41, 0x54, 0x55, 0x53, 0x48, 0x83, 0xec,
					 0x18, 0xc6, 0x87, 0x3a, 0x94, 0x00, 0x00, 0x00 };
	static const uint8_t nothing = 0xc3; /* ret */
	struct jump jump = JUMP(loop);
	void *linear, *physical, *function;

	if (!bochs_is_known())
		return;
	function = dlsym(RTLD_DEFAULT, "_ZN8BX_CPU_C8cpu_loopEv");
	linear = dlsym(RTLD_DEFAULT, "_Z24bx_dbg_lin_memory_accessjmmjjjPh");
	physical = dlsym(RTLD_DEFAULT, "_Z24bx_dbg_phy_memory_accessjmjjjjPh");
	emulator.debugger = dlsym(RTLD_DEFAULT, "_ZN8BX_CPU_C22dbg_instruction_epilogEv");
	emulator.events = dlsym(RTLD_DEFAULT, "_ZN8BX_CPU_C16handleAsyncEventEv");
	emulator.trace = dlsym(RTLD_DEFAULT, "_ZN8BX_CPU_C14getICacheEntryEv");
	emulator.elapse = dlsym(RTLD_DEFAULT, "_ZN14bx_pc_system_c14countdownEventEv");
	emulator.system = dlsym(RTLD_DEFAULT, "bx_pc_system");
	emulator.guard = dlsym(RTLD_DEFAULT, "bx_guard");
	emulator.shown = dlsym(RTLD_DEFAULT, "dbg_show_mask");
	emulator.cpus = dlsym(RTLD_DEFAULT, "bx_cpu_count");
	emulator.fault = dlsym(RTLD_DEFAULT, "_ZN8BX_CPU_C11jmp_buf_envE");
	emulator.loop = keep(function, whole, sizeof(whole));
	if (!emulator.loop)
		return;
	bochs_overwrite(function, &jump, sizeof(jump), PROT_READ | PROT_EXEC);
	bochs_overwrite(linear, &nothing, sizeof(nothing), PROT_READ | PROT_EXEC);
	bochs_overwrite(physical, &nothing, sizeof(nothing), PROT_READ | PROT_EXEC);
}
