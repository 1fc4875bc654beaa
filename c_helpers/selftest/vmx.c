/* SPDX-License-Identifier: GPL-2.0-only */
/* A VMCS whose guest has the host's memory, paging, descriptor tables and stack. */
#include "parts.h"

#define MSR_FEATURE_CONTROL 0x3a
#define MSR_VMX_BASIC       0x480
#define MSR_TRUE_PIN        0x48d
#define MSR_TRUE_PROCESSOR  0x48e
#define MSR_TRUE_EXIT       0x48f
#define MSR_TRUE_ENTRY      0x490

#define PROCESSOR_MSR_BITMAPS BIT(28)
#define EXIT_TO_LONG_MODE     BIT(9)
#define ENTRY_TO_LONG_MODE    BIT(9)

#define RIGHTS_CODE     0xa09b
#define RIGHTS_DATA     0xc093
#define RIGHTS_TASK     0x8b
#define RIGHTS_UNUSABLE 0x10000

/* Fields of a VMCS (SDM appendix B) */
enum field {
	GUEST_SELECTOR = 0x800, /* ES, CS, SS, DS, FS, GS, LDTR, TR: two apart, here and below */
	HOST_SELECTOR = 0xc00,  /* ES, CS, SS, DS, FS, GS, TR */
	MSR_BITMAPS = 0x2004,
	STORED_MSRS = 0x2006,
	LINK_POINTER = 0x2800,
	GUEST_DEBUGCTL = 0x2802,
	GUEST_GLOBAL_CONTROL = 0x2808,
	HOST_GLOBAL_CONTROL = 0x2c04,
	PIN_CONTROLS = 0x4000,
	PROCESSOR_CONTROLS = 0x4002,
	EXCEPTION_BITMAP = 0x4004,
	CR3_TARGETS = 0x400a,
	EXIT_CONTROLS = 0x400c,
	STORED_MSRS_COUNT = 0x400e,
	ENTRY_CONTROLS = 0x4012,
	ENTRY_EVENT = 0x4016,
	GUEST_LIMIT = 0x4800,
	GUEST_GDTR_LIMIT = 0x4810,
	GUEST_IDTR_LIMIT = 0x4812,
	GUEST_RIGHTS = 0x4814,
	GUEST_INTERRUPTIBILITY = 0x4824,
	GUEST_ACTIVITY = 0x4826,
	GUEST_CR0 = 0x6800,
	GUEST_CR3 = 0x6802,
	GUEST_CR4 = 0x6804,
	GUEST_BASE = 0x6806,
	GUEST_GDTR_BASE = 0x6816,
	GUEST_IDTR_BASE = 0x6818,
	GUEST_DR7 = 0x681a,
	GUEST_RSP = 0x681c,
	GUEST_FLAGS = 0x6820,
	HOST_CR0 = 0x6c00,
	HOST_CR3 = 0x6c02,
	HOST_CR4 = 0x6c04,
	HOST_TR_BASE = 0x6c0a,
	HOST_GDTR_BASE = 0x6c0c,
	HOST_IDTR_BASE = 0x6c0e,
	HOST_RIP = 0x6c16,
};

enum segment { ES, CS, SS, DS, FS, GS, LDTR, TR, SEGMENTS };

struct table {
	uint16_t limit;
	uint64_t base;
} __attribute__((packed));

static uint8_t vmxon[4096] __attribute__((aligned(4096)));
static uint8_t vmcs[4096] __attribute__((aligned(4096)));
static uint8_t msr_bitmaps[4096] __attribute__((aligned(4096)));
static uint8_t guest_stack[1024] __attribute__((aligned(16)));
static uint64_t vmxon_address, vmcs_address;

static void write_field(uint32_t field, uint64_t value)
{
	__asm__ volatile("vmwrite %1, %0" : : "r"((uint64_t)field), "r"(value) : "cc");
}

uint64_t vmx_debugctl_field(void)
{
	uint64_t value = 0;

	__asm__ volatile("vmread %1, %0" : "=r"(value) : "r"((uint64_t)GUEST_DEBUGCTL) : "cc");
	return value;
}

/* What is wanted, and what the CPU demands. */
static uint32_t controls(uint32_t wanted, uint32_t capabilities)
{
	uint64_t allowed = rdmsr(capabilities);

	return (wanted | (uint32_t)allowed) & (uint32_t)(allowed >> 32);
}

