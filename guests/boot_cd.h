/* SPDX-License-Identifier: GPL-2.0-only */
/* What the boot CD's loader and kvmtest/lab/image/disk.py agree on, and where the loader works. */
#ifndef KVMTEST_BOOT_CD_H
#define KVMTEST_BOOT_CD_H

#define BOOT_CD_BASE      0x7c00	/* where a BIOS puts the loader, whose size is one sector */
#define BOOT_CD_SECTOR    2048
#define BOOT_CD_LOADS     3		/* parts of the disk that are loaded */
#define BOOT_CD_BUFFER    0x20000	/* what was read last */
#define BOOT_CD_CHUNK     16		/* sectors read at once: half a segment */
#define BOOT_CD_SETUP     0x9000	/* the segment of the kernel's real-mode code */
#define BOOT_CD_STACK     0xe000	/* its stack in that segment, as low as its heap ends */

#define COM1              0x3f8

#endif
