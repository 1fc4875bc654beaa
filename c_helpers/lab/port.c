/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The machine's end of the lab's channels, as a static program: it runs inside the emulated machine,
 * where no driver knows of them, as root.
 *
 *     port breakpoint    stop the machine until the emulator is told to go on from there
 *     port end           end the machine
 *     port receive       copy the payload drive to standard output
 *     port send          copy standard input to the parallel port, or to what stands for it
 *
 * The payload drive is a CD drive, master of the second ATA channel, read by PIO (ATAPI, SFF-8020i):
 * a restored machine finds there what was not there when it was saved, and no driver's cache is in
 * the way. Its first sector is a header: the text of PAYLOAD_MAGIC, then the payload's length in
 * bytes as a 64-bit little-endian number. The payload begins in the second sector.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/io.h>
#include <unistd.h>

#include "../bochs/requests.h"

#define SECTOR        2048
#define PAYLOAD_MAGIC "KVMTEST1"

/* The second ATA channel's registers, and bits of its status. */
#define ATA           0x170
#define ATA_DATA      (ATA + 0)
#define ATA_FEATURES  (ATA + 1)
#define ATA_ERROR     (ATA + 1)
#define ATA_REASON    (ATA + 2)
#define ATA_BYTES_LOW (ATA + 4)
#define ATA_BYTES_HI  (ATA + 5)
#define ATA_DEVICE    (ATA + 6)
#define ATA_STATUS    (ATA + 7)
#define ATA_COMMAND   (ATA + 7)
#define ATA_CONTROL   0x376
#define STATUS_ERROR  0x01
#define STATUS_DATA   0x08
#define STATUS_BUSY   0x80
#define NO_INTERRUPT  0x0a
#define PACKET        0xa0
#define READ_10       0x28

/* Far beyond what the emulated drive takes for anything. */
#define POLLS         20000000L
#define ATTEMPTS      5

/* The parallel port: a byte on the data lines, and a pulse on the strobe line. */
#define LPT_DATA      0x378
#define LPT_CONTROL   0x37a
#define LPT_STROBE    0x0d
#define LPT_READY     0x0c

/* QEMU's pvpanic device (docs/specs/pvpanic.txt), whose bit 0 stops the machine. No other has it. */
#define PVPANIC       0x505
#define PVPANIC_STOP  0x01

/* Bochs ends when this text has been written here (iodev/unmapped.cc). No other has the port. */
#define SHUTDOWN      0x8900
#define SHUTDOWN_TEXT "Shutdown"

/* Not outsb(), outsw() and insw() of sys/io.h, which do not tell the compiler that they touch memory. */
static void write_bytes(uint16_t port, const void *data, size_t count)
{
	__asm__ volatile("rep outsb" : "+S"(data), "+c"(count) : "d"(port) : "memory");
}

static void write_words(uint16_t port, const void *data, size_t count)
{
	__asm__ volatile("rep outsw" : "+S"(data), "+c"(count) : "d"(port) : "memory");
}

static void read_words(uint16_t port, void *data, size_t count)
{
	__asm__ volatile("rep insw" : "+D"(data), "+c"(count) : "d"(port) : "memory");
}

static int fail(const char *what)
{
	fprintf(stderr, "port: %s\n", what);
	return 1;
}

static int fail_drive(const char *what)
{
	fprintf(stderr, "port: %s (status %#x, error %#x, reason %#x)\n", what, inb(ATA_STATUS),
		inb(ATA_ERROR), inb(ATA_REASON));
	return 1;
}

/* Wait until the drive's status, under the mask, is what is wanted; 0 for success. */
static int await(unsigned mask, unsigned wanted)
{
	for (long poll = 0; poll < POLLS; poll++) {
		unsigned status = inb(ATA_STATUS);

		if ((status & mask) == wanted)
			return 0;
		if ((status & (STATUS_BUSY | STATUS_ERROR)) == STATUS_ERROR)
			return 1;
	}
	return 1;
}

