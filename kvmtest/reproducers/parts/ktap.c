#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

static const char * const claims[] = {
@CLAIMS@
};

static unsigned int told, failed;

static void tell(int holds)
{
	printf("%sok %u %s\n", holds ? "" : "not ", told + 1, claims[told]);
	told++;
	failed += !holds;
}

/* End; claims that were not told are skipped. */
static void skip(const char *what, const char *why)
{
	for (; told < ARRAY_SIZE(claims); told++)
		printf("ok %u %s # SKIP %s: %s\n", told + 1, claims[told], what, why);
	exit(failed ? @KSFT_FAIL@ : @KSFT_SKIP@);
}

static int check(const char *what, int result)
{
	if (result < 0)
		skip(what, strerror(errno));
	return result;
}
