#define GDT @GDT@
#define IDT @IDT@
#define HANDLER @HANDLER@
#define MOV_DR (HANDLER + @MOV_DR@)
#define VECTOR 0x20
#define GUEST_DR6 @GUEST_DR6@ /* BS, B1, B0: not the host's */

@CODE:read_dr6@

/* Have the guest take an interrupt through a trap gate, which leaves interrupts enabled. */
static void prepare(struct guest *guest)
{
	struct kvm_debugregs debug = { .dr6 = GUEST_DR6, .dr7 = @DR7@ };

	create_guest(guest, 24);
	kvm(guest->vcpu, KVM_SET_DEBUGREGS, &debug);
	memcpy(guest->memory + HANDLER, read_dr6, sizeof(read_dr6));
	*(__u64 *)(guest->memory + GDT + 8) = 0x00af9b000000ffff;
	*(__u64 *)(guest->memory + IDT + VECTOR * 16) = 0x00008f0000080000 | HANDLER;
	guest->reset.gdt.base = GDT;
	guest->reset.gdt.limit = 15;
	guest->reset.idt.base = IDT;
	guest->reset.idt.limit = (VECTOR + 1) * 16 - 1;
}

/*
 * Stop the vCPU at its MOV from DR6, after that has exited to KVM. KVM has dropped the intercept
 * and would enter the guest again with its debug registers (KVM_DEBUGREG_WONT_EXIT), but an
 * interrupt window is open, and userspace waits for one.
 */
static void stop_at_mov_dr(struct guest *guest)
{
	struct kvm_interrupt interrupt = { VECTOR };
	struct kvm_regs regs = {};
	__u32 reason = 0;

	/* A host interrupt may stop it elsewhere. */
	for (int tries = 0; tries < 100 && regs.rip != MOV_DR; tries++) {
		set_long_mode(guest);
		kvm(guest->vcpu, KVM_INTERRUPT, &interrupt);
		guest->run->request_interrupt_window = 1;
		reason = run(guest);
		guest->run->request_interrupt_window = 0;
		kvm(guest->vcpu, KVM_GET_REGS, &regs);
	}
	if (reason != KVM_EXIT_IRQ_WINDOW_OPEN || regs.rip != MOV_DR)
		skip("control", "the guest does not stop at MOV DR");
}

static __u64 dr6(struct guest *guest, const char *when)
{
	struct kvm_debugregs debug;

	kvm(guest->vcpu, KVM_GET_DEBUGREGS, &debug);
	printf("# DR6 is 0x%llx %s\n", debug.dr6, when);
	return debug.dr6;
}

int main(void)
{
	struct kvm_regs regs;
	struct guest guest;

	setlinebuf(stdout);
	printf("KTAP version 1\n1..%zu\n", ARRAY_SIZE(claims));
	require_emulation();
	prepare(&guest);
	emulate(&guest);
	if (dr6(&guest, "after emulation alone") != GUEST_DR6)
		skip("control", "DR6 is another");
	stop_at_mov_dr(&guest);
	run(&guest);
	kvm(guest.vcpu, KVM_GET_REGS, &regs);
	if (dr6(&guest, "after the guest read it") != GUEST_DR6 || regs.rax != GUEST_DR6)
		skip("control", "the guest reads another DR6");

	stop_at_mov_dr(&guest);
	if (dr6(&guest, "as MOV from DR6 has exited") != GUEST_DR6)
		skip("control", "DR6 is another");
	emulate(&guest);
	tell(dr6(&guest, "after emulation that followed") == GUEST_DR6);
	return failed ? @KSFT_FAIL@ : @KSFT_PASS@;
}
