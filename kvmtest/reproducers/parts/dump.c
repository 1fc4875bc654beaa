#include <poll.h>

/*
 * Return bit 14 of DebugCtl in the VMCS of the vCPU's next entry. The CPU refuses that entry, for a
 * non-canonical FS base, and KVM writes the VMCS to the kernel log. Then the guest runs on.
 */
static int bit_at_entry(struct guest *guest, const char *when)
{
	int log = check("/dev/kmsg", open("/dev/kmsg", O_RDONLY | O_NONBLOCK)), is_mine = 0;
	struct pollfd news = { .fd = log, .events = POLLIN };
	char record[8192], *field = NULL;
	struct kvm_sregs sregs;
	ssize_t size;

	lseek(log, 0, SEEK_END);
	set_long_mode(guest);
	kvm(guest->vcpu, KVM_GET_SREGS, &sregs);
	sregs.fs.base = 0x@FS_BASE@;
	kvm(guest->vcpu, KVM_SET_SREGS, &sregs);
	if (run(guest) != KVM_EXIT_FAIL_ENTRY ||
	    guest->run->fail_entry.hardware_entry_failure_reason != @INVALID_GUEST_STATE@)
		skip("FS base", "the CPU does not refuse the entry");
	while (!is_mine || !field) {
		size = poll(&news, 1, 2000) > 0 ? read(log, record, sizeof(record) - 1) : 0;
		if (size <= 0)
			skip("the kernel log", "has no dump of this VMCS");
		record[size] = 0;
		is_mine |= !!strstr(record, "base=0x@FS_BASE@");
		field = strstr(record, "DebugCtl = ");
	}
	close(log);
	set_long_mode(guest);
	if (run(guest) != KVM_EXIT_IO)
		skip("the guest", "does not run on");
	printf("# %.29s %s\n", field, when);
	return !!(strtoull(field + strlen("DebugCtl = "), NULL, 16) & FREEZE_WHILE_SMM);
}
