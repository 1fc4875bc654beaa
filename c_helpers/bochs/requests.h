/* SPDX-License-Identifier: GPL-2.0-only */
/* What software in the machine and the emulator agree on: ports that no device has. */
#ifndef KVMTEST_BOCHS_REQUESTS_H
#define KVMTEST_BOCHS_REQUESTS_H

#define REQUEST_PORT      0x4b5
#define REQUEST_STOP      0x01
#define REQUEST_SEND      0x02
#define REQUEST_ANSWER    0x4b /* which a read gives: others give 0xff */

#define REQUEST_DATA_PORT 0x4b6
#define REQUEST_SEND_MOST 0x10000 /* bytes before each REQUEST_SEND */

#endif
