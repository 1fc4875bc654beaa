/* SPDX-License-Identifier: GPL-2.0-only */
/* Which build of Bochs this is, by its build ID, and how to write over what it does not let be written. */
#define _GNU_SOURCE
#include <link.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "build.h"

/* The build ID of Debian's 2.7+dfsg-4+deb12u1, amd64 */
static const unsigned char build[] = { 0x6e, 0x89, 0xe0, 0xc0, 0x7c, 0x09, 0x6a, 0xb3, 0x05, 0xb6,
				       0x8e, 0xb0, 0xbf, 0x69, 0xc4, 0xae, 0xb7, 0x88, 0xd1, 0x0d };

static int has_build_id(struct dl_phdr_info *program, size_t size, void *unused)
{
	(void)size;
	(void)unused;
	for (int i = 0; i < program->dlpi_phnum; i++) {
		const ElfW(Phdr) *part = &program->dlpi_phdr[i];
		const char *notes = (const char *)program->dlpi_addr + part->p_vaddr;

		if (part->p_type == PT_NOTE && memmem(notes, part->p_memsz, build, sizeof(build)))
			return 1;
	}
	return -1; /* The first is the program; its libraries do not matter. */
}

bool bochs_is_known(void)
{
	return dl_iterate_phdr(has_build_id, NULL) == 1;
}

void bochs_overwrite(void *place, const void *bytes, size_t size, int protection)
{
	uintptr_t page = (uintptr_t)place & -(uintptr_t)sysconf(_SC_PAGESIZE);
	size_t length = (uintptr_t)place + size - page;

	if (mprotect((void *)page, length, protection | PROT_WRITE)) {
		perror("bochs: the emulator can't be extended");
		_exit(FAILED);
	}
	memcpy(place, bytes, size);
	mprotect((void *)page, length, protection);
}
