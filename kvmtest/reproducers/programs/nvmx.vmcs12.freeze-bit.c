#define QUIRK @QUIRK@ /* KVM_X86_QUIRK_VMCS12_ALLOW_FREEZE_IN_SMM */

int main(void)
{
	struct kvm_enable_cap disable = {
		.cap = KVM_CAP_DISABLE_QUIRKS2, .args = { QUIRK },
	};
	__u64 freeze = @FREEZE_WHILE_SMM@;
	union state l2, frozen;
	struct guest guest;

	setlinebuf(stdout);
	printf("KTAP version 1\n1..%zu\n", ARRAY_SIZE(claims));
	create_l1(&guest, &l2);
	frozen = l2;
	memcpy(vmcs12(&frozen, @GUEST_IA32_DEBUGCTL@), &freeze, sizeof(freeze));
	if (!enter_l2(&guest, &l2))
		skip("control", "KVM takes no vmcs12 at all, with DEBUGCTL 0 either");
	if (!(kvm(guest.vm, KVM_CHECK_EXTENSION, KVM_CAP_DISABLE_QUIRKS2) & QUIRK))
		skip("KVM has no such quirk", "see bit-14-in-vmcs12-refused");
	tell(enter_l2(&guest, &frozen));

	kvm(guest.vm, KVM_ENABLE_CAP, &disable);
	if (!enter_l2(&guest, &l2))
		skip("control", "without the quirk KVM takes no vmcs12 at all");
	tell(!enter_l2(&guest, &frozen));
	return failed ? @KSFT_FAIL@ : @KSFT_PASS@;
}