static int read_sector(uint32_t number, uint16_t sector[SECTOR / 2])
{
	uint8_t packet[12] = { READ_10, 0, number >> 24, number >> 16, number >> 8, number, 0, 0, 1 };

	outb(NO_INTERRUPT, ATA_CONTROL);
	outb(0xa0, ATA_DEVICE);
	if (await(STATUS_BUSY | STATUS_DATA, 0))
		return 1;
	outb(0, ATA_FEATURES);
	outb(SECTOR & 0xff, ATA_BYTES_LOW);
	outb(SECTOR >> 8, ATA_BYTES_HI);
	outb(PACKET, ATA_COMMAND);
	if (await(STATUS_BUSY | STATUS_DATA, STATUS_DATA))
		return 1;
	write_words(ATA_DATA, packet, sizeof(packet) / 2);
	if (await(STATUS_BUSY | STATUS_DATA, STATUS_DATA))
		return 1;
	read_words(ATA_DATA, sector, SECTOR / 2);
	return await(STATUS_BUSY | STATUS_DATA, 0);
}

/* The first command after the medium was changed fails by design (UNIT ATTENTION). */
static int read_patiently(uint32_t number, uint16_t sector[SECTOR / 2])
{
	for (int attempt = 0; attempt < ATTEMPTS; attempt++)
		if (!read_sector(number, sector))
			return 0;
	return 1;
}

static int write_all(const void *data, size_t size)
{
	while (size) {
		ssize_t written = write(STDOUT_FILENO, data, size);

		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			return 1;
		data = (const char *)data + written;
		size -= (size_t)written;
	}
	return 0;
}

static int receive(void)
{
	uint16_t sector[SECTOR / 2] = { 0 };
	uint64_t left;

	if (read_patiently(0, sector))
		return fail_drive("the payload drive does not answer");
	if (memcmp(sector, PAYLOAD_MAGIC, strlen(PAYLOAD_MAGIC)))
		return fail("the payload drive holds no payload");
	memcpy(&left, (const char *)sector + strlen(PAYLOAD_MAGIC), sizeof(left));
	for (uint32_t number = 1; left; number++) {
		size_t part = left < SECTOR ? (size_t)left : SECTOR;

		if (read_patiently(number, sector))
			return fail_drive("the payload ends too early");
		if (write_all(sector, part))
			return fail("nobody takes the payload");
		left -= part;
	}
	return 0;
}

/* The lab's own Bochs takes many bytes at a time: a tenth of a run's time went into the parallel port. */
static void send_by_request(const uint8_t *data, size_t size)
{
	write_bytes(REQUEST_DATA_PORT, data, size);
	outb(REQUEST_SEND, REQUEST_PORT);
}

static void send_by_parallel_port(const uint8_t *data, size_t size)
{
	for (size_t at = 0; at < size; at++) {
		outb(data[at], LPT_DATA);
		outb(LPT_STROBE, LPT_CONTROL);
		outb(LPT_READY, LPT_CONTROL);
	}
}

static int send(void)
{
	static uint8_t data[REQUEST_SEND_MOST];
	int takes_requests = inb(REQUEST_PORT) == REQUEST_ANSWER;

	for (;;) {
		ssize_t size = read(STDIN_FILENO, data, sizeof(data));

		if (size < 0 && errno == EINTR)
			continue;
		if (size <= 0)
			return size < 0;
		(takes_requests ? send_by_request : send_by_parallel_port)(data, (size_t)size);
	}
}

static int stop(void)
{
	/* The lab's Bochs and QEMU stop at a port, a Bochs with debugger at the instruction; none knows another's. */
	outb(REQUEST_STOP, REQUEST_PORT);
	outb(PVPANIC_STOP, PVPANIC);
	__asm__ volatile("xchg %%bx, %%bx" ::: "memory");
	return 0;
}

static int end_machine(void)
{
	/* The lab's Bochs and QEMU end a machine at its last breakpoint. */
	stop();
	for (const char *at = SHUTDOWN_TEXT; *at; at++)
		outb(*at, SHUTDOWN);
	return 0;
}

static const struct verb {
	const char *name;
	int (*perform)(void);
} verbs[] = { { "breakpoint", stop }, { "end", end_machine }, { "receive", receive }, { "send", send } };

int main(int argc, char **argv)
{
	const struct verb *verb = verbs, *behind = verbs + sizeof(verbs) / sizeof(*verbs);

	while (verb < behind && (argc != 2 || strcmp(argv[1], verb->name)))
		verb++;
	if (verb == behind)
		return fail("usage: port breakpoint | end | receive | send");
	if (iopl(3))
		return fail("I/O ports may not be used; run it as root inside the lab's machine");
	return verb->perform();
}
