/* SPDX-License-Identifier: GPL-2.0-only */
/* All that Python sees of the native side; build.py reads this header, preprocessed. */
#ifndef KVMTEST_NATIVE_H
#define KVMTEST_NATIVE_H

#include <sys/ioctl.h>

#include "clock.h"
#include "kvm_abi.h"
#include "layout.h"
#include "mailbox.h"
#include "run_loop.h"
#include "toggler.h"

#endif
