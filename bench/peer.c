/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The measure of kvmtest's speed: the same guest driven by bare ioctls, without deadline, stop flag,
 * stamps or typed exits. bench/run.py writes one request a line, and reads nanoseconds:
 *
 *     exits N      N doorbells of one long-lived guest, by KVM_RUN alone
 *     create       from KVM_CREATE_VM to the guest's first exit; the VM is then closed
 *
 * usage: peer IMAGE ADDRESS START  (the flat image of the real-mode guest)
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "clock.h"
#include "layout.h"
#include "mailbox.h"

static char image[65536];
static size_t image_size;
static uint64_t image_address, start;
static int system_fd;
static int run_size;

struct guest {
	int vm, vcpu;
	void *memory;
	struct kvm_run *run;
};

static int checked(const char *what, int result)
{
	if (result < 0)
		err(1, "%s", what);
	return result;
}

static void *map(size_t size, int flags, int fd)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);

	if (memory == MAP_FAILED)
		err(1, "mmap");
	return memory;
}

static void enter_real_mode(struct guest *guest)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	checked("KVM_GET_SREGS", ioctl(guest->vcpu, KVM_GET_SREGS, &sregs));
	sregs.cs.base = sregs.cs.selector = 0; /* the others are 0 since reset */
	checked("KVM_SET_SREGS", ioctl(guest->vcpu, KVM_SET_SREGS, &sregs));
	checked("KVM_GET_REGS", ioctl(guest->vcpu, KVM_GET_REGS, &regs));
	regs.rip = start;
	regs.rsp = GUEST_STACK;
	regs.rflags = 0x202;
	checked("KVM_SET_REGS", ioctl(guest->vcpu, KVM_SET_REGS, &regs));
}

/* The next KVM_RUN must end in an OUT to port. */
static void run(struct guest *guest, uint16_t port)
{
	checked("KVM_RUN", ioctl(guest->vcpu, KVM_RUN, 0));
	if (guest->run->exit_reason != KVM_EXIT_IO || guest->run->io.port != port)
		errx(1, "exit %u", guest->run->exit_reason);
}

static struct guest create(void)
{
	struct guest guest;
	struct kvm_userspace_memory_region region = {.memory_size = GUEST_MEMORY_SIZE};

	guest.vm = checked("KVM_CREATE_VM", ioctl(system_fd, KVM_CREATE_VM, 0));
	guest.memory = map(GUEST_MEMORY_SIZE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	region.userspace_addr = (uintptr_t)guest.memory;
	checked("KVM_SET_USER_MEMORY_REGION",
		ioctl(guest.vm, KVM_SET_USER_MEMORY_REGION, &region));
	guest.vcpu = checked("KVM_CREATE_VCPU", ioctl(guest.vm, KVM_CREATE_VCPU, 0));
	guest.run = map(run_size, MAP_SHARED, guest.vcpu);
	memcpy((char *)guest.memory + image_address, image, image_size);
	enter_real_mode(&guest);
	run(&guest, MAILBOX_DONE_PORT);
	return guest;
}

static void destroy(struct guest *guest)
{
	munmap(guest->run, run_size);
	close(guest->vcpu);
	close(guest->vm);
	munmap(guest->memory, GUEST_MEMORY_SIZE);
}

static int64_t time_exits(struct guest *guest, uint64_t count)
{
	int64_t begin = clock_now();

	for (uint64_t at = 0; at < count; at++)
		run(guest, MAILBOX_DOORBELL_PORT);
	return clock_now() - begin;
}

static int64_t time_create(void)
{
	int64_t begin = clock_now(), end;
	struct guest guest = create();

	end = clock_now();
	destroy(&guest);
	return end - begin;
}

static void ring_for_ever(struct guest *guest)
{
	struct mailbox *mailbox = (void *)((char *)guest->memory + GUEST_MAILBOX);

	mailbox->command[0].argument[0] = UINT32_MAX;
}

int main(int argc, char **argv)
{
	struct guest guest;
	unsigned long long count;
	char line[64];
	FILE *file;

	if (argc != 4)
		errx(2, "usage: peer IMAGE ADDRESS START");
	image_address = strtoull(argv[2], NULL, 0);
	start = strtoull(argv[3], NULL, 0);
	file = fopen(argv[1], "rb");
	if (!file)
		err(1, "%s", argv[1]);
	image_size = fread(image, 1, sizeof(image), file);
	fclose(file);
	system_fd = checked("/dev/kvm", open("/dev/kvm", O_RDWR | O_CLOEXEC));
	run_size = checked("KVM_GET_VCPU_MMAP_SIZE", ioctl(system_fd, KVM_GET_VCPU_MMAP_SIZE, 0));
	guest = create();
	ring_for_ever(&guest);
	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "exits %llu", &count) == 1)
			printf("%lld\n", (long long)time_exits(&guest, count));
		else
			printf("%lld\n", (long long)time_create());
		fflush(stdout);
	}
	destroy(&guest);
	return 0;
}
