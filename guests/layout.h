/* SPDX-License-Identifier: GPL-2.0-only */
/* Where things are in a guest's physical memory; read by the guests, the linker scripts and the host. */
#ifndef KVMTEST_LAYOUT_H
#define KVMTEST_LAYOUT_H

#define GUEST_IVT            0x00000    /* real mode's interrupt vector table */
#define GUEST_MAILBOX        0x01000    /* struct mailbox */
#define GUEST_PML4           0x02000
#define GUEST_PDPT           0x03000
#define GUEST_PAGE_DIRECTORY 0x04000    /* 2 MiB pages, identity-mapped */
#define GUEST_FAULT_STACK    0x07000    /* top; for exceptions (IST 1), whatever became of the other stack */
#define GUEST_STACK          0x08000    /* top */
#define GUEST_IMAGE          0x08000    /* images are linked here; below 64 KiB, for real mode */
#define GUEST_IDT            0x10000
#define GUEST_GAP_LOG        0x11000    /* struct guest_gap[GUEST_GAP_CAPACITY] */
#define GUEST_GAP_CAPACITY   3840
#define GUEST_VMXON          0x20000    /* a page each, for an L1 with VMX */
#define GUEST_VMCS12         0x21000
#define GUEST_VIRTUAL_APIC   0x22000
#define GUEST_L2_MAILBOX     0x23000    /* struct mailbox, of the L2 below an L1 with code */
#define GUEST_MSR_BITMAP     0x24000    /* all 0: L2's RDMSR and WRMSR do not exit to L1 */
#define GUEST_MEMORY_SIZE    0x200000

#define GUEST_TD_MEMORY_SIZE 0x20000    /* of a TD, to the end of the log of gaps */
#define GUEST_TD_RESET_PAGE  0xfffff000
#define GUEST_TD_RESET       0xfffffff0 /* a TD's first instruction */

#define GUEST_CODE_SELECTOR  0x08
#define GUEST_DATA_SELECTOR  0x10
#define GUEST_TSS_SELECTOR   0x18

#endif
