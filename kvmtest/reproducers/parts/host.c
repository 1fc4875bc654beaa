#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

#define FREEZE_WHILE_SMM @FREEZE_WHILE_SMM@ /* in IA32_DEBUGCTL, MSR @IA32_DEBUGCTL@ */
#define DUMPS "@DUMPS@"

static const char *knob = "@KNOB@";
static int guardian, lifeline, msr;

static int put(const char *path, char value)
{
	int file = open(path, O_WRONLY), done = write(file, &value, 1);

	close(file);
	return done;
}

static void end_guardian(void)
{
	close(lifeline);
	waitpid(guardian, NULL, 0);
}

/* Stay on one CPU; start a process that undoes the changes once this one ends, in any way. */
static void open_host(void)
{
	int cpu = sched_getcpu(), ends[2];
	char path[64], held_knob, held_dumps;
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	check("sched_setaffinity", sched_setaffinity(0, sizeof(one), &one));
	snprintf(path, sizeof(path), "/dev/cpu/%d/msr", cpu);
	msr = check("needs modprobe msr", open(path, O_RDONLY));
	if (access(knob, F_OK))
		knob = "@CORE_KNOB@";
	held_knob = held(knob);
	held_dumps = held(DUMPS);
	check("pipe", pipe(ends));
	guardian = check("fork", fork());
	if (guardian) {
		lifeline = ends[1];
		atexit(end_guardian);
		check(DUMPS, put(DUMPS, 'Y'));
		return;
	}
	setsid();
	signal(SIGTERM, SIG_IGN);
	close(ends[1]);
	if (read(ends[0], path, 1) || put(knob, held_knob) < 0 || put(DUMPS, held_dumps) < 0)
		printf("# can't write %c to %s, %c to %s\n", held_knob, knob, held_dumps, DUMPS);
	_exit(0);
}

static void set_knob(int value)
{
	__u64 debugctl;

	check(knob, put(knob, '0' + value));
	check("MSR", pread(msr, &debugctl, sizeof(debugctl), @IA32_DEBUGCTL@));
	if (!!(debugctl & FREEZE_WHILE_SMM) != value)
		skip(knob, "bit 14 of MSR @IA32_DEBUGCTL@ does not follow");
}
