/* SPDX-License-Identifier: GPL-2.0-only */
/* Everything that Python sees of the native side; build.py reads this header preprocessed. */
#ifndef KVMTEST_NATIVE_H
#define KVMTEST_NATIVE_H

#include <asm/vmx.h>
#include <linux/perf_event.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"
#include "kvm_abi.h"
#include "layout.h"
#include "mailbox.h"
#include "registers.h"
#include "run_loop.h"
#include "toggler.h"
#include "vmcs12.h"
#include "vmx.h"

/* ioctl with fixed arguments, which cffi calls directly; variadic calls are slower, by libffi. */
static inline int kvm_ioctl(int fd, unsigned long request, void *argument)
{
	return ioctl(fd, request, argument);
}

/* The memory of a descriptor, or fresh memory where fd is negative; NULL and errno on failure. */
static inline void *kvm_mmap(int fd, size_t size)
{
	int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
	void *address = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);

	return address == MAP_FAILED ? NULL : address;
}

static inline int kvm_munmap(void *address, size_t size)
{
	return munmap(address, size);
}

/* perf_event_open(2), which has no function in the C library. */
static inline int perf_open(struct perf_event_attr *attr, int thread, int cpu, int group)
{
	return syscall(SYS_perf_event_open, attr, thread, cpu, group, PERF_FLAG_FD_CLOEXEC);
}

#endif
