/* SPDX-License-Identifier: GPL-2.0-only */
/* The machine's tables, devices and output. */
#include "../bochs/requests.h"
#include "parts.h"

struct gate {
	uint16_t low, selector;
	uint8_t stack, type;
	uint16_t middle;
	uint32_t high, reserved;
};

struct task {
	uint32_t reserved;
	uint64_t stack;
	uint8_t rest[92];
} __attribute__((packed));

static struct gate idt[VECTORS];
static struct task tasks[2];
static uint8_t task_stacks[2][1024] __attribute__((aligned(16)));

static void put(char c)
{
	outb((uint8_t)c, LPT_DATA);
	outb(LPT_STROBE, LPT_CONTROL);
	outb(LPT_READY, LPT_CONTROL);
}

static void put_text(const char *text)
{
	while (*text)
		put(*text++);
}

void report(const char *name, const char *part, uint64_t value)
{
	char digits[20];
	int count = 0;

	put_text(name);
	put_text(part);
	put(' ');
	do
		digits[count++] = (char)('0' + value % 10);
	while (value /= 10);
	while (count)
		put(digits[--count]);
	put('\n');
}

/* Save the machine if that was asked for, else end it: by the lab's port, by a magic breakpoint, or not at all. */
_Noreturn void end(void)
{
	outb(REQUEST_STOP, REQUEST_PORT);
	__asm__ volatile("xchg %bx, %bx");
	for (;;)
		__asm__ volatile("cli; hlt");
}

_Noreturn void unexpected(uint64_t first, uint64_t second);
_Noreturn void unexpected(uint64_t first, uint64_t second)
{
	report("unexpected-exception", ".stack", first);
	report("unexpected-exception", ".stack-8", second);
	end();
}

static void set_gate(unsigned vector, const char *handler, uint8_t type)
{
	uintptr_t at = (uintptr_t)handler;

	idt[vector] = (struct gate){ (uint16_t)at, CODE, 0, type, (uint16_t)(at >> 16), (uint32_t)(at >> 32), 0 };
}

void set_gates(void)
{
	for (unsigned i = 0; i < VECTORS; i++)
		set_gate(i, on_unexpected, 0x8e);
	set_gate(1, on_db, 0x8e);
	set_gate(3, on_injected, 0x8e);
	set_gate(6, on_ud, 0x8e);
	set_gate(11, on_np, 0x8e);
	set_gate(13, on_gp, 0x8e);
	set_gate(14, on_pf, 0x8e);
	set_gate(VECTOR_TIMER, on_timer, 0x8e);
	set_gate(VECTOR_INJECTED, on_injected, 0x8e);
	set_gate(VECTOR_ABSENT, on_unexpected, 0x0e);
	set_gate(VECTOR_LEAVE, on_leave, 0xee); /* CPL 3 may */
}

void load_tables(unsigned cpu)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) idtr = { sizeof(idt) - 1, (uintptr_t)idt };
	uint64_t base = (uintptr_t)&tasks[cpu], *descriptor = (uint64_t *)(gdt + TASK(cpu));

	tasks[cpu].stack = (uintptr_t)task_stacks[cpu] + sizeof(task_stacks[cpu]);
	descriptor[0] = (sizeof(struct task) - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
	descriptor[1] = base >> 32;
	__asm__ volatile("lidt %0" : : "m"(idtr));
	wrmsr(0xc0000080, rdmsr(0xc0000080) | 1); /* EFER.SCE */
	wrmsr(0xc0000081, (uint64_t)DATA << 48 | (uint64_t)CODE << 32); /* SYSRET's selectors are 8 and 16 above */
	wrmsr(0xc0000082, (uintptr_t)on_syscall);
	wrmsr(0xc0000084, 0);
	__asm__ volatile("ltr %w0" : : "r"(TASK(cpu)));
}

void copy_code(uintptr_t to, const char *from, const char *end_of)
{
	uint8_t *at = (uint8_t *)to;

	while (from < end_of)
		*at++ = (uint8_t)*from++;
}

/* SMRAM, in the host bridge's register 0x72: open to all, or to SMM alone. */
static void set_smram(int is_open)
{
	outl(0x80000070, 0xcf8);
	outb(is_open ? 0x4a : 0x0a, 0xcfe);
}

void set_smm_handlers(void)
{
	copy_code(SMM_HANDLER, smm_handler, smm_handler_end);
	set_smram(1);
	copy_code(SMRAM_HANDLER, smram_handler, smram_handler_end);
	set_smram(0);
}

void start_timer(void)
{
	*apic(0xf0) = 0x1ff;                      /* on */
	*apic(0x3e0) = 0xb;                       /* divide by 1 */
	*apic(0x320) = (1 << 17) | VECTOR_TIMER;  /* periodic */
	*apic(0x380) = TIMER_PERIOD;
	interrupts = 0;
}

void stop_timer(void)
{
	*apic(0x320) = 1 << 16;
	*apic(0x380) = 0;
	__asm__ volatile("sti; nop; nop; cli" : : : "memory"); /* what is still pending */
}