static void prepare_segments(uint32_t cpl, uint64_t task_base)
{
	uint32_t code = cpl ? USER_CODE : CODE, data = cpl ? USER_DATA : DATA;

	for (int i = ES; i < SEGMENTS; i++) {
		uint32_t selector = i == CS ? code : i == LDTR ? 0 : i == TR ? TASK(0) : data;
		uint32_t rights = (i == CS ? RIGHTS_CODE : RIGHTS_DATA) | cpl << 5;

		if (i == TR)
			rights = RIGHTS_TASK;
		if (i == LDTR)
			rights = RIGHTS_UNUSABLE;
		write_field(GUEST_SELECTOR + 2 * i, selector);
		write_field(GUEST_LIMIT + 2 * i, i == TR ? 0x67 : i == LDTR ? 0 : UINT32_MAX);
		write_field(GUEST_RIGHTS + 2 * i, rights);
		write_field(GUEST_BASE + 2 * i, i == TR ? task_base : 0);
		if (i < LDTR)
			write_field(HOST_SELECTOR + 2 * i, i == CS ? CODE : DATA);
	}
	write_field(HOST_SELECTOR + 2 * LDTR, TASK(0));
	write_field(HOST_TR_BASE, task_base);
}

static void prepare_tables(void)
{
	struct table gdtr, idtr;

	__asm__ volatile("sgdt %0" : "=m"(gdtr));
	__asm__ volatile("sidt %0" : "=m"(idtr));
	write_field(GUEST_GDTR_BASE, gdtr.base);
	write_field(GUEST_GDTR_LIMIT, gdtr.limit);
	write_field(GUEST_IDTR_BASE, idtr.base);
	write_field(GUEST_IDTR_LIMIT, idtr.limit);
	write_field(HOST_GDTR_BASE, gdtr.base);
	write_field(HOST_IDTR_BASE, idtr.base);
}

/* Enter VMX operation. */
void vmx_begin(void)
{
	*(uint32_t *)vmxon = *(uint32_t *)vmcs = (uint32_t)rdmsr(MSR_VMX_BASIC);
	vmxon_address = (uintptr_t)vmxon;
	vmcs_address = (uintptr_t)vmcs;
	if (!(rdmsr(MSR_FEATURE_CONTROL) & 1))
		wrmsr(MSR_FEATURE_CONTROL, 5);
	WRITE_CR(4, READ_CR(4) | BIT(13));
	__asm__ volatile("vmxon %0" : : "m"(vmxon_address) : "cc", "memory");
}

void vmx_prepare(const struct guest *guest)
{
	uint64_t task_base = *(uint16_t *)(gdt + TASK(0) + 2) | (uint64_t)gdt[TASK(0) + 4] << 16;

	__asm__ volatile("vmclear %0" : : "m"(vmcs_address) : "cc", "memory");
	__asm__ volatile("vmptrld %0" : : "m"(vmcs_address) : "cc", "memory");
	write_field(PIN_CONTROLS, controls(guest->pin_controls, MSR_TRUE_PIN));
	write_field(PROCESSOR_CONTROLS, controls(PROCESSOR_MSR_BITMAPS, MSR_TRUE_PROCESSOR));
	write_field(EXIT_CONTROLS, controls(EXIT_TO_LONG_MODE | guest->exit_controls, MSR_TRUE_EXIT));
	write_field(ENTRY_CONTROLS, controls(ENTRY_TO_LONG_MODE | guest->entry_controls, MSR_TRUE_ENTRY));
	write_field(MSR_BITMAPS, (uintptr_t)msr_bitmaps);
	write_field(EXCEPTION_BITMAP, guest->exceptions);
	write_field(STORED_MSRS, (uintptr_t)guest->stored);
	write_field(STORED_MSRS_COUNT, guest->stored ? 1 : 0);
	write_field(CR3_TARGETS, 0);
	write_field(LINK_POINTER, UINT64_MAX);
	write_field(ENTRY_EVENT, guest->event);
	write_field(GUEST_DEBUGCTL, guest->debugctl);
	write_field(GUEST_GLOBAL_CONTROL, guest->global_control);
	write_field(HOST_GLOBAL_CONTROL, guest->host_global_control);
	prepare_segments(guest->cpl, task_base);
	prepare_tables();
	write_field(GUEST_INTERRUPTIBILITY, 0);
	write_field(GUEST_ACTIVITY, 0);
	write_field(GUEST_DR7, 0x400);
	write_field(GUEST_FLAGS, guest->flags);
	write_field(GUEST_RSP, (uintptr_t)(guest_stack + sizeof(guest_stack)));
	write_field(VMCS_GUEST_RIP, (uintptr_t)guest->start);
	write_field(GUEST_CR0, READ_CR(0));
	write_field(GUEST_CR3, READ_CR(3));
	write_field(GUEST_CR4, READ_CR(4));
	write_field(HOST_CR0, READ_CR(0));
	write_field(HOST_CR3, READ_CR(3));
	write_field(HOST_CR4, READ_CR(4));
	write_field(HOST_RIP, (uintptr_t)guest_exited);
}
