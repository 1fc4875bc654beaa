/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The registers: I/O ports that carry commands and results, for a guest whose memory the host does
 * not see. Every access is of 32 bits and an exit of its own. A TD, which reaches ports by TDVMCALL,
 * can use them too.
 */
#ifndef KVMTEST_REGISTERS_H
#define KVMTEST_REGISTERS_H

#include "commands.h"

#define REGISTERS_HELLO_PORT   0x1c4        /* OUT: GUEST_MAGIC, once the guest has come up */
#define REGISTERS_LEFT_PORT    0x1c8        /* IN: how many commands have no result yet */

/*
 * A byte of the structure is a port. The guest reads the first command that has no result yet; an
 * OUT to its result's status, the last, makes it have one. An exception outside commands goes to
 * vector, error and rip of the result.
 */
#define REGISTERS_COMMAND_PORT 0x200        /* IN: struct guest_command */
#define REGISTERS_RESULT_PORT  0x240        /* OUT: struct guest_result */

/*
 * Instructions that the guest retires from the resume after one GUEST_DONE_PORT to the OUT of the
 * next, as in mailbox.h. No IN or OUT is among them: each exits before it retires.
 */
#define REGISTERS_LOOP_OVERHEAD  45
#define REGISTERS_WATCH_OVERHEAD 59

#endif
