/* SPDX-License-Identifier: GPL-2.0-only */
/* The emulator's own headers, which are not held to this project's warnings. */
#ifndef KVMTEST_BOCHS_EMULATOR_H
#define KVMTEST_BOCHS_EMULATOR_H

#define NEED_CPU_REG_SHORTCUTS 1
#define LOG_THIS genlog->
#include "bochs.h"
#include "cpu/cpu.h"
#include "cpu/cpuid.h"
#include "gui/siminterface.h"
#include "memory/memory-bochs.h"
#include "pc_system.h"

#endif
