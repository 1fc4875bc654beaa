/* Fields of struct vmcs12 in the kernel, whose layout never changes; the others are 0. */
static const struct field {
	__u16 offset, size;
	__u64 value;
} fields[] = {
@FIELDS@
};

/* Fields of controls: what L2 needs, and the MSR that says what else must be set. */
static const struct controls {
	__u16 offset, msr;
	__u32 needed;
} controls[] = {
@CONTROLS@
};

/* What KVM_SET_NESTED_STATE takes: a head of 128 bytes, and struct vmcs12. */
union state {
	struct kvm_nested_state head;
	unsigned char bytes[sizeof(struct kvm_nested_state) + 4096];
};

static __u64 msr(struct guest *guest, unsigned long request, __u32 index, __u64 value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msrs = { { .nmsrs = 1 }, { .index = index, .data = value } };

	if (ioctl(guest->vcpu, request, &msrs) != 1)
		skip("guests have no VMX", "modprobe kvm_intel nested=1");
	return msrs.entry.data;
}

static void *vmcs12(union state *state, __u16 offset)
{
	return state->bytes + sizeof(state->head) + offset;
}

/* Make a guest on a vCPU with VMX, and the state of an L2 that it is entering. */
static void create_l1(struct guest *guest, union state *l2)
{
	create_guest(guest, 0);
	msr(guest, KVM_SET_MSRS, @IA32_FEATURE_CONTROL@, @VMX_ALLOWED@);
	guest->reset.cr4 |= @CR4_VMXE@;
	set_long_mode(guest);
	memset(l2, 0, sizeof(*l2));
	l2->head.flags = KVM_STATE_NESTED_GUEST_MODE | KVM_STATE_NESTED_RUN_PENDING;
	l2->head.format = KVM_STATE_NESTED_FORMAT_VMX;
	l2->head.size = sizeof(*l2);
	l2->head.hdr.vmx.vmxon_pa = @VMXON@;
	l2->head.hdr.vmx.vmcs12_pa = @VMCS12@;
	for (unsigned int i = 0; i < ARRAY_SIZE(fields); i++)
		memcpy(vmcs12(l2, fields[i].offset), &fields[i].value, fields[i].size);
	for (unsigned int i = 0; i < ARRAY_SIZE(controls); i++) {
		__u32 value = msr(guest, KVM_GET_MSRS, controls[i].msr, 0) | controls[i].needed;

		memcpy(vmcs12(l2, controls[i].offset), &value, sizeof(value));
	}
}

/* Enter the L2 of a state; return whether KVM takes the state. */
static int enter_l2(struct guest *guest, union state *l2)
{
	union state now = { .head.size = sizeof(now) };

	if (ioctl(guest->vcpu, KVM_SET_NESTED_STATE, l2)) {
		printf("# KVM_SET_NESTED_STATE: %s\n", strerror(errno));
		return 0;
	}
	if (run(guest) != KVM_EXIT_IO)
		skip("L2", "does not run");
	kvm(guest->vcpu, KVM_GET_NESTED_STATE, &now);
	if (!(now.head.flags & KVM_STATE_NESTED_GUEST_MODE))
		skip("L2", "is L1");
	return 1;
}
