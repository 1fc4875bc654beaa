/* SPDX-License-Identifier: GPL-2.0-only */
/* Where the parts of a flat bzImage are; read by flat_kernel.S, flat_kernel.ld and nobody else. */
#ifndef KVMTEST_FLAT_KERNEL_H
#define KVMTEST_FLAT_KERNEL_H

#define FLAT_BASE            0x100000   /* where a boot loader puts the protected-mode part */
#define FLAT_STACK           0x101000   /* top */
#define FLAT_PML4            0x101000
#define FLAT_PDPT            0x102000
#define FLAT_PAGE_DIRECTORY  0x103000   /* four of them: 4 GiB in 2 MiB pages, identity-mapped */
#define FLAT_IMAGE           0x107000   /* the kernel's bytes, as they follow in the file */

#define FLAT_CODE64_SELECTOR 0x10       /* __BOOT_CS and __BOOT_DS (arch/x86/include/asm/segment.h) */
#define FLAT_DATA_SELECTOR   0x18

#endif
