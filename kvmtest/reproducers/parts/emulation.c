static void require_emulation(void)
{
	if (held("@UNRESTRICTED@") != 'N')
		skip("KVM emulates nothing", "@MODPROBE@");
}

/*
 * Run the vCPU in real mode, with a code segment whose base is not that of its selector, as at the
 * reset vector: vm86 mode can't run it. KVM emulates; vmx_vcpu_run() returns without an entry.
 */
static void emulate(struct guest *guest)
{
	struct kvm_sregs sregs = guest->reset;

	sregs.cs.base = CODE;
	set_registers(guest, &sregs, 0);
	if (run(guest) != KVM_EXIT_IO)
		skip("emulation", "no KVM_EXIT_IO");
}
