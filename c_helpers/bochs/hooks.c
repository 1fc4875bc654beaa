/* SPDX-License-Identifier: GPL-2.0-only */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hooks.h"

/* "jmp *(rip)", and where to */
struct jump {
	uint8_t code[6];
	void *target;
} __attribute__((packed));

#define JUMP(to) { { 0xff, 0x25, 0, 0, 0, 0 }, (to) }

#define LEA_SIZE 7

/* "mov rsi, VALUE" */
struct constant {
	uint8_t code[2];
	uint64_t value;
} __attribute__((packed));

void hook_refuse(const char *what)
{
	fprintf(stderr, "bochs: the emulator can't be extended: %s\n", what);
	_exit(FAILED);
}

void *hook_symbol(const char *name)
{
	void *found = dlsym(RTLD_DEFAULT, name);

	if (!found)
		hook_refuse(name);
	return found;
}

static uint8_t *append(uint8_t *to, const void *bytes, size_t size)
{
	memcpy(to, bytes, size);
	return to + size;
}

/* Write the first instructions of a function, moved, and the jump to the others; return the end. */
static uint8_t *write_moved(uint8_t *to, uint8_t *function, size_t size, int lea)
{
	struct jump back = JUMP(function + size);
	size_t before = lea == NO_LEA ? size : (size_t)lea, after = before;

	to = append(to, function, before);
	if (lea != NO_LEA) {
		struct constant moved = { { 0x48, 0xbe }, 0 };
		int32_t distance;

		memcpy(&distance, function + lea + 3, sizeof(distance));
		after += LEA_SIZE;
		moved.value = (uintptr_t)function + after + distance;
		to = append(to, &moved, sizeof(moved));
	}
	to = append(to, function + after, size - after);
	return append(to, &back, sizeof(back));
}

void *hook_function(const char *name, const uint8_t *bytes, size_t size, int lea, void *ours)
{
	static uint8_t *moved, *end;
	uint8_t *function = hook_symbol(name), *kept;
	struct jump jump = JUMP(ours);
	size_t page = sysconf(_SC_PAGESIZE);

	if (size < sizeof(jump) || memcmp(function, bytes, size))
		hook_refuse(name);
	if (!moved) {
		moved = end = mmap(NULL, page, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (moved == MAP_FAILED)
			hook_refuse("no memory");
	}
	kept = end;
	mprotect(moved, page, PROT_READ | PROT_WRITE | PROT_EXEC);
	end = write_moved(kept, function, size, lea);
	mprotect(moved, page, PROT_READ | PROT_EXEC);
	bochs_overwrite(function, &jump, sizeof(jump), PROT_READ | PROT_EXEC);
	return kept;
}

void *hook_word(const char *table, size_t words, const char *name, void *ours)
{
	void **word = hook_symbol(table), *function = hook_symbol(name), **found = NULL;

	for (size_t i = 0; i < words; i++, word++) {
		if (*word != function)
			continue;
		if (found)
			hook_refuse(name);
		found = word;
	}
	if (!found)
		hook_refuse(name);
	bochs_overwrite(found, &ours, sizeof(ours), PROT_READ | PROT_WRITE);
	return function;
}
