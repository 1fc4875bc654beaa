/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The measure of kvmtest's speed: the same guest driven by bare ioctls, without deadline, stop flag,
 * stamps or typed exits. bench/run.py writes one request a line, and reads nanoseconds:
 *
 *     exits N P        N doorbells of one long-lived guest, by KVM_RUN alone; after each, P pages
 *                      are touched, every other one by a call into it
 *     create           from KVM_CREATE_VM to the guest's first exit; the VM is then closed
 *     toggles N PATH   N writes of "0" and "1" in turn to the file PATH
 *
 * usage: peer IMAGE ADDRESS START  (the flat image of the real-mode guest)
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
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

#define PAGE 4096
#define MOST_PAGES 1024
#define RET 0xc3
static unsigned char *pages; /* every other one is code: a RET on a line of its own */

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
	run(&guest, GUEST_DONE_PORT);
	return guest;
}

static void destroy(struct guest *guest)
{
	munmap(guest->run, run_size);
	close(guest->vcpu);
	close(guest->vm);
	munmap(guest->memory, GUEST_MEMORY_SIZE);
}

/* A page's line differs from its neighbours', so that they do not share the sets of a cache. */
static unsigned char *line_of(uint64_t page)
{
	return pages + page * PAGE + page * 64 % PAGE;
}

static void make_pages(void)
{
	pages = map(MOST_PAGES * PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	memset(pages, RET, MOST_PAGES * PAGE);
	checked("mprotect", mprotect(pages, MOST_PAGES * PAGE, PROT_READ | PROT_EXEC));
}

static void touch(uint64_t count)
{
	for (uint64_t at = 0; at < count; at++) {
		unsigned char *line = line_of(at);

		if (at & 1)
			((void (*)(void))(uintptr_t)line)();
		else
			(void)*(volatile unsigned char *)line;
	}
}

static int64_t time_exits(struct guest *guest, uint64_t count, uint64_t touched)
{
	int64_t begin = clock_now();

	for (uint64_t at = 0; at < count; at++) {
		run(guest, GUEST_DOORBELL_PORT);
		touch(touched);
	}
	return clock_now() - begin;
}

struct toggling {
	const char *path;
	uint64_t count;
	int64_t took;
};

static void *toggle(void *argument)
{
	struct toggling *toggling = argument;
	int fd = checked(toggling->path, open(toggling->path, O_WRONLY | O_CLOEXEC));
	int64_t begin = clock_now();

	for (uint64_t at = 0; at < toggling->count; at++)
		if (pwrite(fd, at & 1 ? "0" : "1", 1, 0) != 1)
			err(1, "%s", toggling->path);
	toggling->took = clock_now() - begin;
	close(fd);
	return NULL;
}

/* In a thread of its own: the kernel's work for a file is another where threads share it. */
static int64_t time_toggles(const char *path, uint64_t count)
{
	struct toggling toggling = {.path = path, .count = count};
	pthread_t thread;

	if (pthread_create(&thread, NULL, toggle, &toggling) || pthread_join(thread, NULL))
		errx(1, "no thread");
	return toggling.took;
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
	unsigned long long count, touched;
	char line[256], path[201];
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
	make_pages();
	guest = create();
	ring_for_ever(&guest);
	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "exits %llu %llu", &count, &touched) == 2 && touched <= MOST_PAGES)
			printf("%lld\n", (long long)time_exits(&guest, count, touched));
		else if (sscanf(line, "toggles %llu %200s", &count, path) == 2)
			printf("%lld\n", (long long)time_toggles(path, count));
		else
			printf("%lld\n", (long long)time_create());
		fflush(stdout);
	}
	destroy(&guest);
	return 0;
}
